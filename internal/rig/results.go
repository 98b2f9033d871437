package rig

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
)

// maxResult bounds a file that a guest leaves.
const maxResult = 64 << 20

// unpackResults writes the files of a tar into dir, which need not exist. What
// is behind the tar's end does not matter: the guest wrote it to a disk.
func unpackResults(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir) // a guest's names do not lead out of it
	if err != nil {
		return err
	}
	defer root.Close()
	for in := tar.NewReader(f); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if err := unpackFile(root, filepath.Base(h.Name), in); err != nil {
			return err
		}
	}
}

func unpackFile(root *os.Root, name string, in io.Reader) error {
	out, err := root.Create(name)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, io.LimitReader(in, maxResult))
	return errors.Join(err, out.Close())
}
