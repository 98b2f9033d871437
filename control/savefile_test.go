package control

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// faulty are calls on a real disk: they are noted, and one of them fails.
type faulty struct {
	calls []string
	fail  string
}

var errDisk = errors.New("disk error")

func (f *faulty) call(what string) error {
	f.calls = append(f.calls, what)
	if what == f.fail {
		return errDisk
	}
	return nil
}

type faultyFile struct {
	diskFile
	f    *faulty
	what string
}

func (x faultyFile) Write(b []byte) (int, error) {
	if err := x.f.call("write"); err != nil {
		n, _ := x.diskFile.Write(b[:len(b)/2])
		return n, err
	}
	return x.diskFile.Write(b)
}

func (x faultyFile) Sync() error { return errors.Join(x.f.call("sync "+x.what), x.diskFile.Sync()) }

func (x faultyFile) Close() error { return errors.Join(x.diskFile.Close(), x.f.call("close "+x.what)) }

func (f *faulty) disk() disk {
	return disk{
		create: func(dir, pattern string) (diskFile, error) {
			if err := f.call("create"); err != nil {
				return nil, err
			}
			d, err := realDisk.create(dir, pattern)
			return faultyFile{d, f, "file"}, err
		},
		open: func(path string) (diskFile, error) {
			if err := f.call("open folder"); err != nil {
				return nil, err
			}
			d, err := realDisk.open(path)
			return faultyFile{d, f, "folder"}, err
		},
		rename: func(from, to string) error {
			if err := f.call("rename"); err != nil {
				return err
			}
			return realDisk.rename(from, to)
		},
		remove: realDisk.remove,
	}
}

// TestReplace: what is saved is durable before it takes the place of the old, and
// its place is durable before a save has succeeded. A save that fails says so, and
// leaves the old or the new, whole, and nothing beside it.
func TestReplace(t *testing.T) {
	order := []string{"create", "write", "sync file", "close file", "rename", "open folder", "sync folder", "close folder"}
	for _, fail := range append([]string{"nothing"}, order...) {
		t.Run(fail, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "spindle.json")
			if err := os.WriteFile(path, []byte("what was"), 0o600); err != nil {
				t.Fatal(err)
			}
			f := &faulty{fail: fail}
			err := f.disk().replace(path, []byte("what is"))
			if at := slices.Index(order, fail); at < 0 {
				if err != nil || !slices.Equal(f.calls, order) {
					t.Fatalf("%v after %s", err, strings.Join(f.calls, ", "))
				}
			} else if !errors.Is(err, errDisk) {
				t.Fatalf("%v", err)
			}
			want := "what was"
			if slices.Index(order, fail) < 0 || slices.Index(order, fail) > slices.Index(order, "rename") {
				want = "what is"
			}
			got, err := os.ReadFile(path)
			left, _ := os.ReadDir(dir)
			if err != nil || string(got) != want || len(left) != 1 {
				t.Errorf("%q, %v; the folder has %v", got, err, left)
			}
		})
	}
}
