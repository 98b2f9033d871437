package control

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"spindle/bdev"
	"spindle/iscsi"
)

// Error is a refused change: an errno, which is what the RPC interface reports,
// and the reason in words.
type Error struct {
	Errno  syscall.Errno
	Reason string
}

func (e *Error) Error() string { return e.Reason }

// Unwrap returns the errno, so that errors.Is finds it.
func (e *Error) Unwrap() error { return e.Errno }

func refuse(errno syscall.Errno, format string, args ...any) error {
	return &Error{Errno: errno, Reason: fmt.Sprintf(format, args...)}
}

// meanings maps the sentinels of the rooms below to errnos.
var meanings = []struct {
	err   error
	errno syscall.Errno
}{
	{iscsi.ErrExists, syscall.EEXIST},
	{iscsi.ErrNotFound, syscall.ENOENT},
	{iscsi.ErrInvalid, syscall.EINVAL},
	{iscsi.ErrInUse, syscall.EBUSY},
	{iscsi.ErrLimit, syscall.ENOSPC},
	{bdev.ErrClaimed, syscall.EPERM},
	{bdev.ErrGone, syscall.ENODEV},
	{bdev.ErrBusy, syscall.EBUSY},
	{bdev.ErrUUID, syscall.EINVAL},
	{bdev.ErrHistogram, syscall.EINVAL},
	{bdev.ErrGeometry, syscall.EINVAL},
	{fs.ErrNotExist, syscall.ENOENT},
	{fs.ErrPermission, syscall.EACCES},
}

// Errno returns the errno that describes err best; EIO when nothing does.
func Errno(err error) syscall.Errno {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	for _, m := range meanings {
		if errors.Is(err, m.err) {
			return m.errno
		}
	}
	return syscall.EIO
}
