#!/bin/bash
# lio.sh start|stop: the kernel's target with nothing before it, on a file of
# 100 MiB. What start prints are the variables of the dialogues. For a guest: it
# takes whatever is configured away.
set -eu
root=/sys/kernel/config/target
disk=${ORACLE_DISK:-/scratch/disk.img}
portal=127.0.0.1:3260
node=iqn.2026-11.dev.spindle:oracle
store=$root/core/fileio_0/oracle

stop() {
    local n=$root/iscsi
    for g in $n/iqn*/tpgt_1; do
        [[ -d $g ]] || continue
        echo 0 >"$g/enable"
        rmdir "$g"/np/* 2>/dev/null || true
        rm -f "$g"/lun/lun_*/oracle
        rmdir "$g"/lun/lun_* 2>/dev/null || true
        rmdir "$g" "${g%/*}"
    done
    [[ ! -d $store ]] || rmdir $store
    rm -f "$disk"
}

node_up() { # NAME AUTHENTICATION PORTAL
    local g=$root/iscsi/$1/tpgt_1 a
    mkdir -p "$g" && mkdir "$g/np/$3"
    for a in authentication=$2 demo_mode_write_protect=0 generate_node_acls=1 cache_dynamic_acls=1 demo_mode_discovery=1; do
        echo "${a#*=}" >"$g/attrib/${a%=*}"
    done
    mkdir "$g/lun/lun_0" && ln -s $store "$g/lun/lun_0/oracle"
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
    mkdir -p $root/iscsi $root/core/fileio_0 && mkdir $store
    truncate -s 100M "$disk"
    echo -n "fd_dev_name=$disk,fd_dev_size=$((100 << 20)),fd_buffered_io=1" >$store/control
    echo 1 >$store/enable
    for a in emulate_tpu emulate_tpws; do echo 1 >$store/attrib/$a; done
    node_up $node 0 $portal
    node_up $node-chap 1 $portal
    echo "portal=$portal target=$node lun=0 erl=2 chapnode=$node-chap chapuser=alice chapsecret=alice-secret-123"
}

[[ $1 == start || $1 == stop ]]
stop
[[ $1 == stop ]] || start
