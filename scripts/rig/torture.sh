#!/bin/bash
# RIG_MINUTES of random mixed I/O over iSER, 512 bytes to 1 MiB at depths of 1 to
# 32, every block's sum checked, TCP beside it; and what the target grew by.
. ./lib.sh
PORTAL=198.18.0.1:3260 CONFIG=iser.json
MEMORY=0 FILE=2 # LUNs

iser_up() { rpc iscsi_get_portal_groups | grep -q '"iser_state": "serving"'; }
resident() { awk '/^VmRSS/ {print $2}' "/proc/$target_pid/status"; } # KiB
in_use() { rpc framework_get_reactors | awk -F'[:,]' '/memory_in_use/ {n += $2} END {print n}'; }

# part NAME DEVICE OFFSET DEPTH: the arguments of one job.
part() { echo "--name=$1 --filename=$2 --offset=$3 --iodepth=$4 --size=40m --io_size=24m"; }
round() { # SEED
    fio --ioengine=libaio --direct=1 --rw=randrw --rwmixread=30 --bssplit=512/20:4k/25:16k/20:64k/15:256k/12:1m/8 --randseed="$1" \
        --verify=crc32c --verify_fatal=1 --do_verify=1 --thread --minimal \
        $(part m1 "$(lun iser $MEMORY)" 0 1) $(part m32 "$(lun iser $MEMORY)" 48m 32) $(part f8 "$(lun iser $FILE)" 0 8) \
        $(part f32 "$(lun iser $FILE)" 48m 32) $(part t16 "$(lun tcp $FILE)" 96m 16)
}
torture() {
    local end=$((SECONDS + RIG_MINUTES * 60)) rounds=0
    : >/run/fio.table
    until ((SECONDS >= end)); do
        round $rounds >/run/fio.log 2>&1 || { cat /run/fio.log; return 1; }
        grep '^3;' /run/fio.log >>/run/fio.table
        rounds=$((rounds + 1))
    done
    say "$rounds rounds"
}
# figures: of each job, what it moved. Fields of fio's table: 3 name, 6 KiB read
# (with what was read back to compare), 47 KiB written.
figures() {
    awk -F';' '{r[$3] += $6; w[$3] += $47} END {for (j in r) printf "  %-4s %6d MiB read, %6d MiB written\n", j, r[j] / 1024, w[j] / 1024}' /run/fio.table
}

check "soft-RoCE device" rdma_up || finish
check "scratch disk" scratch_up
check "$TARGET starts" target_up || finish
check "the portal is served over iSER" until_true 30 iser_up || finish
check "initiator" eval 'initiator_up && modprobe ib_iser'
check "login over iSER and TCP" eval 'login_by iser && login_by default' || finish
check "a first round" round 1000 || finish
rss=$(resident) used=$(in_use)
check "fio verify over iSER, $RIG_MINUTES minutes" torture || cat /run/check.log
figures
say "resident $rss KiB before, $(resident) after; arenas $used bytes before, $(in_use) after"
check "memory does not grow by more than 8 MiB" eval '(($(resident) < rss + 8192))'
check "data buffers are home" until_true 10 eval '(($(in_use) <= used))'
check "no receiver was ever not ready" no_rnr
no_errors() { ! dmesg | grep -E 'I/O error|Medium Error|Data Integrity|conn error'; }
check "the kernel saw no error" no_errors
check "logout" iscsiadm -m node --logoutall=all
kill -TERM "$target_pid"
check "it ends in good order" wait "$target_pid"
finish
