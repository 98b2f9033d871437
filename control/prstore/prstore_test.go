package prstore

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spindle/scsi"
)

var _ scsi.Store = (*Store)(nil)

func TestStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "reservations")
	unit, other := strings.Repeat("iqn", 100), "../../etc/passwd\x00"
	steps := []struct {
		name string
		unit string
		save []byte
	}{
		{"first", unit, []byte("one")},
		{"longer", unit, []byte("one and more")},
		{"shorter", unit, []byte("1")},
		{"another unit, whose name is no path", other, []byte("two")},
		{"forget", unit, nil},
		{"forget again", unit, nil},
	}
	for _, st := range steps {
		s, err := Open(dir) // each step is another process
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Save(st.unit, st.save); err != nil {
			t.Errorf("%s: %v", st.name, err)
		}
		if got, err := s.Load(st.unit); err != nil || !bytes.Equal(got, st.save) || (got == nil) != (st.save == nil) {
			t.Errorf("%s: loaded %q, %v", st.name, got, err)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left in the folder: %v, %v", left, err)
	}
}

// TestCut: a save that was cut short leaves what was there before.
func TestCut(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Save("unit", []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path("unit")+".new", []byte("ne"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Load("unit"); err != nil || string(got) != "old" {
		t.Errorf("loaded %q, %v", got, err)
	}
}

func TestErrors(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path("big"), make([]byte, maxSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load("big"); err == nil {
		t.Error("a file of any size is read")
	}
	if err := os.Mkdir(s.path("unit")+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Save("unit", []byte("x")); err == nil {
		t.Error("saved where nothing can be written")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file); err == nil {
		t.Error("a file is no folder")
	}
}
