// Package crash tells whether a file system on a LUN keeps what it was told to
// keep when power fails. Below the target's block device the kernel logs every
// write and flush in the order in which they became durable (dm-log-writes);
// above the initiator a workload makes each of its steps durable and then puts
// a mark into that log. Any beginning of the log is a disk that a power failure
// may leave: the file system must recover on it, and what a mark promises must
// be there.
//
// A log is blocks of the device's sector size:
//
//	block 0   u64 magic, u64 version, u64 entries, u32 sector size
//	entry     u64 sector, u64 sectors, u64 flags, u64 bytes of the mark; the mark;
//	          then the sectors that were written, none of a discard
//
// all little endian, an entry's head in a block of its own
// (Documentation/admin-guide/device-mapper/log-writes.rst). A plain write stands
// before the first flush that came after its completion, a FUA write where it
// ended: so an entry is durable once a flush, a FUA write or a mark behind it is.
//
// Threading: none. Memory: a disk is held whole, on the Go heap.
package crash
