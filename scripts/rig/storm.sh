#!/bin/bash
# iSER with two devices, two portals and two wildcards, several LUNs; hostile
# peers; then storms: aborts, resets, portals that come and go, devices that are deleted,
# initiators and the target killed. Another session's data is verified all the
# while, and at the end nothing may be left.
. ./lib.sh
PORTAL=198.18.0.1:3260 CONFIG=storm.json
A=198.18.0.1:3260 B=198.18.1.1:3260 # the portals, a device each
V4=198.18.1.1:3261 V6='[fd00:18::1]:3262' # behind wildcards
SLOW=4

devices_up() {
    rdma_up && ip addr add fd00:18::1/64 dev dummy0 nodad || return
    ip link add dummy1 type dummy && ip addr add 198.18.1.1/24 dev dummy1 && ip link set dummy1 mtu 9000 up &&
        rdma link add rxe1 type rxe netdev dummy1
}
served() { [[ $(rpc iscsi_get_portal_groups | grep -c '"iser_state": "serving"') == "$1" ]]; }

# in_by INTERFACE PORTAL TAG: a session of the kernel's initiator. It sends no
# pings: while one is outstanding a command does not time out.
in_by() {
    local node=(iscsiadm -m node -T $IQN -p "$2,$3" -I "$1")
    "${node[@]}" -o new >/dev/null && "${node[@]}" -o update -n 'node.conn[0].timeo.noop_out_interval' -v 0 &&
        "${node[@]}" -o update -n 'node.conn[0].timeo.noop_out_timeout' -v 0 && timeout 60 "${node[@]}" --login
}

# session TRANSPORT PORTAL prints a session's number, at PORTAL LUN TRANSPORT its block device.
session() { iscsiadm -m session | sed -n "s/^$1: \[\([0-9]*\)\] ${2//[\[\]]/.},.*/\1/p" | head -n 1; }
at() {
    local sid b
    sid=$(session "${3:-iser}" "$1")
    for b in /sys/class/iscsi_session/session"${sid:-none}"/device/target*/*:"$2"/block/*; do
        [[ -b /dev/${b##*/} ]] && echo "/dev/${b##*/}" && return
    done
    return 1
}
state() { [[ $(<"/sys/class/iscsi_session/session$(session "${3:-iser}" "$1")/state") == "$2" ]]; }
all_luns() { local l; for l in {0..4}; do at "$1" $l "${2:-iser}" >/dev/null || return; done; }

# patterned: each LUN, written by way of one portal with a pattern of its own,
# is read by way of the other and over TCP, after all have been written.
patterned() {
    local l
    for l in {0..4}; do
        pattern "$l" | dd of="$(at $A "$l")" bs=64k iflag=fullblock oflag=direct status=none || return
    done
    for l in {0..4}; do
        pattern "$l" | cmp - <(dd if="$(at $B "$l")" bs=64k count=16 iflag=direct status=none) &&
            pattern "$l" | cmp - <(dd if="$(at $A "$l" tcp)" bs=64k count=16 iflag=direct status=none) || return
    done
}
pattern() { yes "LUN $1 of $IQN" | head -c 1M; } # 1 MiB

# job NAME DEVICE OFFSET MIB: the arguments of one part of a verified load.
job() {
    echo "--name=$1 --filename=$2 --offset=$3 --size=16m --io_size=$4m"
}
load() { # ARG...: mixed sizes, every block's sum checked, as a table of one line a job
    fio --ioengine=libaio --direct=1 --rw=randrw --rwmixread=30 --bssplit=4k/50:16k/25:64k/15:256k/10 --iodepth=8 \
        --verify=crc32c --verify_fatal=1 --do_verify=1 --thread --minimal "$@"
}
# everywhere: all LUNs over all paths at once, each in a range of its own.
everywhere() {
    local l args=()
    for l in {0..3}; do
        args+=($(job "a$l" "$(at $A "$l")" 4m 2) $(job "b$l" "$(at $B "$l")" 24m 2))
    done
    args+=($(job t0 "$(at $A 0 tcp)" 44m 2) $(job t3 "$(at $A 3 tcp)" 44m 2))
    load "${args[@]}"
}

