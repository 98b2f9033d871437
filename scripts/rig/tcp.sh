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
check "$TARGET still runs" kill -0 "$target_pid"
finish
