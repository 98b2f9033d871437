package mem

import (
	"bytes"
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

func TestRegionDiscardAndDelete(t *testing.T) {
	s := NewSpace()
	r, err := s.Map(2*RegionAlign, -1)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Populate(); err != nil {
		t.Fatal(err)
	}
	b := r.Ref(0, 2*RegionAlign).Bytes()
	copy(b[RegionAlign:], "kept")
	copy(b, "gone")
	if err := r.Discard(0, RegionAlign); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b[:4], make([]byte, 4)) || string(b[RegionAlign:RegionAlign+4]) != "kept" {
		t.Errorf("after discard %q %q", b[:4], b[RegionAlign:RegionAlign+4])
	}
	if r.Discard(RegionAlign, 2*RegionAlign) == nil {
		t.Error("discard beyond the end passed")
	}
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
