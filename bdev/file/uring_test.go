package file_test

import (
	"errors"
	"os"
	"runtime"
	"syscall"
	"testing"

	"spindle/bdev"
	"spindle/bdev/bdevtest"
	"spindle/bdev/file"
	"spindle/internal/sys"
	"spindle/reactor/clock"
	"spindle/reactor/mem"
	"spindle/reactor/ring"
	"spindle/reactor/ring/uring"
)

// realRing makes a ring on the test's locked thread. Its deadlines are not used.
func realRing(g *bdevtest.Rig) ring.Ring {
	runtime.LockOSThread()
	q, err := uring.New(uring.Config{Arena: g.Arena(), Clock: clock.NewMonotonic()})
	if errors.Is(err, sys.ErrUringRefused) {
		g.T.Skip(err)
	} else if err != nil {
		g.T.Fatal(err)
	}
	g.T.Cleanup(func() {
		if err := q.Close(); err != nil {
			g.T.Errorf("close of the ring: %v", err)
		}
		runtime.UnlockOSThread()
	})
	return q
}

// image makes a sparse file of n bytes in dir.
func image(t testing.TB, dir string, n int64) string {
	t.Helper()
	f, err := os.CreateTemp(dir, "spindle-test-*")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { os.Remove(f.Name()) })
	if err := errors.Join(f.Truncate(n), f.Close()); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func realDevice(t testing.TB, g *bdevtest.Rig, c file.Config) *file.Device {
	t.Helper()
	c.Kernel, c.Space, c.Reactors = uring.Kernel{}, g.Space, 2
	d, err := file.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestConformanceReal(t *testing.T) {
	for _, tt := range []struct {
		name     string
		dir      string
		buffered bool
	}{
		{name: "direct"},
		{name: "cached", buffered: true},
		{name: "tmpfs", dir: "/dev/shm"}, // cannot zero a range
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := tt.dir
			if dir == "" {
				dir = t.TempDir()
			}
			bdevtest.Run(t, bdevtest.Factory{
				Ring: realRing,
				New: func(g *bdevtest.Rig, n uint64) bdev.Device {
					return realDevice(g.T, g, file.Config{Path: image(g.T, dir, int64(n)*512), Buffered: tt.buffered})
				},
				Resize: func(d bdev.Device, n uint64) error {
					f := d.(*file.Device)
					return errors.Join(os.Truncate(f.Path(), int64(n)*512), f.Rescan())
				},
			})
		})
	}
}

func blocksOf(t testing.TB, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks
}

// TestUnmapFreesBlocks: unmapping gives the space back to the file system.
func TestUnmapFreesBlocks(t *testing.T) {
	g := bdevtest.NewRig(t, 1, realRing)
	d := realDevice(t, g, file.Config{Path: image(t, t.TempDir(), 8<<20)})
	ch := g.Open(d, 0)
	buf := g.Buffer(1 << 20)
	for i := range buf.Bytes() {
		buf.Bytes()[i] = byte(i)
	}
	for i := range uint64(8) {
		g.MustDo(ch, bdev.Write, i*2048, 2048, buf, 0)
	}
	g.MustDo(ch, bdev.Flush, 0, 0, mem.Ref{}, 0)
	full := blocksOf(t, d.Path())
	g.MustDo(ch, bdev.Unmap, 2048, 6*2048, mem.Ref{}, 0)
	g.MustDo(ch, bdev.Flush, 0, 0, mem.Ref{}, 0)
	if now := blocksOf(t, d.Path()); full < 8*2048 || now > full-6*2048+64 {
		t.Fatalf("%d blocks of 512 bytes before, %d after 6 of 8 MiB were unmapped", full, now)
	}
	st, err := os.Stat(d.Path())
	if err != nil || st.Size() != 8<<20 {
		t.Fatalf("size is %d, %v", st.Size(), err)
	}
}

// TestZeroFallback: tmpfs cannot zero a range, so zeroes are written, and the
// kernel is asked only once.
func TestZeroFallback(t *testing.T) {
	g := bdevtest.NewRig(t, 1, realRing)
	d := realDevice(t, g, file.Config{Path: image(t, "/dev/shm", 8<<20)})
	ch := g.Open(d, 0)
	buf := g.Buffer(4 << 20)
	for i := range buf.Bytes() {
		buf.Bytes()[i] = 9
	}
	g.MustDo(ch, bdev.Write, 0, 8192, buf, 0)
	g.MustDo(ch, bdev.WriteZeroes, 1, 4095, mem.Ref{}, 0)
	g.MustDo(ch, bdev.WriteZeroes, 4096, 4095, mem.Ref{}, bdev.FUA)
	if d.Counts().ZeroWrites != 1 {
		t.Skip("this kernel zeroes ranges of /dev/shm")
	}
	g.MustDo(ch, bdev.Read, 0, 8192, buf, 0)
	for i, v := range buf.Bytes() {
		want := byte(0)
		if i < 512 || i >= 8191*512 {
			want = 9
		}
		if v != want {
			t.Fatalf("byte %d is %d", i, v)
		}
	}
}

// TestUsage: a sparse file uses what was written to it.
func TestUsage(t *testing.T) {
	g := bdevtest.NewRig(t, 1, nil)
	path := image(t, t.TempDir(), 8<<20)
	d := realDevice(t, g, file.Config{Path: path, BlockSize: 512})
	before, err := d.Usage()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(make([]byte, 1<<20), 2<<20)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	after, err := d.Usage()
	if grown := after.Used - before.Used; err != nil || grown < 1<<20 || grown > 2<<20 || after.Available == 0 {
		t.Errorf("%v: %+v, then %+v", err, before, after)
	}
	if !d.Info().Metered {
		t.Error("the device does not say that it tells")
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
