package rig

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestUnpackResults(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range []struct {
		name string
		kind byte
	}{{"./result.json", tar.TypeReg}, {"../../outside", tar.TypeReg}, {"link", tar.TypeSymlink}, {"dir/", tar.TypeDir}} {
		h := &tar.Header{Name: f.name, Typeflag: f.kind, Linkname: "/etc/passwd", Mode: 0o644}
		if f.kind == tar.TypeReg {
			h.Size = 4
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if f.kind == tar.TypeReg {
			if _, err := w.Write([]byte("data")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// The disk that the tar is on is longer than the tar, and was used before.
	b.WriteString("what was there before")
	top := t.TempDir()
	disk, dir := filepath.Join(top, "disk"), filepath.Join(top, "a", "b")
	if err := os.WriteFile(disk, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unpackResults(disk, dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "result.json")); err != nil || string(text) != "data" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := os.Stat(filepath.Join(top, "outside")); err == nil {
		t.Error("a guest's file is outside of its folder")
	}
}

func TestTSCFrequency(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"a virtual machine", "flags\t\t: fpu tsc constant_tsc hypervisor\ncpu MHz\t\t: 2445.426\n", " tsc_early_khz=2445426"},
		{"bare metal: the MHz change", "flags\t\t: fpu tsc constant_tsc\ncpu MHz\t\t: 2445.426\n", ""},
		{"a counter that changes", "flags\t\t: fpu tsc hypervisor\ncpu MHz\t\t: 2445.426\n", ""},
		{"another architecture", "Features: fp asimd\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "cpuinfo")
			if err := os.WriteFile(name, []byte(c.text), 0o644); err != nil {
				t.Fatal(err)
			}
			if got := tscFrequency(name); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
	if got := tscFrequency("/nowhere"); got != "" {
		t.Errorf("%q of nothing", got)
	}
}
