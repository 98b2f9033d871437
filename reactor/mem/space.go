package mem

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"spindle/internal/sys"
)

// PageKind is what a region is made of.
type PageKind = sys.PageKind

// The kinds of pages, best last.
const (
	PlainPages       = sys.PlainPages
	TransparentPages = sys.TransparentPages
	HugePages        = sys.HugePages
)

// RegionAlign is the alignment of a region's base and size, in bytes.
const RegionAlign = sys.HugePageSize

// ErrTooManyRegions: a Space has numbered as many regions as it can.
var ErrTooManyRegions = errors.New("mem: too many regions")

// maxRegions bounds the numbers a Space gives out. Numbers are not used twice,
// so that a late Ref of a deleted region never names another one.
const maxRegions = 1 << 16

// Region is one mapping of off-heap memory. Its fields do not change.
type Region struct {
	Base  uintptr
	Len   uint64 // bytes
	Index uint32 // its number in the Space, from 1: a zero Ref is in no region
	Kind  PageKind
	// Reason tells why Kind is not HugePages, for one line in the log; "" when it is.
	Reason string

	pages sys.Pages
	gone  atomic.Bool
}

// Ref names the n bytes that start at off.
func (r *Region) Ref(off uint64, n uint32) Ref {
	if off > r.Len || uint64(n) > r.Len-off {
		panic("mem: reference outside its region")
	}
	return Ref{Addr: r.Base + uintptr(off), Len: n, Region: r.Index}
}

// Contains tells whether the whole of b lies in the region.
//
//spindle:hot
func (r *Region) Contains(b Ref) bool {
	return b.Addr >= r.Base && uint64(b.Addr-r.Base) <= r.Len && uint64(b.Len) <= r.Len-uint64(b.Addr-r.Base)
}

// Discard makes n bytes at off read as zeroes. Whole pages of them are given
// back to the system; the ends that lie in pages shared with their neighbours
// are overwritten.
func (r *Region) Discard(off, n uint64) error {
	if off > r.Len || n > r.Len-off {
		return fmt.Errorf("mem: discard of %d bytes at %d outside a region of %d", n, off, r.Len)
	}
	page := uint64(os.Getpagesize())
	if r.Kind == HugePages {
		page = sys.HugePageSize
	}
	from, to := (off+page-1)&^(page-1), (off+n)&^(page-1)
	if from >= to {
		clear(r.pages.Bytes[off : off+n])
		return nil
	}
	clear(r.pages.Bytes[off:from])
	clear(r.pages.Bytes[to : off+n])
	return sys.Discard(r.pages.Bytes[from:to])
}

// Populate makes all pages of the region present, so that no fault is taken later.
func (r *Region) Populate() error { return sys.Populate(r.pages.Bytes) }

// Space numbers the regions of a process. The zero Space is not usable; see
// NewSpace. All methods are safe from any thread.
type Space struct {
	// Sparse, set before the first Map, has regions of base pages, for who touches
	// little of them and ends soon, as tests do.
	Sparse bool

	mu      sync.Mutex                // serialises Map and Delete
	regions atomic.Pointer[[]*Region] // by index; replaced, never changed; entry 0 is nil
}

// NewSpace makes an empty Space.
func NewSpace() *Space {
	s := &Space{}
	s.regions.Store(&[]*Region{nil})
	return s
}

// Map adds a region of size bytes, rounded up to RegionAlign, of zeroed memory
// that prefers NUMA node node; -1 leaves that to whoever touches it first.
func (s *Space) Map(size uint64, node int) (*Region, error) {
	if size == 0 || size > 1<<46 {
		return nil, fmt.Errorf("mem: region of %d bytes", size)
	}
	size = (size + RegionAlign - 1) &^ (RegionAlign - 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	old := *s.regions.Load()
	if len(old) >= maxRegions {
		return nil, ErrTooManyRegions
	}
	p, err := sys.MapPages(size, node)
	if err != nil {
		return nil, fmt.Errorf("mem: %w", err)
	}
	if s.Sparse && p.Kind == TransparentPages {
		if err := sys.Sparse(p.Bytes); err != nil {
			return nil, fmt.Errorf("mem: %w", err)
		}
		p.Kind = PlainPages
	}
	r := &Region{
		Base: sys.Addr(p.Bytes), Len: size, Index: uint32(len(old)),
		Kind: p.Kind, Reason: p.Reason, pages: p,
	}
	list := append(old[:len(old):len(old)], r)
	s.regions.Store(&list)
	return r, nil
}

// Region returns the region numbered i, or nil.
//
//spindle:hot
func (s *Space) Region(i uint32) *Region {
	list := *s.regions.Load()
	if uint64(i) >= uint64(len(list)) {
		return nil
	}
	return list[i]
}

// Regions returns the regions that are not deleted, in order of their numbers.
func (s *Space) Regions() []*Region {
	var live []*Region
	for _, r := range *s.regions.Load() {
		if r != nil && !r.gone.Load() {
			live = append(live, r)
		}
	}
	return live
}

// Delete empties r and makes its addresses inaccessible. The addresses are not
// given to anyone else: a late access faults instead of hitting a stranger.
func (s *Space) Delete(r *Region) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.gone.Swap(true) {
		return nil
	}
	if err := sys.Forbid(r.pages.Bytes); err != nil {
		return fmt.Errorf("mem: %w", err)
	}
	return nil
}

// Close unmaps all regions, deleted ones too. Nothing may refer to them any more.
func (s *Space) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, r := range (*s.regions.Swap(&[]*Region{nil}))[1:] {
		errs = append(errs, r.pages.Unmap())
	}
	return errors.Join(errs...)
}

// NewArena maps a region of size bytes, rounded up to MaxBlock, for an arena of
// its own.
func (s *Space) NewArena(size uint64, node int) (*Arena, error) {
	r, err := s.Map((size+MaxBlock-1)&^(MaxBlock-1), node)
	if err != nil {
		return nil, err
	}
	return NewArena(r)
}

// NodeOfCore is the NUMA node of a CPU, for Map and NewArena; -1 when the
// machine does not tell.
func NodeOfCore(core int) int { return sys.NodeOfCore(core) }
