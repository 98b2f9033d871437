# Sourced by the jobs: checks, the target under test, the kernel's initiator.
IQN=iqn.2026-11.io.spindle:rig
PORTAL=127.0.0.1:3260
DISK=/scratch/disk.img # behind the LUN
passed=0 failed=0

say() { printf '[%6s] %s\n' "$(cut -d' ' -f1 /proc/uptime)" "$*"; }

# check NAME COMMAND...: one result; what a failed command said is shown. The
# command runs in this shell, so that it may start and wait for processes.
check() {
    local name=$1
    shift
    if "$@" >/run/check.log 2>&1; then
        say "ok   $name"
        passed=$((passed + 1))
    else
        say "FAIL $name"
        tail -30 /run/check.log | sed 's/^/         /'
        failed=$((failed + 1))
        return 1
    fi
}

finish() {
    if ((failed)); then
        tail -n 30 /run/target.log /run/iscsid.log 2>/dev/null
        dmesg | tail -n 30
    fi
    echo "$passed passed, $failed failed"
    exit $((failed > 0))
}

until_true() { # SECONDS COMMAND...
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || return 1
        sleep 0.1
    done
}

# A disk of the guest's own under the LUN: tmpfs has no O_DIRECT.
scratch_up() {
    mkfs.ext4 -q -F /dev/vdc && mkdir -p /scratch && mount /dev/vdc /scratch && truncate -s 512M $DISK
}

# An RDMA device that needs no adapter. Both ends use its one address.
rdma_up() {
    modprobe -a rdma_rxe dummy rdma_ucm ib_uverbs || return
    [[ -e /sys/class/net/dummy0 ]] || ip link add dummy0 type dummy
    ip addr replace "${PORTAL%:*}/24" dev dummy0 && ip link set dummy0 mtu 9000 up && rdma link add rxe0 type rxe netdev dummy0
}

# no_rnr: the device has told no peer that it was not ready to receive.
no_rnr() {
    local f
    for f in /sys/class/infiniband/rxe0/ports/1/hw_counters/*rnr*; do
        echo "${f##*/} $(<"$f")"
        [[ $(<"$f") == 0 ]] || return
    done
}

listening() { (: <"/dev/tcp/${PORTAL/://}") 2>/dev/null; }

target_up() {
    case $TARGET in
    spindle)
        "${SPINDLE:-./spindle}" serve --config "${CONFIG:-spindle.json}" ${STATE:+--state-dir "$STATE"} ${ARENA:+--mem "$ARENA"} --rpc-socket /run/spindle.sock >>/run/target.log 2>&1 &
        target_pid=$!
        until_true 60 listening
        ;;
    tgt)
        tgtd -f >>/run/target.log 2>&1 &
        target_pid=$!
        until_true 20 tgtadm --op show --mode sys || return
        tgtadm --lld iscsi --op new --mode target --tid 1 -T $IQN &&
            tgtadm --lld iscsi --op new --mode logicalunit --tid 1 --lun 1 -b $DISK &&
            tgtadm --lld iscsi --op update --mode logicalunit --tid 1 --lun 1 --params thin_provisioning=1 &&
            tgtadm --lld iscsi --op bind --mode target --tid 1 -I ALL
        ;;
    esac
}

rpc() { ./spindle rpc --rpc-socket /run/spindle.sock "$@"; }

target_kill() { kill -9 "$target_pid"; wait "$target_pid" 2>/dev/null; true; }

initiator_up() {
    modprobe -a iscsi_tcp sd_mod sg || return
    mkdir -p /run/lock/iscsi
    sed -i 's|^iscsid.startup.*|iscsid.startup = /bin/true|' /etc/iscsi/iscsid.conf
    iscsid -f >/run/iscsid.log 2>&1 &
    until_true 30 iscsiadm -m iface
}

discover() { iscsiadm -m discovery -t sendtargets -p $PORTAL "$@" | grep "^$PORTAL,1 $IQN"; }
login() { timeout 60 iscsiadm -m node -T $IQN -p $PORTAL --login && until_true 20 disk; }
logout() { timeout 60 iscsiadm -m node -T $IQN -p $PORTAL --logout; }

# login_by INTERFACE: a session over iser, or over default, which is TCP.
login_by() {
    local name=tcp
    [[ $1 == default ]] || name=$1
    iscsiadm -m node -o new -T $IQN -p $PORTAL,1 -I "$1" && timeout 60 iscsiadm -m node -T $IQN -p $PORTAL -I "$1" --login &&
        until_true 20 lun "$name" 0
}

