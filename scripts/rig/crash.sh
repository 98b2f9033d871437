#!/bin/bash
# What ext4 was promised is there whenever power fails. The LUN is a device
# whose writes and flushes the kernel logs; each moment of the log is a disk that
# must recover and hold what a step before it made durable (internal/rig/crash).
# Then the same with targets that have a bug: they must be caught.
. ./lib.sh
CONFIG=crash.json ARENA=64M
SECTORS=131072 # 64 MiB
STEPS=32 MOMENTS=${RIG_MOMENTS:-12}
export DM_DISABLE_UDEV=1 # there is none: dmsetup makes the nodes

devices_up() {
    modprobe -a dm_log_writes loop && dmsetup create disk --table "0 $SECTORS linear /dev/vdc 0" &&
        dmsetup create log --table "0 1048576 linear /dev/vdc $SECTORS"
}
# log_begins keeps what the disk holds before; while no log is open none of it is cached.
log_begins() {
    dd if=/dev/mapper/disk of=/run/before bs=1M iflag=direct status=none &&
        dmsetup create logged --table "0 $SECTORS log-writes /dev/mapper/disk /dev/mapper/log"
}
log_ends() { until_true 20 dmsetup remove logged; } # the ring of a target that ended lets go of its files when it can
format() { mkfs.ext4 -q -F -b 4096 -J size=4 "$(disk)"; }

# work SEED STEPS: with writes beside them that nobody asks to be durable.
work() {
    local pid
    mount "$(disk)" /mnt || return
    fio --name=noise --filename=/mnt/noise --size=4m --rw=randwrite --bsrange=4k-32k --direct=1 --ioengine=psync --rate_iops=20 \
        --time_based --runtime=600 --minimal >/run/noise.log 2>&1 &
    pid=$!
    ./crash work /mnt "$1" "$2" logged
    local status=$?
    kill $pid
    wait $pid
    umount /mnt && return $status
}
start() { log_begins && target_up && login; }
stop() { logout && kill -TERM "$target_pid" && wait "$target_pid" && log_ends; }
moments() { ./crash check /run/before /dev/mapper/log "$@"; }

# caught SEED BUG: what a target with the bug promises does not outlive the power.
caught() {
    local -x SPINDLE=./spindle-planted SPINDLE_PLANT=$2
    start && work "$1" 6 && stop || return
    moments "$1" 6 200
    (($? == 3))
}

check "devices" devices_up || finish
check "iscsid starts" initiator_up || finish
check "$TARGET starts" eval 'log_begins && target_up' || finish
check "discovery" discover
check "login" login || finish
check "mkfs" format
check "$STEPS steps, each made durable" work 1 $STEPS
check "logout, and it ends in good order" stop
check "$MOMENTS moments: ext4 recovers, nothing is lost" moments 1 $STEPS "$MOMENTS" && cat /run/check.log

for bug in "early flush" "dropped FUA"; do
    check "caught: $bug" caught $((++seed + 1)) "$bug" && tail -n 1 /run/check.log
done
no_errors() { ! dmesg | grep -E 'I/O error|Medium Error|Data Integrity'; }
check "the kernel saw no I/O error" no_errors
finish
