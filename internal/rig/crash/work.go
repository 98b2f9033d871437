package crash

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
)

// Slots of the file that is written in place.
const (
	slots    = 4
	slotSize = 4096
	slotFile = "slots"
)

// ErrLost is a step that was promised and is not there.
var ErrLost = errors.New("lost")

// place is what a step changes: a file, or a slot (file is empty then).
type place struct {
	file string
	slot int
}

// step n makes a file; every third replaces an earlier one by a rename, every
// fourth writes a slot past the page cache with O_DSYNC, which is a FUA write
// on a device that knows them.
func step(n int) place {
	switch {
	case n%4 == 3:
		return place{slot: n / 4 % slots}
	case n%3 == 2 && n > 9 && (n-9)%4 != 3:
		return step(n - 9)
	}
	return place{file: fmt.Sprintf("file%d", n)}
}

// content is what step n writes, and says that it does.
func content(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, uint64(n)))
	size := slotSize
	if step(n).file != "" {
		size = 16 + r.IntN(48<<10)
	}
	b := binary.LittleEndian.AppendUint64(nil, uint64(n))
	for len(b) < size {
		b = binary.LittleEndian.AppendUint64(b, r.Uint64())
	}
	return b[:size]
}

// Prepare makes the folder in which the steps are taken.
func Prepare(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := writeSynced(filepath.Join(dir, slotFile), make([]byte, slots*slotSize)); err != nil {
		return err
	}
	return errors.Join(syncFile(dir), syncFile(filepath.Dir(dir)))
}

// Work takes the steps 1 to count in dir, and has each marked once it is
// durable; that the folder is there is mark 0.
func Work(dir string, seed uint64, count int, mark func(n int) error) error {
	buf, err := aligned(slotSize)
	if err != nil {
		return err
	}
	direct, err := os.OpenFile(filepath.Join(dir, slotFile), os.O_WRONLY|syscall.O_DIRECT|syscall.O_DSYNC, 0)
	if err != nil {
		return err
	}
	defer direct.Close()
	if err := mark(0); err != nil {
		return err
	}
	for n := 1; n <= count; n++ {
		at, data := step(n), content(seed, n)
		if at.file == "" {
			copy(buf, data)
			_, err = direct.WriteAt(buf, int64(at.slot*slotSize))
		} else {
			err = replace(dir, at.file, data)
		}
		if err != nil {
			return fmt.Errorf("step %d: %w", n, err)
		}
		if err := mark(n); err != nil {
			return fmt.Errorf("mark %d: %w", n, err)
		}
	}
	return nil
}

func replace(dir, file string, data []byte) error {
	name := filepath.Join(dir, file)
	if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		return errors.Join(writeSynced(name, data), syncFile(dir))
	}
	return errors.Join(writeSynced(name+".new", data), os.Rename(name+".new", name), syncFile(dir))
}

func writeSynced(name string, data []byte) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// aligned is memory that O_DIRECT takes: of pages.
func aligned(n int) ([]byte, error) {
	return syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
}

// Verify tells whether what the steps up to done left in dir is there. A place
// may hold what a later step writes: it was on its way.
func Verify(dir string, seed uint64, done, count int) error {
	need := map[place]int{}
	for n := 1; n <= done; n++ {
		need[step(n)] = n
	}
	all, err := os.ReadFile(filepath.Join(dir, slotFile))
	if err != nil || len(all) != slots*slotSize {
		return fmt.Errorf("%s, %d bytes: %w (%v)", slotFile, len(all), ErrLost, err)
	}
	for at, n := range need {
		var have []byte
		if at.file != "" {
			if have, err = os.ReadFile(filepath.Join(dir, at.file)); err != nil {
				return fmt.Errorf("step %d: %w: %v", n, ErrLost, err)
			}
		} else {
			have = all[at.slot*slotSize:][:slotSize]
		}
		if err := newEnough(at, have, seed, n, count); err != nil {
			return err
		}
	}
	return nil
}

// newEnough tells whether a place holds what step n or a later one put there.
func newEnough(at place, have []byte, seed uint64, n, count int) error {
	if len(have) < 8 {
		return fmt.Errorf("step %d, %+v: %w: %d bytes", n, at, ErrLost, len(have))
	}
	by := binary.LittleEndian.Uint64(have)
	switch {
	case by < uint64(n) || by > uint64(count) || step(int(by)) != at:
		return fmt.Errorf("step %d, %+v: %w: it holds step %d's", n, at, ErrLost, by)
	case !bytes.Equal(have, content(seed, int(by))):
		return fmt.Errorf("step %d, %+v: %w: %d bytes that are not step %d's", n, at, ErrLost, len(have), by)
	}
	return nil
}
