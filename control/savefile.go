package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// SaveFile writes the configuration to a file that only its owner may read. The
// file is replaced as a whole, or not at all; an empty configuration replaces
// nothing, because that is how configurations get lost.
func (c *Control) SaveFile(path string, o SaveOptions) error {
	s := c.save(o)
	if s.empty {
		if i, err := os.Stat(path); err == nil && i.Size() > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %s", ErrEmpty, path)
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(s.object()); err != nil {
		return fmt.Errorf("save configuration: %w", err)
	}
	var err error
	c.Caller.Block(func() { err = realDisk.replace(path, b.Bytes()) })
	return err
}

// Omitted is what SaveObject says of a configuration that is not whole.
const Omitted = "CHAP users and secrets are left out, so that nobody who must authenticate can log in once this is loaded; save with with_secrets=true for a whole configuration"

// SaveObject is the configuration as an object that can be loaded again.
func (c *Control) SaveObject(o SaveOptions) Obj { return c.save(o).object() }

func (s saved) object() Obj {
	obj := Obj{{"subsystems", s.subsystems}}
	if s.omits {
		obj = append(obj, Member{"omitted", Omitted})
	}
	return obj
}

// disk are the calls that replace a file; tests count them and let them fail.
type disk struct {
	create func(dir, pattern string) (diskFile, error) // with mode 0600
	open   func(path string) (diskFile, error)
	rename func(from, to string) error
	remove func(path string) error
}

type diskFile interface {
	Name() string
	Write(b []byte) (int, error)
	Sync() error
	Close() error
}

var realDisk = disk{
	create: func(dir, pattern string) (diskFile, error) { return os.CreateTemp(dir, pattern) },
	open:   func(path string) (diskFile, error) { return os.Open(path) },
	rename: os.Rename,
	remove: os.Remove,
}

// replace writes a file beside path, makes it durable, and renames it.
func (k disk) replace(path string, data []byte) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("save configuration: %w", err)
		}
	}()
	dir := filepath.Dir(path)
	f, err := k.create(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = k.rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, k.remove(f.Name()))
	}
	d, err := k.open(dir) // the rename is in the folder
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
