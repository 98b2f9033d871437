package sys

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// HugePageSize is the huge page this package asks for, in bytes.
const HugePageSize = 2 << 20

// PageKind is what a mapping is made of.
type PageKind uint8

const (
	PlainPages       PageKind = iota // pages of the base size
	TransparentPages                 // base pages that the kernel may join (madvise MADV_HUGEPAGE)
	HugePages                        // reserved huge pages (MAP_HUGETLB)
)

func (k PageKind) String() string {
	switch k {
	case HugePages:
		return "hugetlb"
	case TransparentPages:
		return "transparent"
	}
	return "plain"
}

// Pages is an anonymous private mapping.
type Pages struct {
	Bytes []byte // aligned to HugePageSize
	Kind  PageKind
	// Reason tells why Kind is less than HugePages; "" when it is not.
	Reason string

	all []byte // with what aligning it took
}

// Unmap takes the mapping away. Nothing may refer to it any more.
func (p *Pages) Unmap() error {
	if err := unix.Munmap(p.all); err != nil {
		return fmt.Errorf("munmap: %w", err)
	}
	return nil
}

// MapPages maps size bytes, a multiple of HugePageSize, of zeroed memory: huge
// pages when enough are reserved, else transparent ones, else plain ones. The
// memory prefers NUMA node node (-1 leaves the choice to the first toucher) and
// is not inherited by a child process: a fork would make pages that a NIC or
// the kernel writes to copy-on-write, and the parent could lose its own.
func MapPages(size uint64, node int) (Pages, error) {
	if size == 0 || size%HugePageSize != 0 || size > 1<<46 {
		return Pages{}, fmt.Errorf("map %d bytes: not a multiple of %d", size, HugePageSize)
	}
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	var p Pages
	huge, err := unix.Mmap(-1, 0, int(size), prot, flags|unix.MAP_HUGETLB|21<<unix.MAP_HUGE_SHIFT)
	if err == nil {
		p = Pages{Bytes: huge, Kind: HugePages, all: huge}
	} else {
		p, err = mapBasePages(size, prot, flags, err)
		if err != nil {
			return Pages{}, err
		}
	}
	if err := unix.Madvise(p.Bytes, unix.MADV_DONTFORK); err != nil {
		return Pages{}, errors.Join(fmt.Errorf("madvise MADV_DONTFORK: %w", err), p.Unmap())
	}
	// Preferred, not bound: memory of the wrong node beats SIGBUS.
	if node >= 0 {
		if err := preferNode(p.Bytes, node); err != nil && !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
			return Pages{}, errors.Join(fmt.Errorf("mbind to node %d: %w", node, err), p.Unmap())
		}
	}
	return p, nil
}

// mapBasePages maps with one huge page to spare, so that the base can be
// aligned on kernels that do not align large anonymous mappings themselves.
// The surplus is address space only: it is never touched.
func mapBasePages(size uint64, prot, flags int, why error) (Pages, error) {
	if free, known := availableMemory(); known && size > free {
		return Pages{}, fmt.Errorf("%d MiB of memory are wanted, %d MiB are available: %w", size>>20, free>>20, unix.ENOMEM)
	}
	b, err := unix.Mmap(-1, 0, int(size)+HugePageSize, prot, flags|unix.MAP_NORESERVE)
	if err != nil {
		return Pages{}, fmt.Errorf("mmap %d bytes: %w", size, err)
	}
	skip := -Addr(b) & (HugePageSize - 1)
	p := Pages{
		Bytes:  b[skip : uintptr(skip)+uintptr(size) : uintptr(skip)+uintptr(size)],
		Kind:   TransparentPages,
		all:    b,
		Reason: fmt.Sprintf("%d huge pages of 2 MiB are not to be had (%v); vm.nr_hugepages reserves them", size/HugePageSize, why),
	}
	if err := unix.Madvise(p.Bytes, unix.MADV_HUGEPAGE); err != nil {
		p.Kind = PlainPages
		p.Reason += fmt.Sprintf("; transparent ones neither (%v)", err)
	} else if mode, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled"); err == nil && strings.Contains(string(mode), "[never]") {
		p.Kind = PlainPages
		p.Reason += "; transparent ones are switched off"
	}
	return p, nil
}

// Sparse keeps the kernel from joining the pages of b, as MapPages asks for: of
// what is touched here and there only, more would be zeroed than used.
func Sparse(b []byte) error {
	if err := unix.Madvise(b, unix.MADV_NOHUGEPAGE); err != nil {
		return fmt.Errorf("madvise MADV_NOHUGEPAGE: %w", err)
	}
	return nil
}

// availableMemory is what the kernel thinks it can give without swapping.
// Mappings are pinned or written soon after they are made: one that is too large
// would bring the OOM killer, to this process or to another.
func availableMemory() (n uint64, known bool) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, false
	}
	return memAvailable(string(text))
}

// memAvailable finds that in the text of /proc/meminfo.
func memAvailable(text string) (n uint64, known bool) {
	_, rest, found := strings.Cut(text, "\nMemAvailable:")
	line, _, _ := strings.Cut(rest, "\n")
	kib, err := strconv.ParseUint(strings.TrimSpace(strings.TrimSuffix(line, "kB")), 10, 54)
	return kib << 10, found && err == nil
}

// Populate makes the pages of b present, so that the data path takes no fault.
func Populate(b []byte) error {
	err := unix.Madvise(b, unix.MADV_POPULATE_WRITE)
	if err != nil {
		return fmt.Errorf("madvise MADV_POPULATE_WRITE: %w", err)
	}
	return nil
}

// Discard gives the memory of b back: it reads as zeroes until written again.
func Discard(b []byte) error {
	if err := unix.Madvise(b, unix.MADV_DONTNEED); err != nil {
		return fmt.Errorf("madvise MADV_DONTNEED: %w", err)
	}
	return nil
}

// Forbid takes b's memory away and makes every later access a fault.
func Forbid(b []byte) error {
	if err := Discard(b); err != nil {
		return err
	}
	if err := unix.Mprotect(b, unix.PROT_NONE); err != nil {
		return fmt.Errorf("mprotect PROT_NONE: %w", err)
	}
	return nil
}

// NodeOfCore is the NUMA node of a CPU, or -1 when the machine does not tell.
func NodeOfCore(core int) int {
	dirs, err := filepath.Glob("/sys/devices/system/cpu/cpu" + strconv.Itoa(core) + "/node[0-9]*")
	if err != nil || len(dirs) == 0 {
		return -1
	}
	n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dirs[0]), "node"))
	if err != nil {
		return -1
	}
	return n
}
