package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// lioRoot is where the kernel's target is configured.
const lioRoot = "/sys/kernel/config/target"

// lioDriver configures the kernel's target, which only a kernel that has it can
// run. Its memory is rd_mcp; the null LUN is one with rd_nullio, which is what
// the field calls NULLIO.
type lioDriver struct{ root string }

func (lioDriver) Name() string  { return "lio" }
func (lioDriver) Title() string { return "LIO" }

func (d lioDriver) Version(context.Context) (string, error) {
	if _, err := os.Stat(d.root); err != nil && d.root == lioRoot {
		_ = exec.Command("modprobe", "-a", "target_core_mod", "iscsi_target_mod", "ib_isert").Run() // the next look tells
	}
	if _, err := os.Stat(d.root); err != nil {
		return "", absent("the kernel's target wants its own kernel and root: make bench-rig runs it, and all of iSER, in a QEMU guest")
	}
	return "of Linux " + strings.TrimSpace(readText("/proc/sys/kernel/osrelease")), nil
}

func readText(path string) string {
	text, _ := os.ReadFile(path)
	return string(text)
}

// The kernel threads of LIO: a receiver and a sender a connection, and the
// workers that run RDMA completions and commands. Workers do the work of others
// too, the initiator's and the device's among them, and cannot be told apart.
var lioThreads = []string{"iscsi_tr", "iscsi_tt", "iscsi_np", "kworker/"}

func (d lioDriver) Start(_ context.Context, s Setup) (*Running, error) {
	t := &lioTree{root: d.root}
	r := &Running{Threads: lioThreads, clean: t.remove}
	pages := strconv.FormatUint(s.Size>>12, 10)
	t.mkdir("iscsi")
	// Its threads may run where those of the others do. Workers run where they
	// are woken.
	if s.CPU >= 0 {
		t.try("iscsi/cpus_allowed_list", strconv.Itoa(s.CPU))
	}
	t.backend("core/rd_mcp_0/bench_null", "rd_pages="+pages+",rd_nullio=1")
	t.backend("core/rd_mcp_1/bench_ram", "rd_pages="+pages)
	port, err := freePort(s.host())
	if err != nil {
		return nil, err
	}
	t.target(Target, s.host(), port, false)
	r.URLs = urls("iscsi", s.host(), port, Target, 0, 1)
	if s.ISER {
		// A portal is one transport's: a second target node has the other.
		port, err := freePort(s.host())
		if err != nil {
			return nil, err
		}
		t.target(iserTarget, s.host(), port, true)
		r.ISER = urls("iser", s.host(), port, iserTarget, 0, 1)
	}
	if t.err != nil {
		r.Stop()
		return nil, fmt.Errorf("LIO: %w", t.err)
	}
	return r, nil
}

// iserTarget is the second target node of those that need one for iSER.
const iserTarget = Target + "-iser"

// lioTree writes the configuration and remembers what to remove. The first
// error stays.
type lioTree struct {
	root string
	made []string // oldest first
	err  error
}

func (t *lioTree) path(name string) string { return filepath.Join(t.root, name) }

func (t *lioTree) mkdir(name string) {
	if t.err != nil {
		return
	}
	err := os.Mkdir(t.path(name), 0o755)
	switch {
	case err == nil:
		t.made = append(t.made, name)
	case !errors.Is(err, os.ErrExist):
		t.err = err
	}
}

func (t *lioTree) write(name, text string) {
	if t.err == nil {
		t.err = os.WriteFile(t.path(name), []byte(text), 0o644)
	}
}

// try writes what older kernels do not have.
func (t *lioTree) try(name, text string) {
	if _, err := os.Stat(t.path(name)); err == nil {
		t.write(name, text)
	}
}

func (t *lioTree) backend(name, control string) {
	t.mkdir(filepath.Dir(name))
	t.mkdir(name)
	t.write(name+"/control", control)
	t.write(name+"/enable", "1")
}

func (t *lioTree) lun(group string, n int, backend string) {
	lun := fmt.Sprintf("%s/lun/lun_%d", group, n)
	t.mkdir(lun)
	if t.err == nil {
		t.err = os.Symlink(t.path(backend), t.path(lun+"/bench"))
		t.made = append(t.made, lun+"/bench")
	}
}

func (t *lioTree) target(name, host string, port int, iser bool) {
	group := "iscsi/" + name + "/tpgt_1"
	portal := group + "/np/" + host + ":" + strconv.Itoa(port)
	t.mkdir("iscsi/" + name)
	t.mkdir(group)
	t.mkdir(portal)
	if iser {
		t.write(portal+"/iser", "1")
	}
	t.lun(group, 0, "core/rd_mcp_0/bench_null")
	t.lun(group, 1, "core/rd_mcp_1/bench_ram")
	for _, a := range [][2]string{
		{"authentication", "0"}, {"demo_mode_write_protect", "0"}, {"generate_node_acls", "1"}, {"cache_dynamic_acls", "1"}, {"default_cmdsn_depth", "128"},
	} {
		t.write(group+"/attrib/"+a[0], a[1])
	}
	t.write(group+"/enable", "1")
}

// remove takes away what was made, newest first.
func (t *lioTree) remove() {
	for i := len(t.made) - 1; i >= 0; i-- {
		_ = os.Remove(t.path(t.made[i])) // what is still in use stays, as its name tells whose it is
	}
	t.made = nil
}
