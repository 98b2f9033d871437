#!/bin/bash
# The kernel's initiator over TCP: attach, file systems, verified I/O, trim,
# and the death of the target under load.
. ./lib.sh

check "scratch disk" scratch_up
[[ ! -e file.test ]] || check "a file disk under signals" env TMPDIR=/scratch ./file.test -test.run TestSignals
check "$TARGET starts" target_up || finish
check "iscsid starts" initiator_up
check "discovery" discover
check "login" login || finish
say "$(disk) $(lsscsi | tail -1)"

check "ext4" file_system ext4
check "xfs" file_system xfs
check "fstrim" trim
check "fio verify, queue depth 1" verify 1 --io_size=8m
check "fio verify, queue depth 32" verify 32 --io_size=96m

# The initiator keeps what was not answered and sends it again to the target's successor.
verify 32 --io_size=256m >/run/fio.log 2>&1 &
fio_pid=$!
sleep 4
check "fio runs when the target dies" kill -0 $fio_pid
target_kill
sleep 2
check "$TARGET starts again" target_up
check "the session comes back" until_true 60 logged_in
check "fio finds no mismatch" wait $fio_pid || cat /run/fio.log

no_errors() { ! dmesg | grep -E 'I/O error|Medium Error|Data Integrity'; }
check "the kernel saw no I/O error" no_errors
check "logout" logout

# CHAP: every digest that the initiator knows, of which it offers one at a time.
node() { iscsiadm -m node -T $IQN -p $PORTAL "$@"; }
auth() { node -o update -n "node.session.auth.$1" -v "$2"; }
secrets_up() {
    rpc iscsi_create_auth_group tag=1 'secrets=[{"user":"initiator","secret":"one side, 16 bytes","muser":"target","msecret":"other side, 16 too"}]' &&
        rpc iscsi_target_node_set_auth name=$IQN chap_group=1 require_chap=true
}
mutual() { rpc iscsi_target_node_set_auth name=$IQN chap_group=1 require_chap=true mutual_chap=true; }
one_way_creds() { auth authmethod CHAP && auth username initiator && auth password "one side, 16 bytes"; }
mutual_creds() { auth username_in target && auth password_in "other side, 16 too"; }
by() { auth chap_algs "$1" && login && dd if="$(disk)" of=/dev/null bs=4k count=1 iflag=direct && logout; }
refused() { ! login; }
rotate() {
    rpc iscsi_auth_group_remove_secret tag=1 user=initiator &&
        rpc iscsi_auth_group_add_secret tag=1 user=initiator "secret=a new secret of 22" muser=target "msecret=other side, 16 too" && refused &&
        auth password "a new secret of 22" && login && logout
}
if [[ $TARGET == spindle ]]; then
    check "an auth group, which the node asks for" secrets_up
    check "without CHAP nobody is let in" refused
    check "the initiator has the secret" one_way_creds
    for digest in MD5 SHA1 SHA256 SHA3-256; do check "one-way CHAP by $digest" by $digest; done
    check "mutual CHAP is asked for" mutual
    check "an initiator that does not ask is not let in" refused
    check "the initiator asks for the other secret" mutual_creds
    for digest in MD5 SHA1 SHA256 SHA3-256; do check "mutual CHAP by $digest" by $digest; done
    check "a new secret takes the place of the old" rotate
    check "the initiator expects another secret of the target" auth password_in "not what it is"
    check "and does not go in" refused
    check "no secret is in the target's log" eval '! grep -e "one side" -e "other side" -e "new secret" /run/target.log'
fi
check "$TARGET still runs" kill -0 "$target_pid"
finish
