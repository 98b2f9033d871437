#!/bin/bash
# iSER over soft-RoCE: the bench's initiator, the kernel's and libiscsi, beside TCP
# sessions to the same LUNs; iSER switched off, its device removed, the target killed.
. ./lib.sh
PORTAL=198.18.0.1:3260 CONFIG=iser.json
MEMORY=0 NULL=1 FILE=2 # LUNs

# The LUN that the checks of lib.sh work on.
disk() { lun iser $FILE; }
iser_in() { login_by iser; }
iser_up() { rpc iscsi_get_portal_groups | grep -q '"iser_state": "serving"'; }
switch() { rpc iscsi_portal_group_set_iser tag=1 enable="$1"; }
sessions() { iscsiadm -m session | grep -c "^$1: "; }

# mixed LUN DEPTH MIB ARG...: sizes of every kind in random order, sums checked.
mixed() {
    local dev depth=$2 size=$3
    dev=$(lun iser "$1") || return
    shift 3
    fio --name=mixed --filename="$dev" --ioengine=libaio --direct=1 --rw=randrw --rwmixread=30 \
        --bssplit=512/25:4k/25:16k/20:64k/15:256k/10:1m/5 --iodepth="$depth" --size=200m --io_size="$size"m \
        --verify=crc32c --verify_fatal=1 --do_verify=1 --minimal "$@"
}

# coherent LUN: what one transport writes the other reads, in turns.
coherent() {
    local i from to
    from=$(lun iser "$1") to=$(lun tcp "$1") || return
    for i in {1..8}; do
        head -c 1M /dev/urandom >/run/turn
        dd if=/run/turn of="$from" bs=64k seek=$((i * 16)) oflag=direct status=none &&
            dd if="$to" of=/run/back bs=256k skip=$((i * 4)) count=4 iflag=direct status=none &&
            cmp /run/turn /run/back || return
        read -r from to <<<"$to $from"
    done
}

# both: the transports at once on the two halves of a LUN.
both() {
    local pid
    mixed $MEMORY 16 16 --offset=0 --size=100m >/run/half.log 2>&1 &
    pid=$!
    fio --name=tcp --filename="$(lun tcp $MEMORY)" --ioengine=libaio --direct=1 --rw=randrw --bsrange=4k-64k --iodepth=16 \
        --offset=128m --size=100m --io_size=16m --verify=crc32c --verify_fatal=1 --do_verify=1 --minimal
    local status=$?
    wait $pid || { cat /run/half.log; return 1; }
    return $status
}

# suite TRANSPORT NAME: how many tests and assertions ran, passed and failed.
suite() {
    timeout 60 iscsi-test-cu -d -n -t "ALL.$2" "$(lun "$1" $MEMORY)" >"/run/$1.log" 2>&1
    grep -E '^ *(suites|tests|asserts) ' "/run/$1.log"
}

# same_results SUITE: the same over both transports.
same_results() {
    local iser tcp
    iser=$(suite iser "$1") && tcp=$(suite tcp "$1") || { tail -n 5 /run/iser.log /run/tcp.log; return 1; }
    echo "iSER: $iser"
    echo "TCP:  $tcp"
    [[ $iser == "$tcp" ]]
}

userspace() { timeout 30 "$1" -i iqn.2026-11.io.spindle:libiscsi "${@:2}"; }

# bench ARG...: the bench's initiator, mixed and verified; both sides are counted.
bench() {
    ./spindle-bench run --json --runtime 4 --ramp 0.2 --size 32m --rw randrw --verify crc32c "$@" iser://$PORTAL/$IQN/$MEMORY >/run/bench.json || return
    grep -E '"(total_ios|verified|iops)"' /run/bench.json
    [[ $(grep -c '"total_ios": [1-9]' /run/bench.json) == 2 ]] && grep -q '"verified": [1-9]' /run/bench.json
}

# no_bench PORT TEXT: the bench says why it cannot.
no_bench() {
    ! ./spindle-bench run --runtime 1 "iser://${PORTAL%:*}:$1/$IQN/$MEMORY" >/run/bench.txt 2>&1 || return
    cat /run/bench.txt
    grep -q "$2" /run/bench.txt
}

check "soft-RoCE device" rdma_up || finish
check "scratch disk" scratch_up
check "spindle rdma" ./spindle rdma
check "$TARGET starts" target_up || finish
check "the portal is served over iSER" until_true 20 iser_up || finish
check "spindle-bench without a portal says so" no_bench 3999 'nobody listens'
while read -r name args; do
    check "spindle-bench, verified, $name" bench $args && say "$(tr -d '\n' </run/check.log | tr -s ' ')"
