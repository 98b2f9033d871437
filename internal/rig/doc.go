// Package rig builds a small Debian guest and boots it under QEMU's emulation,
// so that the kernel's own initiator, soft-RoCE, LIO and STGT can be used in
// tests without a module or a package on the host. Nothing needs root: apt
// works in a folder of its own, packages are unpacked, none is installed.
//
//	cache/apt           private package state and downloads
//	cache/image-HASH/   an image, by what it was made of
//	        vmlinux     the kernel, unpacked: QEMU starts it through its PVH entry,
//	                    which spares the emulated firmware and decompressor
//	        initrd      busybox and the modules that mount the root
//	        root.ext4   the system; its changes are dropped at power-off
//	        boot.fat    a boot loader, the kernel as Debian has it, and initrd
//	        mbr         the code that starts it, of a whole disk's first block
//
// A job is a script and files. It travels in as a tar on a raw disk; what it
// prints comes out of a virtio port, and the last line there is its status.
// BootDisk puts the same on one disk that a machine's firmware starts by itself.
//
// Threading: a build takes a lock on the cache; any number of guests may run.
// Memory: none worth a rule.
package rig
