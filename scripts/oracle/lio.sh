#!/bin/bash
# lio.sh start|stop: the kernel's target with nothing before it, on a file of
# 100 MiB. What start prints are the variables of the dialogues. For a guest: a
# target that hangs is left as it is, and the next has another name and port.
set -eu
root=/sys/kernel/config/target
disks=${ORACLE_DISKS:-/scratch}
count=/run/oracle.count
n=$(cat $count 2>/dev/null || echo 0)
node=iqn.2026-11.dev.spindle:oracle$n

stop() {
    local g
    for g in $root/iscsi/$node{,-chap}/tpgt_1; do
        [[ -d $g ]] || continue
        echo 0 >"$g/enable"
        rmdir "$g"/np/*
        rm -f "$g/lun/lun_0/oracle"
        rmdir "$g/lun/lun_0" "$g" "${g%/*}"
    done
    rmdir "$root/core/fileio_$n/oracle" "$root/core/fileio_$n"
    rm -f "$disks/$n"
}

node_up() { # NAME AUTHENTICATION
    local g=$root/iscsi/$1/tpgt_1 a
    mkdir -p "$g" && mkdir "$g/np/$portal"
    for a in authentication="$2" demo_mode_write_protect=0 generate_node_acls=1 cache_dynamic_acls=1 demo_mode_discovery=1; do
        echo "${a#*=}" >"$g/attrib/${a%=*}"
    done
    mkdir "$g/lun/lun_0" && ln -s "$store" "$g/lun/lun_0/oracle"
    echo 2 >"$g/param/ErrorRecoveryLevel"
    echo 4 >"$g/param/MaxConnections"
    if (($2)); then
        echo -n alice >"$g/auth/userid"
        echo -n alice-secret-123 >"$g/auth/password"
        echo -n target >"$g/auth/userid_mutual"
        echo -n target-secret-456 >"$g/auth/password_mutual"
    fi
    echo 1 >"$g/enable"
}

start() {
    store=$root/core/fileio_$n/oracle portal=127.0.0.1:$((3260 + n))
    mkdir -p $root/iscsi "$root/core/fileio_$n" && mkdir "$store"
    truncate -s 100M "$disks/$n"
    echo -n "fd_dev_name=$disks/$n,fd_dev_size=$((100 << 20)),fd_buffered_io=1" >"$store/control"
    echo 1 >"$store/enable"
    for a in emulate_tpu emulate_tpws; do echo 1 >"$store/attrib/$a"; done
    node_up "$node" 0
    node_up "$node-chap" 1
    echo "portal=$portal target=$node lun=0 erl=2 chapnode=$node-chap chapuser=alice chapsecret=alice-secret-123"
}

case $1 in
remove) stop ;;
start | stop)
    "$0" remove >/dev/null 2>&1 </dev/null &
    removing=$!
    for _ in {1..100}; do
        [[ -e /proc/$removing ]] || break
        sleep 0.1
    done
    [[ ! -e /proc/$removing ]] || echo "$node hangs" >>/run/oracle.hangs
    n=$((n + 1)) node=iqn.2026-11.dev.spindle:oracle$n
    echo $n >$count
    [[ $1 == stop ]] || start
    ;;
esac
