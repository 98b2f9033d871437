package peer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeLIO is a folder in which configfs's own files are there already.
func fakeLIO(t *testing.T, targets ...string) string {
	root := t.TempDir()
	for _, name := range append(targets, "") {
		if name == "" {
			continue
		}
		for _, d := range []string{"lun", "np", "attrib"} {
			if err := os.MkdirAll(filepath.Join(root, "iscsi", name, "tpgt_1", d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Mkdir(filepath.Join(root, "core"), 0o755); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestLIO(t *testing.T) {
	root := fakeLIO(t, Target, iserTarget)
	d := lioDriver{root}
	r, err := d.Start(t.Context(), Setup{CPU: 1, Size: 8 << 20, ISER: true})
	if err != nil {
		t.Fatal(err)
	}
	if r.PID != 0 || len(r.Threads) == 0 || !strings.HasPrefix(r.ISER[Null], "iser://127.0.0.1:") || !strings.HasPrefix(r.URLs[RAM], "iscsi://127.0.0.1:") {
		t.Errorf("%+v", r)
	}
	for _, p := range r.Threads {
		if len(p) > 8 {
			t.Errorf("%q is longer than what is compared", p)
		}
	}
	file := func(name string) string {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Error(err)
		}
		return string(text)
	}
	if c := file("core/rd_mcp_0/bench_null/control"); c != "rd_pages=2048,rd_nullio=1" {
		t.Errorf("the null LUN is %q", c)
	}
	if c := file("core/rd_mcp_1/bench_ram/control"); c != "rd_pages=2048" {
		t.Errorf("the LUN in memory is %q", c)
	}
	portals, err := filepath.Glob(filepath.Join(root, "iscsi", iserTarget, "tpgt_1/np/*/iser"))
	if err != nil || len(portals) != 1 {
		t.Errorf("portals over iSER: %v, %v", portals, err)
	}
	if file("iscsi/"+Target+"/tpgt_1/enable") != "1" {
		t.Error("the target is not enabled")
	}
	if err := r.Stop(); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(root, "iscsi/*/tpgt_1/lun/*/bench")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestLIOFails(t *testing.T) {
	d := lioDriver{fakeLIO(t)} // without the folders that configfs makes
	if _, err := d.Start(t.Context(), Setup{CPU: -1, Size: 8 << 20}); err == nil {
		t.Error("it runs")
	}
}
