//go:build !amd64

package sys

import "golang.org/x/sys/unix"

// afterCall knows no other processor yet.
func afterCall(int) (int, error) { return -1, unix.ENOSYS }
