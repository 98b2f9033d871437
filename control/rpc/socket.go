package rpc

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"spindle/internal/sys"
)

// maxSocketPath is what fits sockaddr_un with its final NUL, in bytes.
const maxSocketPath = 107

// ErrSocketInUse is returned when another live process serves on the socket.
var ErrSocketInUse = errors.New("another process serves on this RPC socket")

// lockSocket takes the lock that goes with the socket at path. It ends with the
// process, so it tells a stale socket from one in use.
func lockSocket(path string) (*os.File, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("RPC socket path %q is longer than %d bytes; choose a shorter one with --rpc-socket", path, maxSocketPath)
	}
	f, err := sys.LockFile(path + ".lock")
	if errors.Is(err, sys.ErrLocked) {
		return nil, fmt.Errorf("%w: %s; stop it, or choose another with --rpc-socket", ErrSocketInUse, path)
	}
	if err != nil {
		return nil, fmt.Errorf("RPC socket: %w", err)
	}
	return f, nil
}

// unlockSocket removes the lock and its file.
func unlockSocket(f *os.File) {
	_ = os.Remove(f.Name())
	_ = f.Close()
}

// listenUnix makes the socket. Preconditions: its lock is held, so one that
// exists is stale.
func listenUnix(path string) (net.Listener, error) {
	switch i, err := os.Lstat(path); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("RPC socket: %w", err)
	case i.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("RPC socket: %s exists and is not a socket", path)
	default:
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove stale RPC socket: %w", err)
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("RPC socket: %w", err)
	}
	// Whoever connects before this is caught by checkPeer.
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("RPC socket: %w", err)
	}
	return l, nil
}

// checkPeer lets root and uid in. The credentials are those of the connected
// process, whatever the socket's mode is or was.
func checkPeer(c net.Conn, uid int) error {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("not a Unix socket")
	}
	p, err := sys.PeerOf(u)
	if err != nil {
		return err
	}
	if p.UID != 0 && p.UID != uid {
		return fmt.Errorf("peer is user %d (process %d), not root or user %d", p.UID, p.PID, uid)
	}
	return nil
}
