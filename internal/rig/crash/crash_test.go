package crash

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const testSector = 512

// logOf is the text of a log: each entry a line of flags, sector and what is
// written there.
type logOf []struct {
	flags  Flags
	sector uint64
	data   string // of each sector its byte; of a mark its name
}

func (l logOf) bytes() []byte {
	le := binary.LittleEndian
	block := func(b []byte) []byte { return append(b, make([]byte, testSector-len(b))...) }
	b := le.AppendUint64(nil, logMagic)
	b = le.AppendUint64(b, logVersion)
	b = le.AppendUint64(b, uint64(len(l)))
	b = block(le.AppendUint32(b, testSector))
	for _, e := range l {
		sectors, mark := uint64(len(e.data)), ""
		if e.flags&Mark != 0 {
			sectors, mark = 0, e.data
		}
		h := le.AppendUint64(nil, e.sector)
		h = le.AppendUint64(h, sectors)
		h = le.AppendUint64(h, uint64(e.flags))
		h = le.AppendUint64(h, uint64(len(mark)))
		b = append(b, block(append(h, mark...))...)
		if e.flags&Discard == 0 && mark == "" {
			for _, c := range []byte(e.data) {
				b = append(b, bytes.Repeat([]byte{c}, testSector)...)
			}
		}
	}
	return append(b, "what was there before"...)
}

func TestMoments(t *testing.T) {
	log := logOf{
		{0, 0, "ab"}, {Flush, 0, ""}, {FUA, 2, "c"}, {Mark, 0, "0"}, {0, 0, "d"}, {Discard, 1, "-"}, {FUA, 3, "e"}, {Mark, 0, "1"},
		{Flush, 0, ""}, {0, 2, "f"}, {Mark, 0, "dm-log-writes-end"},
	}
	l, err := ReadLog(bytes.NewReader(log.bytes()))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	err = l.Moments(bytes.Repeat([]byte("."), 4*testSector), 100, func(m Moment) error {
		var s strings.Builder
		for i := range 4 {
			s.WriteByte(m.Disk[i*testSector])
		}
		got = append(got, fmt.Sprintf("%s %d", strings.ReplaceAll(s.String(), "\x00", "0"), m.Done))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// At the first, "d" and the discard are volatile, and "e" is not.
	want := []string{"??ce 1", "d0ce 0", "d0ce 1", "d0ce 1", "d0fe 1"}
	if len(got) != len(want) {
		t.Fatalf("%d moments %q", len(got), got)
	}
	for i, w := range want {
		if ok, _ := filepath.Match(w, got[i]); !ok {
			t.Errorf("moment %d: %q, want %q", i, got[i], w)
		}
	}
}

func TestLogThatIsNone(t *testing.T) {
	good := logOf{{0, 0, "a"}, {Flush, 0, ""}}.bytes()
	for _, c := range []struct {
		name string
		at   int
		to   byte
	}{{"magic", 0, 1}, {"version", 8, 2}, {"sector size", 25, 0}, {"flags", testSector + 17, 1}, {"mark", testSector + 26, 1}, {"more entries", 16, 9}} {
		t.Run(c.name, func(t *testing.T) {
			bad := bytes.Clone(good)
			bad[c.at] = c.to
			if l, err := ReadLog(bytes.NewReader(bad)); err == nil {
				t.Errorf("it is read: %+v", l.Entries)
			}
		})
	}
	l, err := ReadLog(bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Moments(nil, 1, func(Moment) error { return nil }); !errors.Is(err, ErrLog) {
		t.Errorf("a write behind the disk's end: %v", err)
	}
}

func TestVerify(t *testing.T) {
	const seed, steps = 7, 30
	dir := filepath.Join(t.TempDir(), "work")
	if err := Prepare(dir); err != nil {
		t.Fatal(err)
	}
	verify := func(done int) error { return Verify(dir, seed, done, steps) }
	err := Work(dir, seed, steps, verify)
	if errors.Is(err, syscall.EINVAL) {
		t.Skip("the file system refuses O_DIRECT")
	} else if err != nil {
		t.Fatal(err)
	}
	slot := func(n int) int { return step(n).slot * slotSize }
	for _, c := range []struct {
		name, file string
		done       int
		change     func([]byte) []byte
		lost       bool
	}{
		{"nothing", slotFile, steps, func(b []byte) []byte { return b }, false},
		{"a byte less", step(1).file, 1, func(b []byte) []byte { return b[:len(b)-1] }, true},
		{"nothing of it", step(1).file, 1, func(b []byte) []byte { return nil }, true},
		{"another byte", step(1).file, 1, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, true},
		{"before it was promised", step(1).file, 0, func(b []byte) []byte { return nil }, false},
		{"an older one", step(29).file, steps, func([]byte) []byte { return content(seed, 20) }, true},
		{"the older one, when it was the last", step(29).file, 28, func([]byte) []byte { return content(seed, 20) }, false},
		{"another file's", step(28).file, steps, func([]byte) []byte { return content(seed, 29) }, true},
		{"a step that was never taken", step(28).file, 28, func([]byte) []byte { return content(seed, 31) }, true},
		{"slots cut", slotFile, steps, func(b []byte) []byte { return b[:slotSize] }, true},
		{"a torn slot", slotFile, 27, func(b []byte) []byte { b[slot(27)+slotSize-1] ^= 1; return b }, true},
		{"a slot's older step", slotFile, 27, func(b []byte) []byte { copy(b[slot(27):], content(seed, 11)); return b }, true},
		{"the same, when it was the last", slotFile, 26, func(b []byte) []byte { copy(b[slot(27):], content(seed, 11)); return b }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := filepath.Join(dir, c.file)
			old, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, c.change(bytes.Clone(old)), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := verify(c.done); errors.Is(err, ErrLost) != c.lost || !c.lost && err != nil {
				t.Errorf("%v", err)
			}
			if err := os.WriteFile(name, old, 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
	if err := os.Remove(filepath.Join(dir, step(1).file)); err != nil {
		t.Fatal(err)
	}
	if err := verify(1); !errors.Is(err, ErrLost) {
		t.Errorf("a file is gone: %v", err)
	}
}
