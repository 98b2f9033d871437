package mem

import (
	"bytes"
	"errors"
	"os"
	"runtime/debug"
	"sync"
	"testing"
)

func TestSpaceNumbersAndFinds(t *testing.T) {
	s := NewSpace()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			r, err := s.Map(1, -1)
			if err != nil {
				t.Error(err)
				return
			}
			if r.Len != RegionAlign || r.Base%RegionAlign != 0 || s.Region(r.Index) != r {
				t.Errorf("region %+v, found %+v", r, s.Region(r.Index))
			}
			if (r.Kind == HugePages) != (r.Reason == "") {
				t.Errorf("kind %v with reason %q", r.Kind, r.Reason)
			}
		})
	}
	wg.Wait()
	if n := len(s.Regions()); n != 8 {
		t.Errorf("%d regions", n)
	}
	if s.Region(0) != nil || s.Region(9) != nil {
		t.Error("a number nobody has names a region")
	}
}

func TestRegionRefBounds(t *testing.T) {
	s := NewSpace()
	r, err := s.Map(RegionAlign, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		off  uint64
		n    uint32
		ok   bool
	}{
		{"all", 0, RegionAlign, true},
		{"end", RegionAlign, 0, true},
		{"beyond", RegionAlign, 1, false},
		{"across the end", RegionAlign - 1, 2, false},
		{"wrapping", 1<<64 - 1, 2, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			defer func() {
				if ok := recover() == nil; ok != tc.ok {
					t.Errorf("Ref(%d, %d) accepted: %v", tc.off, tc.n, ok)
				}
			}()
			if ref := r.Ref(tc.off, tc.n); !r.Contains(ref) {
				t.Errorf("%+v is not in its region", ref)
			}
		})
	}
}

func TestRegionDiscard(t *testing.T) {
	const size = 2 * RegionAlign
	for _, tc := range []struct {
		name   string
		off, n uint64
		ok     bool
	}{
		{"nothing", 512, 0, true},
		{"a sector", 512, 512, true},
		{"a page", 4096, 4096, true},
		{"over an edge", 4096 - 512, 1024, true},
		{"pages with ends", 512, 3 * 4096, true},
		{"half", RegionAlign, RegionAlign, true},
		{"all but the ends", 512, size - 1024, true},
		{"all", 0, size, true},
		{"beyond the end", RegionAlign, RegionAlign + 1, false},
		{"wrapping", 1<<64 - 1, 2, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := NewSpace().Map(size, -1)
			if err != nil {
				t.Fatal(err)
			}
			b := r.Ref(0, size).Bytes()
			for i := range b {
				b[i] = 0xA5
			}
			if err := r.Discard(tc.off, tc.n); (err == nil) != tc.ok {
				t.Fatalf("error %v", err)
			}
			for i := range uint64(size) {
				want := byte(0xA5)
				if tc.ok && i >= tc.off && i < tc.off+tc.n {
					want = 0
				}
				if b[i] != want {
					t.Fatalf("byte %d is %#x, want %#x", i, b[i], want)
				}
			}
		})
	}
}

func TestDelete(t *testing.T) {
	s := NewSpace()
	r, err := s.Map(2*RegionAlign, -1)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Populate(); err != nil {
		t.Fatal(err)
	}
	b := r.Ref(0, 2*RegionAlign).Bytes()
	if err := s.Delete(r); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(r); err != nil {
		t.Errorf("second delete: %v", err)
	}
	if len(s.Regions()) != 0 {
		t.Error("a deleted region is listed")
	}
	next, err := s.Map(RegionAlign, -1)
	if err != nil {
		t.Fatal(err)
	}
	if next.Index == r.Index || next.Base == r.Base {
		t.Error("a deleted region's number or address was given out again")
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() == nil {
			t.Error("deleted memory can be read")
		}
	}()
	if b[0] == 0 {
		t.Error("deleted memory reads as zero")
	}
}

// TestSparse: a sparse space's memory comes page by page, and all of it goes.
func TestSparse(t *testing.T) {
	s := NewSpace()
	s.Sparse = true
	r, err := s.Map(4*RegionAlign, -1)
	if err != nil {
		t.Fatal(err)
	}
	if r.Kind != PlainPages && r.Kind != HugePages { // the latter where they are reserved
		t.Errorf("pages are %v", r.Kind)
	}
	before := mappings(t)
	for range 100 {
		s := NewSpace()
		s.Sparse = true
		r, err := s.Map(RegionAlign, -1)
		if err == nil {
			_, err = s.Map(RegionAlign, -1)
		}
		if err = errors.Join(err, s.Delete(r), s.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if n := mappings(t) - before; n > 20 {
		t.Errorf("%d mappings stay of 100 closed spaces", n)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func mappings(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Skip(err)
	}
	return bytes.Count(text, []byte("\n"))
}
