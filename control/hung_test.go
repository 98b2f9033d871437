package control_test

import (
	"errors"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"spindle/bdev"
	"spindle/control"
	"spindle/control/controltest"
	"spindle/reactor"
)

// hang has a call wait until it is let go, and tells that it was made.
type hang struct{ begun, let chan struct{} }

func newHang() *hang { return &hang{make(chan struct{}), make(chan struct{})} }

func (h *hang) wait() {
	h.begun <- struct{}{}
	<-h.let
}

// onHung is a control whose files hang as they are opened, and one whose files hang
// as they are closed and looked at.
func onHung(opening, closing, looking *hang) *control.Control {
	m := controltest.Modules(nil)
	open := m.File
	m.File = func(s control.FileSpec) (bdev.Device, error) {
		if opening != nil {
			opening.wait()
		}
		d, err := open(s)
		if err == nil && closing != nil {
			d.(*controltest.Device).Closed = closing.wait
		}
		if err == nil && looking != nil {
			return slowRescan{d.(*controltest.Device), looking}, nil
		}
		return d, err
	}
	return control.New(control.Config{Engine: controltest.NewEngine(), Modules: m, Caller: reactor.Blocking{}})
}

type slowRescan struct {
	*controltest.Device
	h *hang
}

func (s slowRescan) Rescan() error { s.h.wait(); return s.Device.Rescan() }

var anyNull = control.NullSpec{Name: "N", Geometry: control.Geometry{BlockSize: 512, NumBlocks: 8}}

func file(name string, id bdev.UUID) control.FileSpec {
	return control.FileSpec{Name: name, Path: "/hung", UUID: id}
}

// TestHungFile: opening, looking at and closing a file on a file system that does not
// answer hold up no other change; the name of what is being made is taken.
func TestHungFile(t *testing.T) {
	for _, tt := range []struct {
		name                      string
		opening, closing, looking *hang
		do                        func(c *control.Control) error
	}{
		{"open", newHang(), nil, nil, func(c *control.Control) error { _, err := c.CreateFile(file("F", bdev.UUID{})); return err }},
		{"close", nil, newHang(), nil, func(c *control.Control) error {
			_, err := c.CreateFile(file("F", bdev.UUID{}))
			return errors.Join(err, c.DeleteBdev("F", "aio"))
		}},
		{"rescan", nil, nil, newHang(), func(c *control.Control) error {
			_, err := c.CreateFile(file("F", bdev.UUID{}))
			return errors.Join(err, c.Rescan("F", "aio"))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := onHung(tt.opening, tt.closing, tt.looking)
			ended := make(chan error)
			go func() { ended <- tt.do(c) }()
			h := []*hang{tt.opening, tt.closing, tt.looking}[slices.IndexFunc([]*hang{tt.opening, tt.closing, tt.looking}, func(h *hang) bool { return h != nil })]
			<-h.begun
			if _, err := c.CreateNull(anyNull); err != nil {
				t.Error(err)
			}
			if tt.opening != nil {
				same := anyNull
				same.Name = "F"
				if _, err := c.CreateNull(same); !errors.Is(err, syscall.EEXIST) {
					t.Errorf("the same name: %v", err)
				}
				same.Name, same.UUID = "O", bdev.NameUUID("F")
				if _, err := c.CreateNull(same); !errors.Is(err, syscall.EEXIST) {
					t.Errorf("the same UUID: %v", err)
				}
			}
			h.let <- struct{}{}
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if _, err := c.Bdev("F"); (err == nil) != (tt.closing == nil) {
				t.Errorf("F: %v", err)
			}
		})
	}
}

// TestHungFileFails: a name is free again when making its bdev has failed, and what
// is made too late, as the target ends, is closed.
func TestHungFileFails(t *testing.T) {
	opening, ended := newHang(), make(chan error)
	closing := &hang{make(chan struct{}, 1), make(chan struct{})}
	close(closing.let)
	c := onHung(opening, closing, nil)
	create := func(s control.FileSpec) {
		go func() { _, err := c.CreateFile(s); ended <- err }()
		<-opening.begun
	}
	bad := file("F", bdev.UUID{})
	bad.BlockSize = 7
	create(bad)
	opening.let <- struct{}{}
	if err := <-ended; !errors.Is(err, syscall.EINVAL) && !errors.Is(err, bdev.ErrGeometry) {
		t.Error(err)
	}
	create(file("F", bdev.UUID{}))
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	opening.let <- struct{}{}
	if err := <-ended; !errors.Is(err, syscall.ESHUTDOWN) || len(closing.begun) != 1 {
		t.Errorf("made after the end: %v, closed %d times", err, len(closing.begun))
	}
	if _, err := c.CreateNull(anyNull); !errors.Is(err, syscall.ESHUTDOWN) || len(c.Bdevs()) != 0 {
		t.Errorf("after the end: %v, %d bdevs", err, len(c.Bdevs()))
	}
}

// TestMallocOneByOne: memory is taken by one malloc bdev at a time, or each of two
// would be told that there is enough.
func TestMallocOneByOne(t *testing.T) {
	m := controltest.Modules(nil)
	malloc, taking := m.Malloc, atomic.Int32{}
	m.Malloc = func(s control.MallocSpec) (bdev.Device, error) {
		defer taking.Add(-1)
		if taking.Add(1) > 1 {
			return nil, errors.New("two at once")
		}
		for range 1000 {
			runtime.Gosched()
		}
		return malloc(s)
	}
	c := control.New(control.Config{Engine: controltest.NewEngine(), Modules: m, Caller: reactor.Blocking{}})
	const n = 8
	ended := make(chan error)
	for range n {
		go func() {
			_, err := c.CreateMalloc(control.MallocSpec{Geometry: anyNull.Geometry, NUMA: -1})
			ended <- err
		}()
	}
	for range n {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if len(c.Bdevs()) != n {
		t.Errorf("%d bdevs", len(c.Bdevs()))
	}
}
