#!/bin/bash
# The SCSI side as Debian's tools see it, over TCP by two portals that are two
# target port groups: sg3_utils, multipath-tools, persistent reservations that
# outlive the target, and power that fails under a file system.
. ./lib.sh
CONFIG=scsi.json STATE=/scratch/state
ONE=127.0.0.1:3260 TWO=127.0.0.2:3260 # the portals
DISK_LUN=0 MEMORY=1 FLAKY=2

devices_up() {
    modprobe -a dm_flakey dm_multipath dm_service_time dm_round_robin scsi_dh_alua loop || return
    /lib/systemd/systemd-udevd --daemon && until_true 30 udevadm control --ping || return
    scratch_up && mkdir -p $STATE && truncate -s 192M /scratch/flaky.img && loop=$(losetup -f --show /scratch/flaky.img) &&
        flaky create && [[ -b /dev/mapper/flaky ]]
}
# flaky create|power_on|power_off: the disk under LUN 2. Without power it
# acknowledges writes and forgets them.
flaky() {
    local size
    size=$(blockdev --getsz "$loop") || return
    case $1 in
    create) dmsetup create flaky --table "0 $size linear $loop 0" ;;
    power_on) swap "0 $size linear $loop 0" ;;
    power_off) swap "0 $size flakey $loop 0 0 3600 1 drop_writes" ;;
    esac
}
swap() { dmsetup suspend --noflush --nolockfs flaky && dmsetup load flaky --table "$1" && dmsetup resume flaky; }

in_by() { # PORTAL TAG
    local node=(iscsiadm -m node -T $IQN -p "$1,$2" -I default)
    "${node[@]}" -o new >/dev/null && "${node[@]}" -o update -n node.session.timeo.replacement_timeout -v 5 && timeout 60 "${node[@]}" --login
}
# at PORTAL LUN prints the block device of the LUN by way of the portal.
at() {
    local sid b
    sid=$(iscsiadm -m session | sed -n "s/^tcp: \[\([0-9]*\)\] $1,.*/\1/p" | head -n 1)
    for b in /sys/class/iscsi_session/session"${sid:-none}"/device/target*/*:"$2"/block/*; do
        [[ -b /dev/${b##*/} ]] && echo "/dev/${b##*/}" && return
    done
    return 1
}
all_luns() { local l; for l in 0 1 2; do at $ONE $l && at $TWO $l || return; done; }
# settled: every path of every LUN has told its unit attentions.
settled() { local l p; for l in 0 1 2; do for p in $ONE $TWO; do sg_turs "$(at $p $l)" || return; done; done; }
is_usable() { until_true 60 eval 'all_luns && settled'; }

# --- sg3_utils