# lun TRANSPORT LUN prints the block device of a LUN in the session over iser or tcp.
lun() {
    local sid b
    sid=$(iscsiadm -m session | sed -n "s/^$1: \[\([0-9]*\)\].*/\1/p" | head -n 1)
    for b in /sys/class/iscsi_session/session"${sid:-none}"/device/target*/*:"$2"/block/*; do
        [[ -b /dev/${b##*/} ]] && echo "/dev/${b##*/}" && return
    done
    return 1
}

# sg TRANSPORT LUN prints its SCSI generic device, which is there for a LUN that
# cannot be written or has no medium as well.
sg() {
    local sid g
    sid=$(iscsiadm -m session | sed -n "s/^$1: \[\([0-9]*\)\].*/\1/p" | head -n 1)
    for g in /sys/class/iscsi_session/session"${sid:-none}"/device/target*/*:"$2"/scsi_generic/*; do
        [[ -c /dev/${g##*/} ]] && echo "/dev/${g##*/}" && return
    done
    return 1
}

# suites FORM TRANSPORT LUN: those of SUITES run to their ends by SG_IO, over iser, tcp
# or both, which are two paths. What became of their tests is in a log that the host
# compares with what is expected.
suites() {
    local suite by dev devs=() log=/run/logs/$1@$2
    for by in ${2/both/iser tcp}; do
        dev=$(sg "$by" "$3") && devs+=("$dev") || return
    done
    mkdir -p /run/logs || return
    for suite in $SUITES; do
        # What ran before has left unit attentions, at which the suite gives up.
        for dev in "${devs[@]}"; do until_true 5 sg_turs "$dev"; done
        timeout 200 stdbuf -oL iscsi-test-cu --dataloss --test="SCSI.$suite" "${devs[@]}" >>"$log" 2>&1
    done
    tail -n 3 "$log"
    [[ $(grep -c '^Run Summary' "$log") == $(wc -w <<<"$SUITES") ]]
}
leave_logs() { until_true 20 umount /scratch && tar -cf /dev/vdc -C /run/logs .; } # the ring of a target that ended may hold it yet

# in_state TRANSPORT STATE: the session over it is there and usable, or not.
in_state() {
    local sid
    sid=$(iscsiadm -m session | sed -n "s/^$1: \[\([0-9]*\)\].*/\1/p" | head -n 1)
    [[ $(<"/sys/class/iscsi_session/session${sid:-none}/state") == "$2" ]]
}

logged_in() { iscsiadm -m session -P1 | grep -q 'iSCSI Session State: LOGGED_IN'; }

# disk prints the block device of the LUN.
disk() {
    local b
    for b in /sys/class/iscsi_session/session*/device/target*/*/block/*; do
        [[ -b /dev/${b##*/} ]] && echo "/dev/${b##*/}" && return
    done
    return 1
}

# file_system TYPE: make one, fill it, mount it anew, compare, check.
file_system() {
    local dev
    dev=$(disk) || return
    mkfs."$1" -q $([[ $1 == xfs ]] && echo -f || echo -F) "$dev" && mount "$dev" /mnt || return
    head -c 24M /dev/urandom >/run/random && cp /run/random /mnt/a && cp /run/random /mnt/b && umount /mnt &&
        blockdev --flushbufs "$dev" && mount "$dev" /mnt && cmp /run/random /mnt/a && cmp /run/random /mnt/b && umount /mnt || return
    case $1 in
    ext4) e2fsck -fn "$dev" ;;
    xfs) xfs_repair -n "$dev" ;;
    esac
}

# trim: space that a file system gives back leaves the target's disk.
trim() {
    local dev before after
    dev=$(disk) || return
    mkfs.ext4 -q -F "$dev" && mount "$dev" /mnt && head -c 96M /dev/urandom >/mnt/big && sync -f /mnt || return
    before=$(du -m $DISK | cut -f1)
    rm /mnt/big && sync -f /mnt && fstrim -v /mnt && umount /mnt || return
    sync
    after=$(du -m $DISK | cut -f1)
    echo "$before MiB before, $after MiB after"
    ((before - after >= 80))
}

# verify DEPTH ARG...: random writes and reads, every block read back and its sum checked.
verify() {
    local dev depth=$1
    shift
    dev=$(disk) || return
    fio --name=verify --filename="$dev" --ioengine=libaio --direct=1 --rw=randrw --rwmixread=30 --bsrange=4k-64k --bs_unaligned=0 \
        --iodepth="$depth" --size=256m --verify=crc32c --verify_fatal=1 --do_verify=1 --minimal "$@"
}
