package file_test

import (
	"errors"
	"io/fs"
	"testing"

	"spindle/bdev/file"
	"spindle/reactor/ring"
	"spindle/reactor/ring/simring"
)

// hung is a file system that takes its time to describe a file.
type hung struct {
	ring.Kernel
	asked, answer chan struct{}
}

func (k *hung) Stat(fd int) (ring.FileInfo, error) {
	k.asked <- struct{}{}
	<-k.answer
	return k.Kernel.Stat(fd)
}

// TestCloseWhileAsked: a device is closed while its file system is asked about it;
// the question is still about its own descriptor, which is closed after it.
func TestCloseWhileAsked(t *testing.T) {
	for _, tt := range []struct {
		name string
		ask  func(*file.Device) error
	}{
		{"usage", func(d *file.Device) error { _, err := d.Usage(); return err }},
		{"rescan", (*file.Device).Rescan},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := simulated(t, 1, newWorld(1, simring.Faults{}, simring.DiskOptions{Size: 1 << 20}))
			before := s.world.OpenFDs()
			k := &hung{s.world, make(chan struct{}), make(chan struct{})}
			d, err := file.New(file.Config{Kernel: k, Path: path, Space: s.Space})
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error)
			for range 2 {
				go func() { ended <- tt.ask(d) }()
				<-k.asked
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if n := s.world.OpenFDs(); n != before+1 {
				t.Errorf("%d descriptors, %d before", n, before)
			}
			for range 2 {
				k.answer <- struct{}{}
				if err := <-ended; err != nil {
					t.Errorf("asked before the end: %v", err)
				}
			}
			if n := s.world.OpenFDs(); n != before {
				t.Errorf("%d descriptors, %d before", n, before)
			}
			if err := tt.ask(d); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("asked after the end: %v", err)
			}
		})
	}
}
