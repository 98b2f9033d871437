// Package raw calls the kernel by itself.
//
//lint:room reactor/ring
package raw

import (
	"os"
	"syscall"
)

// Retry is allowed: an error number.
func Retry(err error) bool { return err == syscall.EAGAIN }

// Stop is allowed: a signal.
var Stop os.Signal = syscall.SIGTERM

func poke(fd int) (int, error) {
	return syscall.Write(fd, []byte{syscall.EPOLLIN}) // want
}
