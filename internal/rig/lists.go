package rig

// packages of the guest; their dependencies come along.
var packages = []string{
	"base-files", "base-passwd", "bash", "busybox-static", "coreutils", "diffutils", "ethtool", "findutils", "grep", "gzip",
	"hostname", "iproute2", "kmod", "libc-bin", "mawk", "mount", "procps", "sed", "tar", "util-linux",
	"e2fsprogs", "fio", "lsscsi", "sg3-utils", "strace", "xfsprogs",
	"dmsetup", "multipath-tools", "udev",
	"libiscsi-bin", "open-iscsi", "tgt",
	"ibverbs-providers", "ibverbs-utils", "perftest", "rdma-core", "rdmacm-utils",
	"mtools", "syslinux", "syslinux-common", // run at the build, by the host
	kernelPackage,
}

// kernelPackage depends on the kernel proper, whose files go elsewhere.
const kernelPackage = "linux-image-amd64"

// bootModules mount the root, in the order of their loading: from a virtio
// disk, or from a SCSI disk behind virtio.
var bootModules = []string{"virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "crc32c_generic", "ext4"}

// modules of the guest; their dependencies come along. crc32_generic is named
// for rdma_rxe, which asks the crypto layer for "crc32" without depending on it.
var modules = []string{
	"virtio_console", "virtio_net", "loop", "dummy", "veth", "configfs", "null_blk", "xfs",
	"iscsi_tcp", "scsi_transport_iscsi", "sd_mod", "sg", "dm_flakey", "dm_log_writes",
	"dm_multipath", "dm_round_robin", "dm_service_time", "scsi_dh_alua",
	"rdma_rxe", "ib_uverbs", "ib_umad", "rdma_cm", "rdma_ucm", "ib_iser", "crc32_generic", "crc32c_intel",
	"target_core_mod", "target_core_file", "target_core_iblock", "iscsi_target_mod", "ib_isert",
}
