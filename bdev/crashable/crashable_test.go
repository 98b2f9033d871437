package crashable_test

import (
	"testing"
	"time"

	"spindle/bdev"
	"spindle/bdev/bdevtest"
	"spindle/bdev/crashable"
	"spindle/reactor/mem"
)

func newDevice(g *bdevtest.Rig, c crashable.Config) *crashable.Device {
	d, err := crashable.New(c)
	if err != nil {
		g.T.Fatal(err)
	}
	return d
}

func crash(t testing.TB) func(d bdev.Device, seed uint64) bdev.Device {
	return func(d bdev.Device, seed uint64) bdev.Device {
		after, err := d.(*crashable.Device).Crash(seed)
		if err != nil {
			t.Fatal(err)
		}
		return after
	}
}

func TestConformance(t *testing.T) {
	for _, tt := range []struct {
		name string
		c    crashable.Config
	}{
		{"immediate", crashable.Config{BlockSize: 512}},
		{"delayed", crashable.Config{BlockSize: 4096, MinDelay: 5 * time.Microsecond, MaxDelay: 200 * time.Microsecond}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bdevtest.Run(t, bdevtest.Factory{
				New: func(g *bdevtest.Rig, n uint64) bdev.Device {
					tt.c.Blocks = n
					return newDevice(g, tt.c)
				},
				Crash: crash(t),
			})
		})
	}
}

// TestLoses: the device really loses and tears what is not flushed; a crashable
// device that kept everything would prove nothing.
func TestLoses(t *testing.T) {
	g := bdevtest.NewRig(t, 1, nil)
	d := newDevice(g, crashable.Config{BlockSize: 4096, AtomicUnit: 512, Blocks: 16})
	ch := g.Open(d, 0)
	buf := g.Buffer(4096)
	for i := range buf.Bytes() {
		buf.Bytes()[i] = 1
	}
	g.MustDo(ch, bdev.Write, 3, 1, buf, 0)
	var all, nothing, some int
	for seed := range uint64(60) {
		after := g.Open(crash(t)(d, seed), 0)
		g.MustDo(after, bdev.Read, 3, 1, buf, 0)
		sum := 0
		for _, v := range buf.Bytes() {
			sum += int(v)
		}
		switch {
		case sum == 4096:
			all++
		case sum == 0:
			nothing++
		case sum%512 == 0:
			some++
		default:
			t.Fatalf("torn inside an atomic unit: %d bytes", sum)
		}
	}
	if all == 0 || nothing == 0 || some == 0 {
		t.Fatalf("kept %d, lost %d, torn %d of 60", all, nothing, some)
	}
	g.MustDo(ch, bdev.Flush, 0, 0, mem.Ref{}, 0)
	for seed := range uint64(20) {
		g.MustDo(g.Open(crash(t)(d, seed), 0), bdev.Read, 3, 1, buf, 0)
		if buf.Bytes()[0] != 1 || buf.Bytes()[4095] != 1 {
			t.Fatal("a flushed block was lost")
		}
	}
}

// TestFlushCoversWhatHadEnded: a write that ends while a flush runs is not
// covered, so a submitter that does not wait for its writes is found out.
func TestFlushCoversWhatHadEnded(t *testing.T) {
	g := bdevtest.NewRig(t, 1, nil)
	d := newDevice(g, crashable.Config{BlockSize: 512, Blocks: 16, MinDelay: time.Millisecond, MaxDelay: time.Millisecond})
	ch, buf := g.Open(d, 0), g.Buffer(512)
	for i := range buf.Bytes() {
		buf.Bytes()[i] = 1
	}
	write, flush := bdevtest.NewCall(bdev.Write, 3, 1, buf, 0), bdevtest.NewCall(bdev.Flush, 0, 0, mem.Ref{}, 0)
	write.Start(ch)
	flush.Start(ch)
	g.Until("write", write.Done)
	g.Until("flush", flush.Done)
	lost := 0
	for seed := range uint64(20) {
		g.MustDo(g.Open(crash(t)(d, seed), 0), bdev.Read, 3, 1, buf, 0)
		if buf.Bytes()[0] == 0 {
			lost++
		}
	}
	if lost == 0 {
		t.Fatal("the write was never lost")
	}
}
