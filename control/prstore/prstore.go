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
type Store struct{ dir string }

// Open makes the folder if it is not there.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("persistent reservations: %w", err)
	}
	return &Store{dir}, nil
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
	path := s.path(name)
	if data == nil {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return syncPath(s.dir)
	}
	if err := write(path+".new", data); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncPath(s.dir) // the rename is in the folder
}

func write(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncPath(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