# Send with Invalidate: the kernel's initiator ends its connection when a key is
# not the one it expects, and invalidates by itself whatever the target did not.
# So each command's key shall reach the device from the target's SEND alone.
TRACE=/sys/kernel/tracing
trace_up() {
    mount -t tracefs none $TRACE && echo 'p:invalidate rdma_rxe:rxe_invalidate_mr' >$TRACE/kprobe_events &&
        echo 'hist:keys=stacktrace' >$TRACE/events/kprobes/invalidate/trigger
}
invalidated() {
    local dev hist=$TRACE/events/kprobes/invalidate
    dev=$(at $A 0) || return
    echo 'hist:keys=stacktrace:clear' >>$hist/trigger
    dd if="$dev" of=/dev/null bs=4k count=40 iflag=direct && dd if="$dev" of=/run/same bs=64k count=20 iflag=direct &&
        dd if=/run/same of="$dev" bs=64k count=20 oflag=direct || return
    cat $hist/hist
    (($(sed -n 's/^ *Hits: //p' $hist/hist) >= 80)) && grep -q rxe_responder $hist/hist && ! grep -q rxe_do_local_ops $hist/hist
}

# left prints what the target holds of the devices and of its own memory.
left() {
    local o
    for o in qp cq pd mr cm_id; do
        echo "$o $(rdma res show $o | grep -c 'comm spindle')"
    done
    echo "memory $(rpc framework_get_reactors | awk -F'[:,]' '/memory_in_use/ {n += $2} END {print n}')"
    echo "connections $(rpc iscsi_get_connections | grep -c '"id"')"
}
# no_more_than FILE: nothing has grown since FILE was written.
no_more_than() {
    left >/run/left
    paste "$1" /run/left
    awk 'NR == FNR {was[$1] = $2; next} $2 > was[$1] {bad = 1} END {exit bad}' "$1" /run/left
}
counter() { rpc iscsi_get_counters | sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p"; }
no_counter() { # NAME...
    local n
    for n; do
        echo "$n $(counter "$n")"
        [[ $(counter "$n") == 0 ]] || return
    done
}
quiet() { [[ $(rpc iscsi_get_connections | grep -c '"id"') == 0 ]]; }

check "two soft-RoCE devices" devices_up || finish
check "scratch disk" scratch_up && truncate -s 64M /scratch/disk3.img
check "$TARGET starts" target_up || finish
check "four portals are served over iSER" until_true 30 served 4 || finish
check "iscsid starts" initiator_up
check "ib_iser" modprobe ib_iser
check "login, iSER, first device" in_by iser $A 1 || finish
check "login, iSER, second device" in_by iser $B 1 || finish
check "login, TCP" in_by default $A 1
check "five LUNs on each path" until_true 40 eval 'all_luns $A && all_luns $B && all_luns $A tcp' || finish
check "a pattern for each LUN, read by other paths" patterned
check "fio verify, four LUNs by two devices and TCP at once" everywhere
check "kernel probe on invalidation" trace_up
check "STags are invalidated by the target's SEND" invalidated || dmesg | tail -n 5
check "discovery at the IPv4 wildcard names its portal" \
    eval "iscsiadm -m discovery -t sendtargets -p $V4 -I iser -o nonpersistent | grep '^$V4,2 $IQN'"
check "login at the IPv4 wildcard" in_by iser $V4 2
check "data at the IPv4 wildcard" until_true 40 eval 'cmp -n 65536 $(at $V4 2) $(at $A 2)'
check "libiscsi at the IPv4 wildcard" timeout 30 iscsi-inq -i iqn.2026-11.io.spindle:libiscsi iser://$V4/$IQN/2
check "login at the IPv6 wildcard" in_by iser "$V6" 2
check "data at the IPv6 wildcard" until_true 40 eval 'cmp -n 65536 $(at "$V6" 2) $(at $A 2)'
check "logout" iscsiadm -m node --logoutall=all
check "no connection is left" until_true 30 quiet
left >/run/before
say "$(paste -sd, /run/before)"

# From here on something is wrong all the time, and a load that it does not
# concern runs beside it by the other device.
background() { # NAME ARG...: load ARG... again and again, until wait_for NAME; not so much that nothing else gets done
    local name=$1
    shift
    rm -f /run/stop."$name"
    : >/run/load."$name"
    until [[ -e /run/stop.$name ]]; do load --rate_iops=60 "$@" >>/run/load."$name" 2>&1 || exit; done &
    pids[$name]=$!
}
declare -A pids
wait_for() { # NAME: no round of it has found a mismatch
    touch /run/stop."$1"
    wait "${pids[$1]}"
    local status=$?
    ((status == 0)) || tail -n 5 /run/load."$1"
    return $status
}
busy() { kill -0 "${pids[$1]}"; }
both_in() { in_by iser $A 1 && in_by iser $B 1 && in_by default $A 1 && until_true 40 eval 'all_luns $A && all_luns $B && all_luns $A tcp'; }

# Aborts: commands to a slow LUN run into the kernel's timeout, which aborts
# each of them and sends it again.
latency() { # MICROSECONDS
    rpc bdev_delay_update_latency delay_bdev_name=slow latency_type=avg_write latency_us="$1" &&
        rpc bdev_delay_update_latency delay_bdev_name=slow latency_type=p99_write latency_us="$1"
}
aborts() {
    local dev pid
    dev=$(at $A $SLOW) || return
    told
    echo 1 >"/sys/block/${dev##*/}/device/timeout"
    latency 6000000 || return
    fio --name=slow --filename="$dev" --ioengine=libaio --direct=1 --rw=randwrite --bs=16k --iodepth=12 --size=16m --io_size=512k \
        --verify=crc32c --verify_fatal=1 --do_verify=1 --minimal &
    pid=$!
    until_true 90 eval '(($(dmesg | grep -c "abort success") >= 6))'
    latency 0
    wait $pid || return
    echo 30 >"/sys/block/${dev##*/}/device/timeout"
    tells 'abort success' 6 && ! dmesg | grep -E 'I/O error|conn error'
}
# told, tells TEXT COUNT: what the kernel's error handler says it did since.
told() { dmesg -C && echo 1 >/sys/module/libiscsi/parameters/debug_libiscsi_eh; }
tells() {
    echo 0 >/sys/module/libiscsi/parameters/debug_libiscsi_eh
    dmesg | grep iscsi_eh | tail -n 5
    (($(dmesg | grep -c "$1") >= $2))
}
# resets OPTION COUNT TEXT: of the LUN or the target, while its own LUN is written.
resets() {
    local dev n
    dev=$(at $A 0) || return
    told
    for ((n = 0; n < $2; n++)); do
        timeout 30 sg_reset "$1" "$dev" || return
    done
    tells "$3" "$2"
}
switch() { rpc iscsi_portal_group_set_iser tag=1 host=198.18.0.1 enable="$1"; }
gone() { ! rpc iscsi_get_connections | grep -q '"device": "rxe0"'; }
toggles() { # COUNT: first after the session has come back each time, then as fast as it goes
    local n
    for ((n = 0; n < $1; n++)); do
        switch false && until_true 20 gone && switch true && until_true 60 state $A LOGGED_IN || return
    done
    for ((n = 0; n < 2 * $1; n++)); do
        switch false && sleep 0.$((n * 7 % 10)) && switch true || return
    done
}
deletes() {
    local n
    for n in 1 2; do
        timeout 10 rdma link delete rxe0 && rdma link add rxe0 type rxe netdev dummy0 && until_true 20 served 4 || return
        sleep 0.5
    done
}
# initiators_die: each in the middle of its commands.
initiators_die() {
    local n pid
    for n in {1..4}; do
        iscsi-perf -i iqn.2026-11.io.spindle:dies$n -m 16 -b 64 -t 30 iser://$B/$IQN/2 >/run/perf.log 2>&1 &
        pid=$!
        until_true 30 devices_have 2 || { cat /run/perf.log; return 1; }
        sleep 0.3
        kill -9 $pid
        wait $pid
    done
    until_true 30 devices_have 1
}
devices_have() { [[ $(rpc iscsi_get_connections | grep -c '"device": "rxe1"') == "$1" ]]; } # connections, the second
iscsid_dies() {
    kill -9 "$(pidof iscsid)" && sleep 0.5 && initiator_up
}

# hostile TEST: what of internal/rig/hostile has this name, and it did run.
hostile() { RIG_PORTAL=$A RIG_LUN=2 timeout 200 ./hostile.test -test.v -test.run "^Test$1\$" | tee -a /dev/stderr | grep -q "^--- PASS: Test$1 "; }

check "login again, both devices and TCP" both_in || finish
background other $(job b1 "$(at $B 1)" 4m 4) $(job t3 "$(at $A 3 tcp)" 4m 4)
check "hostile peer: messages of every kind" hostile HostileMessages
check "hostile peer: a flood of commands" hostile TooManyCommands
check "hostile peer: commands beyond the window" hostile BeyondTheWindow
check "hostile peer: private data" hostile PrivateData
check "initiator that serves no RDMA READ" hostile NoReads
check "one connection to a session over iSER" hostile MaxConnections
check "fio by the other device and TCP finds no mismatch" wait_for other
background other $(job b1 "$(at $B 1)" 4m 4) $(job b3 "$(at $B 3)" 4m 4)
check "abort storm: a slow LUN runs into timeouts" aborts
background own $(job a0 "$(at $A 0)" 4m 4)
check "LUN reset storm" resets -d 12 'dev reset result = SUCCESS'
# A target reset takes the commands of all sessions, without a status (SPC-5
# §7.5.8, TAS 0): theirs are sent again after a timeout, which shall be short.
patience() { for l in 1 3; do echo "$1" >"/sys/block/$(basename "$(at $B $l)")/device/timeout" || return; done; }
check "target reset storm" eval "patience 2 && resets -t 4 'reset result = SUCCESS'"
check "fio under the resets finds no mismatch" wait_for own
check "fio by the other device finds no mismatch" wait_for other
patience 30

background other $(job b1 "$(at $B 1)" 4m 4) $(job t3 "$(at $A 3 tcp)" 4m 4)
background own $(job a0 "$(at $A 0)" 4m 4) $(job a1 "$(at $A 1)" 24m 4)
check "iSER of a portal is switched off and on" toggles 3
check "the session comes back" until_true 60 state $A LOGGED_IN
check "its device is deleted and added, twice" deletes
check "the session comes back" until_true 60 state $A LOGGED_IN
check "initiators are killed, libiscsi's by iser://" initiators_die
check "iscsid is killed and starts again" iscsid_dies
check "iSER is switched off and on for the new iscsid" toggles 1
check "the session comes back" until_true 60 state $A LOGGED_IN
check "fio through it finds no mismatch" wait_for own
check "fio by the other device and TCP finds no mismatch" wait_for other
check "logout" iscsiadm -m node --logoutall=all
check "no connection is left" until_true 30 quiet
check "queue pairs, identifiers, regions, memory: no more than before" until_true 20 no_more_than /run/before || cat /run/left
check "nothing hung, no decoder panicked" no_counter iser_zombies iser_drain_timeouts iser_parse_panics

check "login once more" both_in || finish
background a $(job a1 "$(at $A 1)" 4m 4)
background b $(job b3 "$(at $B 3)" 4m 4)
background t $(job t1 "$(at $A 1 tcp)" 24m 4)
sleep 1
check "fio runs when the target is killed" busy a
target_kill
check "$TARGET starts again" target_up
check "the sessions come back" until_true 60 eval 'state $A LOGGED_IN && state $B LOGGED_IN && state $A LOGGED_IN tcp'
check "fio finds no mismatch, first device" wait_for a
check "fio finds no mismatch, second device" wait_for b
check "fio finds no mismatch, TCP" wait_for t
no_errors() { ! dmesg | grep -E 'I/O error|Medium Error|Data Integrity'; }
check "the kernel saw no I/O error" no_errors
check "logout" iscsiadm -m node --logoutall=all
check "no connection is left" until_true 30 quiet
kill -TERM "$target_pid"
check "it ends in good order" wait "$target_pid"
check "the devices are free" eval 'timeout 10 rdma link delete rxe0 && timeout 10 rdma link delete rxe1'
finish
