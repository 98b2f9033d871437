package prstore

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
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
	if err := os.Symlink("nothing", file+"-link"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file + "-link"); err == nil {
		t.Error("a link to nothing is no folder")
	}
}

// faulty are calls on a real disk: they are noted, and one of them fails.
type faulty struct {
	disk
	calls  []string
	fail   string // the call that fails
	always bool   // and not only once
}

type faultyFile struct {
	file
	d    *faulty
	name string
}

var errDisk = errors.New("disk error")

func (d *faulty) call(what, path string) error {
	what += " " + kind(path)
	d.calls = append(d.calls, what)
	if what != d.fail {
		return nil
	}
	if !d.always {
		d.fail = ""
	}
	return errDisk
}

// kind is what a path of the store is.
func kind(path string) string {
	switch filepath.Ext(path) {
	case ".new":
		return "temporary"
	case ".json":
		return "file"
	}
	return "folder"
}

func (f *faultyFile) Write(b []byte) (int, error) {
	if err := f.d.call("write", f.name); err != nil {
		n, _ := f.file.Write(b[:len(b)/2])
		return n, err
	}
	return f.file.Write(b)
}

func (f *faultyFile) Sync() error {
	if err := f.d.call("sync", f.name); err != nil {
		return err
	}
	return f.file.Sync()
}

func (f *faultyFile) Close() error { return errors.Join(f.file.Close(), f.d.call("close", f.name)) }

// inject has the store make its calls by way of d.
func (d *faulty) inject(s *Store) {
	d.disk = s.disk
	s.disk = disk{
		open: func(path string, flags int) (file, error) {
			if err := d.call("open", path); err != nil {
				return nil, err
			}
			f, err := d.disk.open(path, flags)
			return &faultyFile{f, d, path}, err
		},
		rename: func(from, to string) error {
			if err := d.call("rename", from); err != nil {
				return err
			}
			return d.disk.rename(from, to)
		},
		remove: func(path string) error {
			if err := d.call("remove", path); err != nil {
				return err
			}
			return d.disk.remove(path)
		},
	}
}

// TestDurable: what is saved is on the disk before its name is, and that before
// Save returns. A call that fails is told of and leaves what was kept before.
func TestDurable(t *testing.T) {
	for _, tc := range []struct {
		name  string
		old   []byte
		data  []byte
		calls []string
	}{
		{"first", nil, []byte("new"), replaces},
		{"again", []byte("old"), []byte("new"), replaces},
		{"forget", []byte("old"), nil, []string{"remove file", "open folder", "sync folder", "close folder"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			run := func(d *faulty) (*Store, error) {
				s, err := Open(t.TempDir())
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Save("unit", tc.old); err != nil {
					t.Fatal(err)
				}
				d.inject(s)
				return s, s.Save("unit", tc.data)
			}
			var d faulty
			if _, err := run(&d); err != nil || !slices.Equal(d.calls, tc.calls) {
				t.Errorf("%v: %v, want %v", err, d.calls, tc.calls)
			}
			for _, call := range tc.calls {
				for _, always := range []bool{false, true} {
					s, err := run(&faulty{fail: call, always: always})
					if !errors.Is(err, errDisk) {
						t.Errorf("%s fails: %v", call, err)
					}
					if got, err := s.Load("unit"); err != nil || !bytes.Equal(got, tc.old) {
						t.Errorf("%s fails, always %v: kept %q, %v", call, always, got, err)
					}
				}
			}
		})
	}
}

// replaces are the calls of a save that keeps something.
var replaces = []string{
	"open temporary", "write temporary", "sync temporary", "close temporary", "rename temporary",
	"open folder", "sync folder", "close folder",
}

// TestFolderIsDurable: each folder that is made is in the one above it before
// anything is kept; those that were there are left alone.
func TestFolderIsDurable(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "a", "b", "c")
	sync := []string{"open folder", "sync folder", "close folder"}
	for _, tc := range []struct {
		name string
		made int // folders
		fail string
	}{
		{"no power for the first", 1, "sync folder"},
		{"the others", 2, ""},
		{"all there", 0, ""},
	} {
		var d faulty
		d.fail = tc.fail
		s := &Store{dir, disk{openFile, os.Rename, os.Remove}}
		d.inject(s)
		if err := s.folder(dir); (err != nil) != (tc.fail != "") {
			t.Errorf("%s: %v", tc.name, err)
		}
		if want := slices.Repeat(sync, tc.made); !slices.Equal(d.calls, want) {
			t.Errorf("%s: %v, want %v", tc.name, d.calls, want)
		}
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}
