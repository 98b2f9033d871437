package sys

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// sockaddr turns a into the kernel's form. A zone is an interface's name or number.
func sockaddr(a netip.AddrPort) (unix.Sockaddr, error) {
	ip := a.Addr().Unmap()
	switch {
	case !ip.IsValid():
		return nil, fmt.Errorf("address %v: %w", a, unix.EINVAL)
	case ip.Is4():
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: ip.As4()}, nil
	}
	sa := &unix.SockaddrInet6{Port: int(a.Port()), Addr: ip.As16()}
	if zone := a.Addr().Zone(); zone != "" {
		if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
			sa.ZoneId = uint32(n)
		} else if ifi, err := net.InterfaceByName(zone); err == nil {
			sa.ZoneId = uint32(ifi.Index)
		} else {
			return nil, fmt.Errorf("address %v: %w", a, err)
		}
	}
	return sa, nil
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch s := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(s.Addr), uint16(s.Port))
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(s.Addr).Unmap()
		if s.ZoneId != 0 && ip.Is6() {
			ip = ip.WithZone(strconv.FormatUint(uint64(s.ZoneId), 10))
		}
		return netip.AddrPortFrom(ip, uint16(s.Port))
	}
	return netip.AddrPort{}
}

// TCPSocket makes a TCP socket of addr's family. It blocks, as io_uring wants
// it: a non-blocking one would answer EAGAIN instead of waiting in the kernel.
// An IPv6 socket takes IPv6 only, so that 0.0.0.0 and [::] are two portals.
func TCPSocket(addr netip.AddrPort) (int, error) {
	family := unix.AF_INET
	if addr.Addr().Unmap().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("IPV6_V6ONLY: %w", err)
		}
	}
	return fd, nil
}

// SocketOption is a socket option that a listener's connections inherit.
type SocketOption uint8

// Socket options.
const (
	ReuseAddr SocketOption = iota
	NoDelay
	SendBuffer    // bytes
	ReceiveBuffer // bytes
	UserTimeout   // milliseconds
	KeepAlive
	BusyPoll // microseconds
)

// SetOption sets option o of a TCP socket.
func SetOption(fd int, o SocketOption, v int) error {
	var err error
	switch o {
	case ReuseAddr:
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, v)
	case NoDelay:
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, v)
	case SendBuffer:
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, v)
	case ReceiveBuffer:
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, v)
	case UserTimeout:
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, v)
	case KeepAlive:
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, v)
	case BusyPoll:
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BUSY_POLL, v)
	default:
		err = unix.EINVAL
	}
	if err != nil {
		return fmt.Errorf("setsockopt %d to %d: %w", o, v, err)
	}
	return nil
}

// Incoming tells which CPU took a socket's last packet from its device, and
// which of the devices' queues it came by: 0 when that has no number, as on
// loopback.
func Incoming(fd int) (cpu, queue int, err error) {
	if cpu, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_INCOMING_CPU); err != nil {
		return 0, 0, fmt.Errorf("SO_INCOMING_CPU: %w", err)
	}
	if queue, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_INCOMING_NAPI_ID); err != nil {
		return 0, 0, fmt.Errorf("SO_INCOMING_NAPI_ID: %w", err)
	}
	return cpu, queue, nil
}

// SetCongestion chooses the congestion control of a TCP socket by its name.
func SetCongestion(fd int, name string) error {
	if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, name); err != nil {
		return fmt.Errorf("TCP_CONGESTION %q: %w", name, err)
	}
	return nil
}

// Congestion returns the congestion control of a TCP socket.
func Congestion(fd int) (string, error) {
	return unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
}

// Listen binds fd to addr and listens.
func Listen(fd int, addr netip.AddrPort, backlog int) error {
	sa, err := sockaddr(addr)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, sa); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return nil
}

// LocalAddr is the address a socket is bound to.
func LocalAddr(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("getsockname: %w", err)
	}
	return addrPort(sa), nil
}

// PeerAddr is the address a socket is connected to.
func PeerAddr(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("getpeername: %w", err)
	}
	return addrPort(sa), nil
}

// Eventfd makes an event counter, at zero.
func Eventfd() (int, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("eventfd: %w", err)
	}
	return fd, nil
}

// one is what Signal writes: the counter's increment in the machine's order.
var one = binary.NativeEndian.AppendUint64(nil, 1)

// Signal adds one to an event counter.
func Signal(fd int) error {
	for {
		_, err := unix.Write(fd, one)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Close closes a descriptor. EINTR is no failure: Linux has closed it.
func Close(fd int) error {
	if err := unix.Close(fd); err != nil && err != unix.EINTR {
		return os.NewSyscallError("close", err)
	}
	return nil
}

// SendNow sends the struct msghdr at addr, off-heap memory, on fd without
// waiting, and returns what sendmsg(2) does: the bytes taken, or a negative
// errno. It is raw, as the ring's entries are: the caller bounds the bytes.
//
//spindle:hot
func SendNow(fd int32, addr uintptr) int32 {
	n, _, e := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), addr, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	if e != 0 {
		return -int32(e)
	}
	return int32(n)
}
