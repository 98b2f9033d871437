package sys

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseCPUs(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       []int // nil is an error
	}{
		{"mask", "0x3", []int{0, 1}},
		{"mask without prefix", "f0", []int{4, 5, 6, 7}},
		{"upper case", "0XA", []int{1, 3}},
		{"wide mask", "0x1" + strings.Repeat("0", 32), []int{128}},
		{"list", "[0,2-4]", []int{0, 2, 3, 4}},
		{"bare list", "5,1", []int{1, 5}},
		{"range", "0-2", []int{0, 1, 2}},
		{"overlap", "[1,0-2,2]", []int{0, 1, 2}},
		{"one in brackets", "[7]", []int{7}},
		{"spaces", " [1, 3] ", []int{1, 3}},
		{"no bits", "0x0", nil},
		{"nothing", "", nil},
		{"prefix only", "0x", nil},
		{"sign", "-1", nil},
		{"plus", "+3", nil},
		{"not hexadecimal", "0xg", nil},
		{"backwards", "3-1", nil},
		{"open bracket", "[1", nil},
		{"empty list", "[]", nil},
		{"hole", "1,,2", nil},
		{"beyond the last", "0-1024", nil},
		{"huge range", "0-99999999999", nil},
		{"huge mask", "0x" + strings.Repeat("f", 300), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ParseCPUs(tc.text)
			if !slices.Equal(got, tc.want) || (err == nil) != (tc.want != nil) || err != nil && !errors.Is(err, ErrCPUs) {
				t.Errorf("ParseCPUs(%q) = %v, %v", tc.text, got, err)
			}
		})
	}
}

func TestPinThread(t *testing.T) {
	runtime.LockOSThread() // not unlocked: the thread ends with the test's goroutine
	all, err := Affinity()
	if err != nil {
		t.Fatal(err)
	}
	for _, cpu := range CPUs(all) {
		if err := PinThread(cpu); err != nil {
			t.Fatal(err)
		}
		if s, err := Affinity(); err != nil || !slices.Equal(CPUs(s), []int{cpu}) {
			t.Errorf("pinned to %d, may run on %v, %v", cpu, CPUs(s), err)
		}
	}
	if err := SetAffinity(all); err != nil {
		t.Fatal(err)
	}
	for _, cpu := range []int{-1, MaxCPUs, 1 << 40} {
		if err := PinThread(cpu); !errors.Is(err, unix.EINVAL) {
			t.Errorf("pin to cpu %d: %v", cpu, err)
		}
	}
}

func TestExplainSetup(t *testing.T) {
	for _, tc := range []struct {
		name    string
		e       unix.Errno
		want    string
		refused bool
	}{
		{"no io_uring", unix.ENOSYS, "seccomp", true},
		{"forbidden", unix.EPERM, "io_uring_setup", true},
		{"old kernel", unix.EINVAL, "6.1", true},
		{"no memory", unix.ENOMEM, "memlock", false},
		{"no descriptors", unix.EMFILE, "too many open files", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := explainSetup(tc.e)
			if !strings.Contains(err.Error(), tc.want) || errors.Is(err, ErrUringRefused) != tc.refused || !errors.Is(err, tc.e) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestMemAvailable(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       uint64
		known      bool
	}{
		{"as Linux says it", "MemTotal:       200 kB\nMemFree:         10 kB\nMemAvailable:    120 kB\nBuffers: 1 kB\n", 120 << 10, true},
		{"last line", "MemTotal: 200 kB\nMemAvailable: 7 kB", 7 << 10, true},
		{"not said", "MemTotal: 200 kB\n", 0, false},
		{"no number", "MemTotal: 200 kB\nMemAvailable: much kB\n", 0, false},
		{"nothing", "", 0, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got, known := memAvailable(tc.text); known != tc.known || known && got != tc.want {
				t.Errorf("%d, %v; want %d, %v", got, known, tc.want, tc.known)
			}
		})
	}
	// More than any machine has is refused before a page of it is touched.
	if _, err := MapPages(1<<45, -1); !errors.Is(err, unix.ENOMEM) || !strings.Contains(err.Error(), "are available") {
		t.Errorf("32 TiB: %v", err)
	}
}

func TestMapPages(t *testing.T) {
	for _, tc := range []struct {
		name string
		size uint64
		node int
		ok   bool
	}{
		{"one", HugePageSize, -1, true},
		{"on node 0", 3 * HugePageSize, 0, true},
		{"nothing", 0, -1, false},
		{"part of a page", HugePageSize + 4096, -1, false},
		{"absurd", 1 << 60, -1, false},
		{"node that cannot be", HugePageSize, 1 << 20, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := MapPages(tc.size, tc.node)
			if (err == nil) != tc.ok {
				t.Fatalf("error %v", err)
			}
			if err != nil {
				return
			}
			if uint64(len(p.Bytes)) != tc.size || Addr(p.Bytes)%HugePageSize != 0 || cap(p.Bytes) != len(p.Bytes) {
				t.Errorf("%d bytes at %#x", len(p.Bytes), Addr(p.Bytes))
			}
			p.Bytes[0], p.Bytes[len(p.Bytes)-1] = 1, 1
			if (p.Kind == HugePages) != (p.Reason == "") || p.Kind != HugePages && !strings.Contains(p.Reason, "vm.nr_hugepages") {
				t.Errorf("%v pages because %q", p.Kind, p.Reason)
			}
		})
	}
}

