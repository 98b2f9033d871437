#!/bin/bash
# What the target does on network cards only: zero-copy send, busy polling, a
# connection's reactor chosen by its device queue. It stands in a network
# namespace of its own, at the other end of a veth pair and of two virtio-net
# cards on one cable. Each option has to show in a counter of what it did.
. ./lib.sh
CONFIG=network.json ARENA=128M SPINDLE=/run/in_namespace
VETH=198.18.1.1:3260 VIRTIO=198.18.2.1:3260
MEMORY=0 FILE=1 # LUNs

# cable NUMBER HERE THERE: a device here, the other in the target's namespace. A
# veth has queues that can be told apart, and polled, only with GRO, and for
# packets that its peer has not yet to segment.
cable() {
    ip link set "$3" netns target && ip addr add 198.18.$1.2/24 dev "$2" && ip link set "$2" up &&
        ip -n target addr add 198.18.$1.1/24 dev "$3" && ip -n target link set "$3" up && ip netns exec target ethtool -K "$3" gro on && ethtool -K "$2" tso off
}
network_up() {
    modprobe -a veth virtio_net && ip netns add target && ip link add veth0 type veth peer name veth1 &&
        cable 1 veth0 veth1 && cable 2 eth0 eth1 || return
    cat >$SPINDLE <<SH && chmod +x $SPINDLE
#!/bin/sh
exec ip netns exec target "$PWD/spindle" "\$@" --cores [0,1] --tcp-zero-copy 16K --busy-poll 50 --tcp-placement queue
SH
}
counter() { rpc iscsi_get_counters | sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p"; }

# Linux counts the packets that a socket's busy polling brings, which are few
# here; how often it looked is a probe's to count.
probe() (
    mount -t tracefs tracefs /sys/kernel/tracing && cd /sys/kernel/tracing &&
        echo 'p:busy napi_busy_loop' >kprobe_events && echo 1 >events/kprobes/busy/enable
)
polls() { awk '$1 == "busy" { print $2 }' /sys/kernel/tracing/kprobe_profile; }
polled() { ip netns exec target nstat -asz TcpExtBusyPollRxPackets | awk '/BusyPoll/ { print $2 }'; }

# grows NAME COMMAND...: what COMMAND prints is more than it was.
grows() {
    local before=${was[$1]:-0} now
    now=$("${@:2}")
    was[$1]=$now
    echo "$1: $before before, $now now"
    ((now > before))
}
declare -A was

# verified LUN MIB: large and small I/O with a queue, every block's sum checked.
verified() {
    fio --name=verified --filename="$(lun tcp "$1")" --ioengine=libaio --direct=1 --rw=randrw --rwmixread=50 \
        --bssplit=4k/30:16k/20:64k/30:256k/20 --iodepth=16 --size=48m --io_size="$2"m \
        --verify=crc32c --verify_fatal=1 --do_verify=1 --minimal
}

# through NAME PORTAL: everything by way of one device.
through() {
    PORTAL=$2
    check "$1: discovery" discover
    check "$1: login" login || return
    check "$1: placed by its queue" grows placed counter tcp_placed
    check "$1: fio verify, memory" verified $MEMORY 16
    check "$1: fio verify, a file" verified $FILE 8
    check "$1: messages were lent" grows loans counter tcp_loans
    check "$1: its queue was polled" grows polls polls
    say "${was[loans]} loans, ${was[polls]} looks, which brought $(polled) packets; $(counter tcp_loans_refused) loans refused"
    check "$1: logout" logout
}

check "scratch disk" scratch_up
check "two cables" network_up || finish
PORTAL=$VETH
check "$TARGET starts" target_up || finish
check "busy polling can be seen" probe
check "iscsid starts" initiator_up
through veth $VETH
through virtio-net $VIRTIO

no_errors() { ! dmesg | grep -E 'I/O error|Medium Error|Data Integrity'; }
check "the kernel saw no I/O error" no_errors
check "$TARGET still runs" kill -0 "$target_pid"
kill -TERM "$target_pid"
check "it ends in good order" wait "$target_pid"
finish
