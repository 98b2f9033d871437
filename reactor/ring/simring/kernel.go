package simring

import (
	"fmt"
	"net/netip"
	"syscall"

	"spindle/reactor/ring"
)

// firstFD leaves out the standard descriptors.
const firstFD = 3

// desc is an open file description: one of its pointers is set. It lives as
// long as a descriptor or a ring's file table refers to it.
type desc struct {
	w      *World
	refs   int
	conn   *conn
	lis    *listener
	disk   *Disk
	event  *eventFD
	open   ring.OpenFlags
	closed bool
}

// eventFD is an eventfd: what a reactor polls for other kernel objects.
type eventFD struct {
	w      *World
	id     int
	raised bool
	waits  opQueue
}

// installFD gives d the lowest free number, as POSIX does, so that a
// descriptor used after its close soon names something else.
func (w *World) installFD(d *desc) int {
	d.w, d.refs = w, 1
	for len(w.fds) < firstFD {
		w.fds = append(w.fds, nil)
	}
	for fd := firstFD; fd < len(w.fds); fd++ {
		if w.fds[fd] == nil {
			w.fds[fd] = d
			return fd
		}
	}
	w.fds = append(w.fds, d)
	return len(w.fds) - 1
}

func (w *World) desc(fd int) (*desc, error) {
	if fd < firstFD || fd >= len(w.fds) || w.fds[fd] == nil {
		return nil, fmt.Errorf("simring: descriptor %d: %w", fd, syscall.EBADF)
	}
	return w.fds[fd], nil
}

// release drops a reference; the last one closes the object.
func (d *desc) release() {
	if d.refs--; d.refs > 0 || d.closed {
		return
	}
	d.closed = true
	switch {
	case d.conn != nil:
		d.conn.closeSocket()
	case d.lis != nil:
		d.lis.close()
	}
}

// drop is release by the death of the process or the machine; d may be nil.
func (d *desc) drop(power bool) {
	if d == nil {
		return
	}
	if power && d.conn != nil {
		d.conn.kill()
	}
	d.release()
}

// OpenFDs is the number of open descriptors.
func (w *World) OpenFDs() int {
	n := 0
	for _, d := range w.fds {
		if d != nil {
			n++
		}
	}
	return n
}

// Listen implements ring.Kernel. Port 0 is replaced by a free one.
func (w *World) Listen(addr netip.AddrPort, opt ring.ListenOptions) (int, netip.AddrPort, error) {
	if addr.Port() == 0 {
		addr = netip.AddrPortFrom(addr.Addr(), w.ephemeral())
	}
	for _, l := range w.listeners {
		other := listener{addr: addr}
		if l.covers(addr) || other.covers(l.addr) {
			return -1, netip.AddrPort{}, fmt.Errorf("simring: listen %v: %w", addr, syscall.EADDRINUSE)
		}
	}
	defaultTo(&opt.Backlog, 128)
	defaultTo(&opt.SendBuffer, w.cfg.SocketBuffer)
	defaultTo(&opt.RecvBuffer, w.cfg.SocketBuffer)
	l := &listener{w: w, addr: addr, opt: opt}
	w.listeners = append(w.listeners, l)
	return w.installFD(&desc{lis: l}), addr, nil
}

// Open implements ring.Kernel: path is that of a Disk.
func (w *World) Open(path string, fl ring.OpenFlags) (int, ring.FileInfo, error) {
	d := w.Disk(path)
	switch {
	case d == nil:
		return -1, ring.FileInfo{}, fmt.Errorf("simring: open %s: %w", path, syscall.ENOENT)
	case fl&ring.OpenDirect != 0 && d.opt.NoDirect:
		return -1, ring.FileInfo{}, fmt.Errorf("simring: open %s: %w", path, syscall.EINVAL)
	case fl&ring.OpenReadOnly == 0 && d.opt.ReadOnly:
		return -1, ring.FileInfo{}, fmt.Errorf("simring: open %s: %w", path, syscall.EROFS)
	}
	return w.installFD(&desc{disk: d, open: fl}), d.info(), nil
}

// Stat implements ring.Kernel.
func (w *World) Stat(fd int) (ring.FileInfo, error) {
	d, err := w.desc(fd)
	if err == nil && d.disk == nil {
		err = fmt.Errorf("simring: stat of descriptor %d: %w", fd, syscall.EINVAL)
	}
	if err != nil {
		return ring.FileInfo{}, err
	}
	return d.disk.info(), nil
}

// Addrs implements ring.Kernel.
func (w *World) Addrs(fd int) (local, peer netip.AddrPort, err error) {
	d, err := w.desc(fd)
	if err != nil {
		return netip.AddrPort{}, netip.AddrPort{}, err
	}
	if d.conn == nil || d.conn.sock.dead {
		return netip.AddrPort{}, netip.AddrPort{}, fmt.Errorf("simring: addresses of descriptor %d: %w", fd, syscall.ENOTCONN)
	}
	return d.conn.local, d.conn.remote, nil
}

// CloseFD implements ring.Kernel. Rings that installed fd keep the object open.
func (w *World) CloseFD(fd int) error {
	d, err := w.desc(fd)
	if err != nil {
		return err
	}
	w.fds[fd] = nil
	d.release()
	w.settle()
	return nil
}

// NewEvent makes an eventfd for Ring.PollFD.
func (w *World) NewEvent() int {
	e := &eventFD{w: w}
	e.id = w.installFD(&desc{event: e})
	return e.id
}

// Signal makes the eventfd readable, until Drain.
func (w *World) Signal(fd int) error {
	d, err := w.desc(fd)
	if err != nil || d.event == nil {
		return err
	}
	d.event.raised = true
	for o := d.event.waits.head; o != nil; o = d.event.waits.head {
		d.event.waits.remove(o)
		o.complete(pollIn, 0)
	}
	return nil
}

// Drain makes the eventfd unreadable and tells whether it was readable.
func (w *World) Drain(fd int) bool {
	d, err := w.desc(fd)
	if err != nil || d.event == nil {
		return false
	}
	was := d.event.raised
	d.event.raised = false
	return was
}