pages() { # every page that is listed is decoded
    local page n=0 dev
    dev=$(at $ONE $MEMORY) || return
    for page in $(sg_vpd -p sv "$dev" | sed -n 's/.*\[\([a-z0-9]*\)[],].*/\1/p'); do
        sg_vpd -p "$page" "$dev" || return
        n=$((n + 1))
    done
    ((n >= 8))
}
logs() {
    local page n=0 dev
    dev=$(at $ONE $MEMORY) || return
    for page in $(sg_logs "$dev" | sed -n 's/^ *\(0x[0-9a-f]*\).*/\1/p'); do
        sg_logs -p "$page" "$dev" || return
        n=$((n + 1))
    done
    ((n >= 5))
}
opcodes() {
    sg_opcodes "$(at $ONE $MEMORY)" >/run/opcodes || return
    cat /run/opcodes
    grep -q 'Compare and write' /run/opcodes && grep -q 'Persistent reserve out, preempt and abort' /run/opcodes &&
        sg_opcodes --opcode=0x9e,0x10 "$(at $ONE $MEMORY)" | grep -qi supported
}
# blocks FILE COUNT: random ones, which is what the commands below move.
blocks() { head -c $(($2 * 512)) /dev/urandom >"$1"; }
reads() { dd if="$1" bs=512 skip="$2" count="$3" iflag=direct status=none; } # DEVICE LBA COUNT
compare_and_write() {
    local dev
    dev=$(at $ONE $MEMORY) || return
    blocks /run/old 4 && blocks /run/new 4 && dd if=/run/old of="$dev" bs=512 seek=40 oflag=direct status=none || return
    cat /run/old /run/new >/run/both
    sg_compare_and_write --in=/run/both --lba=40 --num=4 --xferlen=4096 "$dev" && reads "$dev" 40 4 | cmp - /run/new || return
    sg_compare_and_write --in=/run/both --lba=40 --num=4 --xferlen=4096 "$dev"
    (($? == 14)) && reads "$dev" 40 4 | cmp - /run/new # a miscompare, and nothing written
}
unmap() { # what is unmapped reads as zeroes; whether it counts as mapped is the file system's to know
    local dev
    dev=$(at $ONE $DISK_LUN) || return
    dd if=/dev/urandom of="$dev" bs=1M count=4 oflag=direct status=none && sg_unmap --force --lba=2048 --num=2048 "$dev" &&
        sg_get_lba_status --lba=2048 -b "$dev" | grep '^0x0*800 ' && cmp -n 1048576 /dev/zero <(reads "$dev" 2048 2048)
}
write_same() {
    local dev n
    dev=$(at $ONE $MEMORY) || return
    blocks /run/one 1 && sg_write_same --16 --in=/run/one --lba=100 --num=64 --xferlen=512 "$dev" || return
    for n in 100 130 163; do reads "$dev" $n 1 | cmp - /run/one || return; done
    ! reads "$dev" 164 1 | cmp -s - /run/one
}
xcopy() {
    local from to
    from=$(at $ONE $MEMORY) to=$(at $ONE $DISK_LUN) || return
    blocks /run/copy 256 && dd if=/run/copy of="$from" bs=512 seek=512 oflag=direct status=none &&
        sg_xcopy if="$from" of="$to" bs=512 count=256 skip=512 seek=8192 && reads "$to" 8192 256 | cmp - /run/copy
}
others() {
    local dev
    dev=$(at $ONE $MEMORY) || return
    sg_readcap --long "$dev" && sg_luns "$dev" && sg_modes "$dev" && sg_sync "$dev" && sg_verify --lba=0 --count=64 "$dev" &&
        sg_requests "$dev" && sg_senddiag --test "$dev" && sg_start --stop "$dev" && sg_start --start "$dev" && until_true 10 sg_turs "$dev" && sg_ident "$dev" &&
        sg_dd if="$dev" of=/run/sg bs=512 count=256 blk_sgio=1 fua=1 && cmp -n 131072 /run/sg <(reads "$dev" 0 256)
}
groups() { # STATE1 STATE2: of the target port groups, the same by each path
    local p
    for p in $ONE $TWO; do
        [[ $(sg_rtpg -d "$(at $p $MEMORY)" | tee -a /dev/stderr | grep -o '([a-z /-]*optimized)' | paste -sd,) == "($1),($2)" ]] || return
    done
}

# --- persistent reservations

pr() { sg_persist "$@"; }
conflict() { # DEVICE: a write ends in a reservation conflict
    sg_raw -s 512 -i /run/one "$1" 2a 00 00 00 00 00 00 00 01 00 2>&1 | tee -a /dev/stderr | grep -qi 'reservation conflict'
}
persist() {
    local a b
    a=$(at $ONE $MEMORY) b=$(at $TWO $MEMORY) || return
    pr --out --register --param-sark=0xa "$a" && pr --out --reserve --param-rk=0xa --prout-type=5 "$a" && conflict "$b" &&
        dd if=/run/one of="$a" oflag=direct status=none && pr --in --read-full-status "$b" | grep -q "$IQN" || return
    pr --out --register --param-sark=0xb "$b" && dd if=/run/one of="$b" oflag=direct status=none &&
        pr --out --preempt --param-rk=0xb --param-sark=0xa --prout-type=6 "$b" && until_true 10 sg_turs "$a" &&
        pr --in --read-reservation "$a" | grep -q 'Key=0xb' && conflict "$a" && pr --out --clear --param-rk=0xb "$b" && pr --in --read-keys "$b" | grep -q 'NO registered'
}
holds() { # KEY: it is registered and has the reservation, and others may not write
    pr --in --read-keys "$(at $TWO $MEMORY)" | grep -q "$1" && pr --in --read-reservation "$(at $TWO $MEMORY)" | tee -a /dev/stderr | grep -q "Key=$1" &&
        conflict "$(at $TWO $MEMORY)" && dd if=/run/one of="$(at $ONE $MEMORY)" oflag=direct status=none
}
aptpl() {
    pr --out --register --param-sark=0xf00 --param-aptpl "$(at $ONE $MEMORY)" && pr --out --reserve --param-rk=0xf00 --prout-type=5 "$(at $ONE $MEMORY)"
}
release() { pr --out --clear --param-rk=0xf00 "$(at $ONE $MEMORY)" && pr --in --read-keys "$(at $TWO $MEMORY)" | grep -q 'NO registered'; }

