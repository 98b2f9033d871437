package uring

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"spindle/internal/sys"
	"spindle/reactor/ring"
)

func TestListen(t *testing.T) {
	for _, tc := range []struct {
		name, addr string
		opt        ring.ListenOptions
	}{
		{"IPv4", "127.0.0.1:0", ring.ListenOptions{}},
		{"IPv6", "[::1]:0", ring.ListenOptions{}},
		{"all options", "127.0.0.1:0", ring.ListenOptions{Backlog: 3, Congestion: "reno", SendBuffer: 1 << 16, RecvBuffer: 1 << 16, UserTimeoutMS: 1000}},
		{"unknown congestion control", "127.0.0.1:0", ring.ListenOptions{Congestion: "no such"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var k Kernel
			fd, bound, err := k.Listen(netip.MustParseAddrPort(tc.addr), tc.opt)
			if errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			defer k.CloseFD(fd)
			if bound.Port() == 0 || bound.Addr() != netip.MustParseAddrPort(tc.addr).Addr() {
				t.Errorf("bound to %v", bound)
			}
			c, err := net.Dial("tcp", bound.String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			nfd, _, err := syscall.Accept(fd)
			if err != nil {
				t.Fatal(err)
			}
			defer k.CloseFD(nfd)
			if v, err := syscall.GetsockoptInt(nfd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY); v == 0 || err != nil {
				t.Errorf("TCP_NODELAY is not inherited: %d, %v", v, err)
			}
			if cc, err := sys.Congestion(nfd); tc.opt.Congestion == "reno" && cc != "reno\x00" && cc != "reno" {
				t.Errorf("congestion control %q, %v", cc, err)
			}
			local, peer, err := k.Addrs(nfd)
			if err != nil || local != bound || peer.String() != c.LocalAddr().String() {
				t.Errorf("addresses %v, %v, %v", local, peer, err)
			}
		})
	}
}

func TestListenTwiceFails(t *testing.T) {
	var k Kernel
	fd, bound, err := k.Listen(netip.MustParseAddrPort("127.0.0.1:0"), ring.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer k.CloseFD(fd)
	if _, _, err := k.Listen(bound, ring.ListenOptions{}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("second listener: %v", err)
	}
}

// An IPv6 portal does not take IPv4 connections: they belong to another portal.
func TestListenIPv6Only(t *testing.T) {
	var k Kernel
	fd, bound, err := k.Listen(netip.MustParseAddrPort("[::]:0"), ring.ListenOptions{})
	if err != nil {
		t.Skip(err)
	}
	defer k.CloseFD(fd)
	fd4, _, err := k.Listen(netip.AddrPortFrom(netip.IPv4Unspecified(), bound.Port()), ring.ListenOptions{})
	if err != nil {
		t.Fatalf("0.0.0.0 beside [::]: %v", err)
	}
	_ = k.CloseFD(fd4)
}

func TestOpen(t *testing.T) {
	var k Kernel
	dir := t.TempDir()
	path := filepath.Join(dir, "disk")
	if err := os.WriteFile(path, make([]byte, 12345), 0o600); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, path string
		flags      ring.OpenFlags
		want       error
	}{
		{"read-write", path, 0, nil},
		{"read-only", path, ring.OpenReadOnly, nil},
		{"missing", path + "x", 0, os.ErrNotExist},
		{"directory", dir, ring.OpenReadOnly, sys.ErrNotStorage},
		{"fifo", fifo, 0, sys.ErrNotStorage},
		{"character device", "/dev/null", 0, sys.ErrNotStorage},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fd, info, err := k.Open(tc.path, tc.flags)
			if !errors.Is(err, tc.want) {
				t.Fatalf("error %v, want %v", err, tc.want)
			}
			if err != nil {
				return
			}
			defer k.CloseFD(fd)
			if info.Size != 12345 || info.BlockDevice {
				t.Errorf("info %+v", info)
			}
			if err := os.Truncate(path, 12346); err != nil {
				t.Fatal(err)
			}
			defer os.Truncate(path, 12345)
			if now, err := k.Stat(fd); err != nil || now.Size != 12346 {
				t.Errorf("after growth %+v, %v", now, err)
			}
		})
	}
}

func TestOpenDirect(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	fd, info, err := Kernel{}.Open(path, ring.OpenDirect)
	if errors.Is(err, syscall.EINVAL) {
		t.Skip("the file system refuses O_DIRECT")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(fd)
	if info.Align == 0 || info.Align&(info.Align-1) != 0 {
		t.Fatalf("alignment %d", info.Align)
	}
	g := newRig(t, Config{})
	f := g.install(fd)
	g.must(g.Read(1, f, g.buf(64<<10), int64(info.Align)))
	if c := g.await(1); c.Res != 64<<10 {
		t.Errorf("direct read: %+v", c)
	}
}
