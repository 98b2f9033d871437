package uring

import (
	"fmt"
	"net/netip"

	"spindle/internal/sys"
	"spindle/reactor/ring"
)

// DefaultBacklog is the accept queue of a listener that does not say.
const DefaultBacklog = 1024

// Kernel is the machine's ring.Kernel. The zero value is ready.
type Kernel struct{}

var (
	_ ring.Kernel = Kernel{}
	_ ring.Ring   = (*Ring)(nil)
)

// Listen makes a listening TCP socket; bound tells the port when addr's is 0.
// Connections inherit its options.
func (Kernel) Listen(addr netip.AddrPort, opt ring.ListenOptions) (fd int, bound netip.AddrPort, err error) {
	if fd, err = sys.TCPSocket(addr); err != nil {
		return -1, bound, fmt.Errorf("listen on %v: %w", addr, err)
	}
	if err = setOptions(fd, opt); err == nil {
		backlog := opt.Backlog
		if backlog <= 0 {
			backlog = DefaultBacklog
		}
		if err = sys.Listen(fd, addr, backlog); err == nil {
			bound, err = sys.LocalAddr(fd)
		}
	}
	if err != nil {
		_ = sys.Close(fd)
		return -1, bound, fmt.Errorf("listen on %v: %w", addr, err)
	}
	return fd, bound, nil
}

func setOptions(fd int, opt ring.ListenOptions) error {
	for _, o := range []struct {
		opt   sys.SocketOption
		value int
	}{
		{sys.ReuseAddr, 1},
		{sys.NoDelay, 1}, // one sendmsg is one batch: nothing more is coming to wait for
		{sys.KeepAlive, 1},
		{sys.SendBuffer, opt.SendBuffer},
		{sys.ReceiveBuffer, opt.RecvBuffer},
		{sys.UserTimeout, opt.UserTimeoutMS},
		{sys.BusyPoll, opt.BusyPollUS},
	} {
		if o.value == 0 {
			continue
		}
		if err := sys.SetOption(fd, o.opt, o.value); err != nil {
			return err
		}
	}
	if opt.Congestion != "" {
		// A module that is not loaded, or not allowed without root: the system's
		// default serves, only slower.
		_ = sys.SetCongestion(fd, opt.Congestion)
	}
	return nil
}

// Open opens a regular file or block device.
func (Kernel) Open(path string, fl ring.OpenFlags) (int, ring.FileInfo, error) {
	direct := fl&ring.OpenDirect != 0
	fd, st, err := sys.OpenFile(path, fl&ring.OpenReadOnly != 0, direct)
	if err != nil {
		return -1, ring.FileInfo{}, err
	}
	return fd, fileInfo(st), nil
}

// Stat describes an open file or block device as it is now.
func (Kernel) Stat(fd int) (ring.FileInfo, error) {
	st, err := sys.Stat(fd)
	if err == nil && st.Socket {
		err = sys.ErrNotStorage
	}
	if err != nil {
		return ring.FileInfo{}, err
	}
	return fileInfo(st), nil
}

func fileInfo(st sys.FileStat) ring.FileInfo {
	return ring.FileInfo{Size: st.Size, BlockDevice: st.Block, Align: st.Align, Discard: st.Punch, Used: st.Used, Free: st.Free}
}

// Addrs returns both ends of a connected socket.
func (Kernel) Addrs(fd int) (local, peer netip.AddrPort, err error) {
	if local, err = sys.LocalAddr(fd); err == nil {
		peer, err = sys.PeerAddr(fd)
	}
	return local, peer, err
}

// Incoming tells which CPU and which device queue a socket's packets come by.
func (Kernel) Incoming(fd int) (cpu, queue int, err error) { return sys.Incoming(fd) }

// CloseFD closes fd.
func (Kernel) CloseFD(fd int) error { return sys.Close(fd) }
