#!/bin/bash
# Targets side by side over TCP and soft-RoCE, loaded by fio on the disks of the
# kernel's initiator: the targets on one processor, the load on the other.
# BENCH holds more flags for compare, TIME the seconds after which it ends with
# what it has. Leaves its pages on the scratch disk, as a tar.
. ./lib.sh
PORTAL=198.18.0.1:3260

sides() {
    timeout --foreground -s INT "${TIME:-840}" ./spindle-bench compare --spindle ./spindle --host "${PORTAL%:*}" --initiator fio --cpu 0 --target-cpu 1 \
        --lun-size 32m --max-spread 3 --out /run/out $BENCH 2>&1 | tee /run/said
    local status=${PIPESTATUS[0]}
    ((status != 124)) || status=0 # its time was over: it says so in its report
    return $status
}

# watch says what everybody waits for when nothing was said for a minute.
watch() {
    local before=
    while sleep 60; do
        if [[ $before == "$(stat -c %Y /run/said)" ]]; then
            say "nothing happens: who waits where"
            ps axo pid,stat,psr,pcpu,wchan:24,args --sort=-pcpu | head -n 12
            for p in $(ps axo pid,stat,comm | awk '$2 ~ /^D/ || $3 ~ /^(spindle|iscsi|rdma)/ {print $1}'); do
                echo "== $p $(<"/proc/$p/comm")" && cat "/proc/$p/stack"
            done
            rdma resource show qp 2>/dev/null
        fi
        before=$(stat -c %Y /run/said)
    done
}

check "soft-RoCE device" rdma_up || finish
check "modules" modprobe -a ib_umad ib_iser || finish
check "iscsid starts" initiator_up || finish
watch 2>&1 &
sides
status=$?
check "compare" test $status = 0
dmesg | grep -iE 'iser|rxe_|iscsi|BUG|WARN' | tail -n 5
[[ -d /run/out ]] && tar -cf /dev/vdc -C /run/out .
finish
