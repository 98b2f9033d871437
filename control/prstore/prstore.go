// Package prstore keeps persistent reservations (APTPL), and the settings that
// initiators have units save, in a folder: a file of each for a logical unit.
//
// Threading: calls for one unit are made one at a time; different units may be
// saved at once. Every method blocks on the disk and runs off the reactors.
//
// Memory: nothing is kept between calls.
package prstore

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// maxSize bounds a file that is read, in bytes: far above what the largest
// number of registrants takes.
const maxSize = 1 << 20

// Store implements scsi.Store.
type Store struct {
	dir  string
	disk disk
}

// disk are the calls of a save; tests count them and let them fail.
type disk struct {
	open   func(path string, flags int) (file, error)
	rename func(from, to string) error
	remove func(path string) error
}

type file interface {
	Write(b []byte) (int, error)
	Sync() error
	Close() error
}

func openFile(path string, flags int) (file, error) { return os.OpenFile(path, flags, 0o600) }

// Open makes the folder if it is not there.
func Open(dir string) (*Store, error) {
	s := &Store{dir, disk{openFile, os.Rename, os.Remove}}
	if err := s.folder(dir); err != nil {
		return nil, fmt.Errorf("persistent reservations: %w", err)
	}
	return s, nil
}

// folder makes a folder, and those above it, durably: what is kept in one that a
// power cut takes away is not kept.
func (s *Store) folder(dir string) error {
	info, err := os.Stat(dir)
	switch up := filepath.Dir(dir); {
	case err == nil && !info.IsDir():
		return fmt.Errorf("%s is no folder", dir)
	case err == nil || !errors.Is(err, fs.ErrNotExist):
		return err
	case up != dir:
		if err := s.folder(up); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if _, err := os.Stat(dir); err != nil { // a link to what is not there
		return err
	}
	return s.sync(filepath.Dir(dir))
}

// path is the file of a unit, called by a hash: a unit's name may hold anything
// and be longer than a file's.
func (s *Store) path(name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(s.dir, hex.EncodeToString(sum[:])+".json")
}

// Load returns what was saved last for the unit; nil: nothing.
func (s *Store) Load(name string) ([]byte, error) {
	path := s.path(name)
	switch info, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case info.Size() > maxSize:
		return nil, fmt.Errorf("%s has %d bytes", path, info.Size())
	}
	return os.ReadFile(path)
}

// Save replaces what is kept of the unit; after a power cut it is the old or
// the new, whole. nil forgets.
func (s *Store) Save(name string, data []byte) error {
	old, err := s.Load(name)
	if err != nil {
		return err
	}
	path := s.path(name)
	if err := s.put(path, data); err != nil {
		// The unit goes on with the old, so that is what a restart must find.
		return errors.Join(err, s.put(path, old))
	}
	return nil
}

// put has data in the file at path, or no file for nil, durably.
func (s *Store) put(path string, data []byte) error {
	if data == nil {
		if err := s.disk.remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return s.sync(s.dir)
	}
	if err := s.write(path+".new", data); err != nil {
		return err
	}
	if err := s.disk.rename(path+".new", path); err != nil {
		return err
	}
	return s.sync(s.dir) // the rename is in the folder
}

func (s *Store) write(path string, data []byte) error {
	f, err := s.disk.open(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func (s *Store) sync(path string) error {
	f, err := s.disk.open(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
