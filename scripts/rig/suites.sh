#!/bin/bash
# libiscsi's suite through the kernel's initiator: SG_IO over iSER and over TCP, on
# LUNs of every form. RIG_SUITES is a list of FORM@TRANSPORT, FORM-paths@both of those
# that are reached by both; FORMS are the LUNs in suites.json. SUITES names the parts,
# all by default.
. ./lib.sh
PORTAL=198.18.0.1:3260 CONFIG=suites.json
FORMS=(malloc malloc-thick malloc-removable malloc-readonly malloc-4k file file-thick file-removable file-readonly file-4k)

disk() { lun iser 0; } # login waits for it
files_up() { scratch_up && truncate -s 64M /scratch/file{,-thick,-removable,-readonly,-4k}; }
iser_up() { rpc iscsi_get_portal_groups | grep -q '"iser_state": "serving"'; }

all() { iscsi-test-cu --list 2>&1 | sed -n 's/^SCSI\.\([^.]*\)$/\1/p'; }

check "soft-RoCE device" rdma_up || finish
check "scratch disk" files_up || finish
check "$TARGET starts" target_up || finish
check "the portal is served over iSER" until_true 20 iser_up || finish
# 256 blocks of 4 KiB are more than the 512 KiB that ib_iser takes of itself.
check "iscsid starts" eval 'initiator_up && modprobe ib_iser max_sectors=4096'
check "login over iSER and TCP" eval 'login_by iser && login_by default' || finish
: "${SUITES:=$(all)}"
for run in $RIG_SUITES; do
    form=${run%@*}
    for n in "${!FORMS[@]}"; do [[ ${FORMS[n]} == "${form%-paths}" ]] && break; done
    check "iscsi-test-cu $run runs to its end" suites "$form" "${run#*@}" "$n"
done
check "$TARGET still runs" kill -0 "$target_pid"
check "logout" iscsiadm -m node --logoutall=all
kill -TERM "$target_pid"
check "it ends in good order" wait "$target_pid"
leave_logs
finish
