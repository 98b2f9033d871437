package rig

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestResolveModules(t *testing.T) {
	d := parseDeps("kernel/a/iscsi_tcp.ko: kernel/a/libiscsi_tcp.ko kernel/b/libiscsi.ko\n" +
		"kernel/a/libiscsi_tcp.ko: kernel/b/libiscsi.ko\nkernel/b/libiscsi.ko:\nkernel/c/crc32c-intel.ko.xz:\n")
	for _, c := range []struct {
		name  string
		names []string
		want  []string // nil: an error
	}{
		{"needed first, each once", []string{"iscsi_tcp", "libiscsi"}, []string{"kernel/b/libiscsi.ko", "kernel/a/libiscsi_tcp.ko", "kernel/a/iscsi_tcp.ko"}},
		{"hyphens and compression", []string{"crc32c_intel"}, []string{"kernel/c/crc32c-intel.ko.xz"}},
		{"unknown", []string{"siw"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := d.resolve(c.names)
			if !slices.Equal(got, c.want) || (err == nil) != (c.want != nil) {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func TestCopyUntilStatus(t *testing.T) {
	for _, c := range []struct {
		name, text, want string
		status           int
		found            bool
	}{
		{"status", "one\r\nrig-status 3\n", "one\n", 3, true},
		{"none", "one\n", "one\n", 0, false},
		{"not a number", "rig-status ?\n", "rig-status ?\n", 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var w bytes.Buffer
			status, found := copyUntilStatus(&w, strings.NewReader(c.text))
			if status != c.status || found != c.found || w.String() != c.want {
				t.Errorf("%d %v %q", status, found, &w)
			}
		})
	}
}

func TestPack(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"job.sh", "data"} {
		if err := os.WriteFile(filepath.Join(dir, n), []byte(n), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	j := Job{Script: filepath.Join(dir, "job.sh"), Files: []string{filepath.Join(dir, "data")}, Env: map[string]string{"A": "it's"}}
	if err := j.pack(filepath.Join(dir, "tar")); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(dir, "tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := map[string]string{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(r)
		got[h.Name] = string(text)
	}
	want := map[string]string{"script": "job.sh", "files/data": "data", "env": `export A='it'\''s'` + "\n"}
	for name, text := range want {
		if got[name] != text {
			t.Errorf("%s: %q, want %q", name, got[name], text)
		}
	}
}
