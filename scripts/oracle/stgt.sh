#!/bin/bash
# stgt.sh start|stop: a fresh STGT, its own instance, on a file of 100 MiB. What
# start prints are the variables of the dialogues.
set -eu
dir=${TMPDIR:-/tmp}/spindle-oracle-stgt
control=26011 # names its socket
portal=127.0.0.1:${ORACLE_PORT:-26011}
node=iqn.2026-11.dev.spindle:oracle
export PATH=$PATH:/usr/sbin

admin() { tgtadm -C $control --lld iscsi "$@"; }

stop() {
    if [[ -s $dir/pid ]] && pid=$(<"$dir/pid") && [[ $(cat "/proc/$pid/comm" 2>/dev/null) == tgtd ]]; then
        kill -9 "$pid" # it ignores SIGTERM while it has targets
        while [[ -e /proc/$pid ]]; do sleep 0.02; done
    fi
    rm -rf "$dir" /run/tgtd/socket.$control /run/tgtd/socket.$control.lock
}

start() {
    mkdir -p "$dir" /run/tgtd
    truncate -s 100M "$dir/disk"
    tgtd -f -C $control --iscsi portal="$portal" >"$dir/log" 2>&1 </dev/null &
    echo $! >"$dir/pid"
    for _ in {1..100}; do
        admin --op show --mode sys >/dev/null 2>&1 && break
        sleep 0.05
    done
    for tid in 1 2; do
        admin --op new --mode target --tid $tid -T $node$([[ $tid == 1 ]] || echo -chap)
        admin --op bind --mode target --tid $tid -I ALL
    done
    admin --op new --mode logicalunit --tid 1 --lun 1 -b "$dir/disk"
    admin --op update --mode logicalunit --tid 1 --lun 1 --params thin_provisioning=1
    admin --op new --mode account --user alice --password alice-secret-123
    admin --op new --mode account --user target --password target-secret-456
    admin --op bind --mode account --tid 2 --user alice
    admin --op bind --mode account --tid 2 --user target --outgoing
    echo "portal=$portal target=$node lun=1 chapnode=$node-chap chapuser=alice chapsecret=alice-secret-123"
}

stop
[[ $1 == stop ]] || start