done <<'END'
4k --bs 4k --iodepth 16 --connections 2
512 --bs 512 --iodepth 64
512k --bs 512k --iodepth 2
at-a-rate --bs 8k --iodepth 8 --rate 200 --sleep
END
none_left() { ! rpc iscsi_get_connections | grep -q '"id"'; }
check "its connections are gone" until_true 10 none_left
check "iscsid starts" initiator_up
check "ib_iser" modprobe ib_iser
check "discovery over TCP" discover
check "discovery over iSER" discover -I iser -o nonpersistent
check "login" iser_in || finish
say "$(lsscsi | tr -s ' ' | tr '\n' ';')"
check "one READ" dd if="$(lun iser $FILE)" of=/dev/null bs=4k count=1 iflag=direct
check "ext4 over iSER" file_system ext4
check "fio verify, memory, queue depth 1" mixed $MEMORY 1 8
check "fio verify, memory, queue depth 32" mixed $MEMORY 32 48
check "fio verify, file, queue depth 32" mixed $FILE 32 32

check "login over TCP beside it" login_by default
check "what one transport writes the other reads, memory" coherent $MEMORY
check "what one transport writes the other reads, file" coherent $FILE
check "both transports at once" both

# libiscsi's suites through SG_IO: its own iser:// client does not survive them.
for suite in TestUnitReady Inquiry ReadCapacity16 Write10 CompareAndWrite; do
    check "iscsi-test-cu $suite, as over TCP" same_results $suite
done
check "libiscsi, INQUIRY over iser://" userspace iscsi-inq iser://$PORTAL/$IQN/$MEMORY
check "libiscsi, READ CAPACITY over iser://" userspace iscsi-readcapacity16 iser://$PORTAL/$IQN/$MEMORY
check "libiscsi, iscsi-perf over iser://" userspace iscsi-perf -m 32 -b 8 -r -t 5 iser://$PORTAL/$IQN/$NULL && tail -n 1 /run/check.log

# Switched off, what came by iSER ends; the TCP session does not notice.
fio --name=tcp --filename="$(lun tcp $NULL)" --ioengine=libaio --direct=1 --rw=randread --bs=4k --iodepth=4 --runtime=12 --time_based --minimal \
    >/run/fio.log 2>&1 &
fio_pid=$!
sleep 2
check "iSER is switched off" switch false
no_iser() { ! rpc iscsi_get_connections | grep -q '"transport": "iser"'; }
check "no iSER connection is left" until_true 10 no_iser
check "TCP I/O goes on" wait $fio_pid || cat /run/fio.log
check "iSER is switched on" switch true
check "the session comes back" until_true 60 in_state iser LOGGED_IN
check "data after it" mixed $MEMORY 8 8

check "no receiver was ever not ready" no_rnr

# refused: fio ended because the initiator, whose device it is too, refused a command
# itself (ENODEV) between the device's end and the session's, and nothing else failed.
refused() {
    local n
    n=$(dmesg | grep -c 'iscsi_iser_task_init: Failed to init task.* err = -19')
    ((n > 0 && $(dmesg | grep -cE 'I/O error|Medium Error|Data Integrity') <= n)) && ! grep -q 'verify:' /run/fio.log &&
        say "ib_iser refused $n commands" && dmesg -C
}

# The device goes away under load.
mixed $MEMORY 32 128 >/run/fio.log 2>&1 &
fio_pid=$!
sleep 4
check "fio runs when the device goes" kill -0 $fio_pid
before=$SECONDS
check "rdma link delete returns within 10 s" timeout 10 rdma link delete rxe0
say "it took $((SECONDS - before)) s"
waits() { rpc iscsi_get_portal_groups | grep '"iser_state"' | grep -qv serving; }
check "the portal says what it waits for" until_true 10 waits
check "TCP I/O without the device" dd if="$(lun tcp $FILE)" of=/dev/null bs=64k count=64 iflag=direct
check "the device comes back" rdma link add rxe0 type rxe netdev dummy0
check "the portal is served again" until_true 20 iser_up
check "the session comes back" until_true 90 in_state iser LOGGED_IN
check "fio finds no mismatch" eval "wait $fio_pid || refused" || cat /run/fio.log

# The target dies under load.
mixed $FILE 32 96 >/run/fio.log 2>&1 &
fio_pid=$!
sleep 4
check "fio runs when the target dies" kill -0 $fio_pid
target_kill
sleep 1
check "$TARGET starts again" target_up
check "the session comes back" until_true 90 in_state iser LOGGED_IN
check "fio finds no mismatch" wait $fio_pid || cat /run/fio.log

no_errors() { ! dmesg | grep -E 'I/O error|Medium Error|Data Integrity'; }
check "the kernel saw no I/O error" no_errors
check "logout" logout
check "no connection is left" until_true 10 none_left
check "no receiver was ever not ready" no_rnr
check "$TARGET still runs" kill -0 "$target_pid"
kill -TERM "$target_pid"
check "it ends in good order" wait "$target_pid"
check "the device is free" timeout 10 rdma link delete rxe0
check "spindle-bench without a device says what to do" no_bench 3260 'spindle rdma'
finish