# --- multipath

multipath_up() {
    mkdir -p /etc/multipath /run/lock
    cat >/etc/multipath.conf <<'CONF'
defaults {
    find_multipaths no
    user_friendly_names no
    polling_interval 1
    max_polling_interval 2
    reservation_key file
}
blacklist {
    devnode "^(vd|loop|dm|sr)"
}
devices {
    device {
        vendor SPINDLE
        product ".*"
        path_grouping_policy group_by_prio
        prio alua
        hardware_handler "1 alua"
        path_checker tur
        failback immediate
        no_path_retry queue
    }
}
CONF
    multipathd && map >$RUN_MAP && until_true 60 paths 2 50 10
}
map() { /lib/udev/scsi_id -g -u -d "$(at $ONE $MEMORY)" || /lib/udev/scsi_id -g -u -d "$(at $TWO $MEMORY)"; }
paths() { # COUNT PRIORITY...: so many paths of the LUN are ready, in groups of these priorities
    local out
    out=$(multipath -ll "$(<$RUN_MAP)") || return
    [[ $(grep -c 'active ready *running' <<<"$out") == "$1" && $(grep -o 'prio=[0-9]*' <<<"$out" | cut -d= -f2 | paste -sd' ') == "${*:2}" ]]
}
ready() { [[ $(multipath -ll "$(<$RUN_MAP)" | grep -c 'active ready *running') == "$1" ]]; }
RUN_MAP=/run/map # names the multipath device
failover() { # the portal in use goes away under load, and comes back
    local pid dev
    dev=/dev/mapper/$(<$RUN_MAP)
    fio --name=paths --filename="$dev" --ioengine=libaio --direct=1 --rw=randrw --rwmixread=30 --bsrange=4k-64k --iodepth=8 --size=32m \
        --offset=8m --io_size=64m --rate_iops=200 --verify=crc32c --verify_fatal=1 --do_verify=1 --minimal >/run/paths.log 2>&1 &
    pid=$!
    sleep 2
    rpc iscsi_delete_portal_group tag=1 && until_true 60 ready 1 && kill -0 $pid || { multipath -ll; return 1; }
    # It does not listen before the node is there: "no such target" is final to iscsid.
    rpc iscsi_create_portal_group tag=1 portals='[{"host": "127.0.0.1", "port": "3260"}]' wait=true &&
        rpc iscsi_target_node_add_pg_ig_maps name=$IQN pg_ig_maps='[{"pg_tag": 1, "ig_tag": 1}]' && rpc iscsi_start_portal_group tag=1 || return
    until_true 60 ready 2 || { multipath -ll; return 1; }
    wait $pid || { cat /run/paths.log; return 1; }
}
mpath_reservation() {
    local dev
    dev=/dev/mapper/$(<$RUN_MAP)
    mpathpersist --out --register --param-sark=0x123 "$dev" && mpathpersist --in --read-keys "$dev" | tee -a /dev/stderr | grep -q '0x123' &&
        mpathpersist --out --reserve --param-rk=0x123 --prout-type=5 "$dev" && mpathpersist --in --read-reservation "$dev" | grep -q '0x123' || return
    # Either path writes: both are registered.
    dd if=/run/one of="$dev" oflag=direct status=none && [[ $(pr --in --read-full-status "$(at $ONE $MEMORY)" | grep -c 'Key=0x123') == 2 ]] &&
        mpathpersist --out --clear --param-rk=0x123 "$dev"
}
multipath_down() { multipath -F; multipathd shutdown; until_true 20 eval '! pidof multipathd'; }

