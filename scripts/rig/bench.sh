#!/bin/bash
# Targets side by side over TCP and soft-RoCE, loaded by fio on the disks of the
# kernel's initiator: the targets on one processor, the load on the other.
# BENCH holds more flags for compare, TIME the seconds after which it ends with
# what it has. Leaves its pages on the scratch disk, as a tar.
. ./lib.sh
PORTAL=198.18.0.1:3260

sides() {
    timeout --foreground -s INT "${TIME:-840}" ./spindle-bench compare --spindle ./spindle --host "${PORTAL%:*}" --initiator fio --cpu 0 --target-cpu 1 \
        --lun-size 32m --max-spread 3 --out /run/out $BENCH
    local status=$?
    ((status != 124)) || status=0 # its time was over: it says so in its report
    return $status
}

check "soft-RoCE device" rdma_up || finish
check "modules" modprobe -a ib_umad ib_iser || finish
check "iscsid starts" initiator_up || finish
sides
status=$?
check "compare" test $status = 0
dmesg | grep -iE 'iser|rxe_|iscsi|BUG|WARN' | tail -n 5
[[ -d /run/out ]] && tar -cf /dev/vdc -C /run/out .
finish