// TestMapPagesFails: a mapping that cannot have what was asked for is not kept.
func TestMapPagesFails(t *testing.T) {
	mapped := func() (pages uint64) {
		text, err := os.ReadFile("/proc/self/statm")
		if err == nil {
			first, _, _ := strings.Cut(string(text), " ")
			pages, err = strconv.ParseUint(first, 10, 64)
		}
		if err != nil {
			t.Fatal(err)
		}
		return pages * uint64(os.Getpagesize())
	}
	const size, n = 16 << 20, 64
	before := mapped()
	for range n {
		if _, err := MapPages(size, 1<<20); err == nil {
			t.Fatal("on a node that cannot be")
		}
	}
	if after := mapped(); after > before+n*size/2 {
		t.Errorf("%d MiB are mapped, %d before", after>>20, before>>20)
	}
}

func TestSockaddr(t *testing.T) {
	for _, tc := range []struct {
		name, addr, want string
	}{
		{"IPv4", "127.0.0.1:3260", "127.0.0.1:3260"},
		{"IPv4 in IPv6", "[::ffff:10.0.0.1]:80", "10.0.0.1:80"},
		{"IPv6", "[2001:db8::1]:3260", "[2001:db8::1]:3260"},
		{"numbered zone", "[fe80::1%7]:3260", "[fe80::1%7]:3260"},
		{"interface as zone", "[fe80::1%lo]:3260", "[fe80::1%1]:3260"},
		{"no such interface", "[fe80::1%nonesuch]:3260", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sa, err := sockaddr(netip.MustParseAddrPort(tc.addr))
			if (err == nil) != (tc.want != "") {
				t.Fatalf("error %v", err)
			}
			if err == nil && addrPort(sa).String() != tc.want {
				t.Errorf("%v, want %s", addrPort(sa), tc.want)
			}
		})
	}
	if _, err := sockaddr(netip.AddrPort{}); err == nil {
		t.Error("no address passed")
	}
}

func TestOpenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	content := strings.Repeat("x", 5000)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	fd, st, err := OpenFile(path, false, false)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(fd)
	if fl, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || fl&unix.O_NONBLOCK != 0 {
		t.Errorf("opened with flags %#o, %v", fl, err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != content || st.Size != 5000 {
		t.Errorf("after the probe %d bytes of %+v, %v", len(b), st, err)
	}
	ro, st, err := OpenFile(path, true, false)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(ro)
	if st.Punch {
		t.Error("holes can be punched through a read-only descriptor")
	}
}

func TestLimits(t *testing.T) {
	if n, err := FileLimit(); err != nil || n == 0 {
		t.Errorf("file limit %d, %v", n, err)
	}
	if _, err := MemlockLimit(); err != nil {
		t.Error(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if u, err := ThreadUsage(); err != nil || u.User+u.System <= 0 {
		t.Errorf("usage %+v, %v", u, err)
	}
	if NodeOfCore(1<<20) != -1 {
		t.Error("a core that is not there has a node")
	}
}

// TestStatLooksOnly: describing an open file changes nothing, and opening it tells
// whether holes can be punched.
func TestStatLooksOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	fd, st, err := OpenFile(path, false, false)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if can := unix.Fallocate(fd, FallocPunchHole, 4096, 4096) == nil; can != st.Punch {
		t.Errorf("holes can be punched: %v, told %v", can, st.Punch)
	}
	watch, err := unix.InotifyInit1(unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, path, unix.IN_MODIFY|unix.IN_ATTRIB); err != nil {
		t.Fatal(err)
	}
	if st, err = Stat(fd); err != nil || st.Size != 8192 {
		t.Errorf("%+v, %v", st, err)
	}
	var events [512]byte
	if n, err := unix.Read(watch, events[:]); err != unix.EAGAIN {
		t.Errorf("the file changed: %d bytes of events, %v", n, err)
	}
}