# --- power

# writer: files, each named in the list once it is on the medium.
writer() {
    local n
    for ((n = 1; ; n++)); do
        { seq $n $((n + 5000)) >/mnt/file$n && sync /mnt/file$n && echo $n >>/run/list; } || return
    done
}
power_cut() {
    local dev pid
    dev=$(at $ONE $FLAKY)
    mkfs.ext4 -q -F "$dev" && mount "$dev" /mnt || return
    : >/run/list
    writer 2>/dev/null &
    pid=$!
    until_true 60 eval '(($(wc -l </run/list) >= 20))' || return
    cp /run/list /run/durable && flaky power_off || return
    sleep 1 # what is written now is lost
    kill $pid
    wait $pid
    target_kill
    umount -l /mnt # what it still writes finds no disk: the target is dead, and then without power
    timeout 60 iscsiadm -m node --logoutall=all
    until_true 30 eval '! iscsiadm -m session'
    flaky power_on && target_up && both_in && is_usable
}
survived() { # after the journal's replay all that was synced is there
    local dev n
    dev=$(at $ONE $FLAKY)
    mount "$dev" /mnt || return
    for n in $(</run/durable); do
        cmp <(seq "$n" $((n + 5000))) "/mnt/file$n" || return
    done
    echo "$(wc -l </run/durable) files"
    umount /mnt && e2fsck -fn "$dev"
}
both_in() { in_by $ONE 1 && in_by $TWO 2; }

check "scratch disks" devices_up || finish
check "$TARGET starts" target_up || finish
check "iscsid starts" initiator_up
check "login by two portals" both_in || finish
check "three LUNs by two paths" is_usable || finish
blocks /run/one 1

check "sg_vpd: every page" pages
check "sg_inq" eval 'sg_inq "$(at $ONE $MEMORY)" | grep -q "Vendor identification: SPINDLE"'
check "sg_logs: every page" logs
check "sg_opcodes" opcodes
check "sg_compare_and_write" compare_and_write
check "sg_unmap, sg_get_lba_status" unmap
check "sg_write_same" write_same
check "sg_xcopy between LUNs" xcopy
check "sg_readcap, sg_luns, sg_modes, sg_sync, sg_verify, sg_requests, sg_senddiag, sg_start, sg_ident, sg_dd" others
check "sg_rtpg: two groups" groups active/optimized active/optimized
check "sg_stpg: the second is not optimized" sg_stpg --tp=2 --state=an "$(at $ONE $MEMORY)"
check "settled" is_usable
check "sg_rtpg: the same by both paths" groups active/optimized "active/non optimized"
check "sg_persist: register, reserve, conflict, preempt, clear" persist
check "settled" is_usable

check "a reservation that is to outlive the target" aptpl
check "it holds" holds 0xf00
target_kill
check "$TARGET is killed and starts again" target_up
check "the sessions come back" is_usable
check "the reservation still holds" holds 0xf00
check "and can be cleared" release
check "sg_stpg again: the state was the target's" sg_stpg --tp=2 --state=an "$(at $ONE $MEMORY)"
check "settled" is_usable

check "multipathd: two paths, priorities as the groups have them" multipath_up || multipath -ll
check "failover and failback under fio verify" failover
check "mpathpersist" mpath_reservation
check "multipathd ends" multipath_down

check "power fails under ext4" power_cut
check "what was synced is there, and fsck finds nothing" survived
check "logout" iscsiadm -m node --logoutall=all
check "$TARGET still runs" kill -0 "$target_pid"
kill -TERM "$target_pid"
check "it ends in good order" wait "$target_pid"
finish
