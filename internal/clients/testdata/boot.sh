#!/bin/bash
# Runs in a machine that booted from the LUN. The disk that it lives on is one of
# VENDOR; of the LUN itself, whose commands are passed through, it takes a
# reservation. When it is told to it gives back that, and what it has written.
key=0xb007 disk=/dev/sda
fail() {
    echo "FAIL $*"
    exit 1
}
[[ $(findmnt -no SOURCE /) == /dev/sda2 ]] || fail "the root is $(findmnt -no SOURCE /)"
sg_inq $disk | grep -q "Vendor identification: $VENDOR" || fail "$(sg_inq $disk)"
if [[ $VENDOR == SPINDLE ]]; then
    sg_persist --out --register --param-sark=$key $disk || fail register
    sg_persist --out --reserve --param-rk=$key --prout-type=3 $disk || fail reserve
    sg_persist --in --read-reservation $disk | grep -q "Key=$key" || fail "read reservation"
fi
head -c 32M /dev/urandom >/written && sync -f /written && sum=$(sha256sum </written) || fail write
echo written
read -r -t 300 word </dev/ttyS0 || fail "nothing is said"
echo 3 >/proc/sys/vm/drop_caches
[[ $(sha256sum </written) == "$sum" ]] || fail "other data"
rm /written && sync -f / && fstrim / || fail trim
if [[ $VENDOR == SPINDLE ]]; then
    sg_persist --out --release --param-rk=$key --prout-type=3 $disk || fail release
    sg_persist --out --register --param-rk=$key --param-sark=0 $disk || fail unregister
fi
echo PASS
