#!/bin/bash
# The dialogues against the kernel's target, a fresh one for each.
. ./lib.sh
mkdir testdata && mv ./*.txt testdata/
check "scratch disk" scratch_up || finish
check "modules" modprobe -a target_core_mod target_core_file iscsi_target_mod || finish
./dialogue.test -test.run TestForeign -test.v -dialogue.patience 4s -dialogue.with ./lio.sh -dialogue.expect lio.expected >/run/said 2>&1 &
played=$!
tail -n +1 -F --pid=$played /run/said 2>/dev/null
wait $played
[[ ! -e /run/oracle.hangs ]] || say "of the targets $(wc -l </run/oracle.hangs) hang: $(tr '\n' ' ' </run/oracle.hangs)"
passed=$(grep -c '^    --- PASS' /run/said) failed=$(grep -c '^    --- FAIL' /run/said)
finish
