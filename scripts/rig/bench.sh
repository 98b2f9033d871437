#!/bin/bash
# Targets side by side over TCP and soft-RoCE, loaded by fio on the disks of the
# kernel's initiator: the targets on one processor, the load on the other.
# BENCH holds more flags for compare, TIME the seconds after which it ends with
# what it has. Leaves its pages on the scratch disk, as a tar.
. ./lib.sh
PORTAL=198.18.0.1:3260 LOAD=198.18.0.2

# pair_up: an RDMA device for the targets and one for the initiator, the two ends
# of a cable. Each has the kernel's work on what it receives done on the processor
# of its side, so that in-kernel targets do not work where the load is. Linux
# would not use the cable between two addresses of its own: rules that come
# before the table of local addresses send each way over it.
pair_up() {
    local end
    modprobe -a rdma_rxe veth rdma_ucm ib_uverbs && ip link add target0 mtu 9000 type veth peer name load0 mtu 9000 || return
    ip rule add pref 100 lookup local && ip rule del pref 0 || return
    while read -r end cpus mine yours; do
        sysctl -qw net.ipv4.conf.$end.{accept_local=1,rp_filter=0}
        echo "$cpus" >/sys/class/net/$end/queues/rx-0/rps_cpus
        ip addr add "$mine/24" dev $end && ip link set $end up && ip route add "$yours" dev $end src "$mine" table "10$cpus" &&
            ip rule add pref "1$cpus" iif lo to "$yours" lookup "10$cpus" && rdma link add rxe-$end type rxe netdev $end || return
    done <<<"target0 2 ${PORTAL%:*} $LOAD
load0 1 $LOAD ${PORTAL%:*}"
}

sides() {
    timeout --foreground -s INT "$TIME" ./spindle-bench compare --spindle ./spindle --host "${PORTAL%:*}" --initiator fio --cpu 0 --target-cpu 1 \
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

check "soft-RoCE devices" pair_up || finish
check "modules" modprobe -a ib_umad ib_iser || finish
check "iscsid starts" initiator_up || finish
watch 2>&1 &
sides
status=$?
check "compare" test $status = 0
dmesg | grep -iE 'iser|rxe_|iscsi|BUG|WARN' | tail -n 5
[[ -d /run/out ]] && tar -cf /dev/vdc -C /run/out .
finish
