package bdev

var opNames = [NumOps]string{"read", "write", "flush", "unmap", "write_zeroes"}

// String is the operation's name as the RPC interface spells it.
func (o Op) String() string {
	if o < NumOps {
		return opNames[o]
	}
	return "unknown"
}

// NumStatus is the number of statuses.
const NumStatus = int(NoSpace) + 1

var statusNames = [NumStatus]string{"pending", "ok", "nomem", "failed", "out_of_range", "not_supported", "gone", "aborted", "no_space"}

// String is the status as statistics and logs spell it.
func (s Status) String() string {
	if int(s) < NumStatus {
		return statusNames[s]
	}
	return "unknown"
}
