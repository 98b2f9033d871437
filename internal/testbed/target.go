package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// IQN is the name of the target node that every testbed serves.
const IQN = "iqn.2026-11.io.spindle:testbed"

// LUN numbers of the node.
const (
	Malloc  = 0
	File    = 1
	Null    = 2
	Aligned = 3 // malloc with eight logical blocks in a physical one
)

// LUN is a LUN of the node: how its bdev is made, and its own options, all under
// their RPC names.
type LUN struct {
	ID     int
	Module string         // "malloc", "null", or "aio" for a file of its own
	Bdev   map[string]any // beyond name, size and block size
	Block  int            // bytes; 512 when 0
	Blocks int64          // of the options' SizeMiB when 0
	LUN    map[string]any // beyond bdev_name and lun_id
}

// defaultLUNs are those of a target that is not told others.
func defaultLUNs() []LUN {
	return []LUN{
		{ID: Malloc, Module: "malloc"}, {ID: File, Module: "aio"}, {ID: Null, Module: "null", Blocks: 1 << 31},
		{ID: Aligned, Module: "malloc", Bdev: map[string]any{"physical_block_size": 4096}},
	}
}

// Options of a target. The zero value is the default.
type Options struct {
	LUNs    []LUN          // by default a malloc, a file, a null and an aligned one
	Paths   int            // portal groups, 1 by default
	Dir     string         // for its files; by default a new one under the temp folder
	Port    int            // by default a free one
	SizeMiB int            // of the malloc and file LUNs; by default 100
	Args    []string       // added to `spindle serve`
	Env     []string       // added to the environment
	Wrap    []string       // put before the command: setpriv, prlimit, taskset
	ISCSI   map[string]any // parameters of iscsi_set_options
}

// Target is a running spindle.
type Target struct {
	Dir, Socket string
	Port        int   // of the first portal group
	More        []int // of those that follow

	bin  string
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	err  error         // its end, after done
	told bool          // to end, by Signal
	mu   sync.Mutex    // guards log
	log  bytes.Buffer
}

// Start serves the malloc, file, null and aligned LUNs with the binary bin, and
// returns once it says that it serves and the port answers.
func Start(ctx context.Context, bin string, o Options) (*Target, error) {
	t := &Target{Dir: o.Dir, Port: o.Port, done: make(chan struct{})}
	var err error
	if t.bin, err = filepath.Abs(bin); err != nil {
		return nil, err
	}
	if t.Dir == "" {
		if t.Dir, err = os.MkdirTemp("", "spindle-testbed-"); err != nil {
			return nil, err
		}
	}
	if t.Port == 0 {
		if t.Port, err = freePort(); err != nil {
			return nil, err
		}
	}
	for range o.Paths - 1 {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		t.More = append(t.More, port)
	}
	t.Socket = filepath.Join(t.Dir, "rpc.sock")
	if err := t.writeFiles(o); err != nil {
		return nil, err
	}
	args := append(append([]string{}, o.Wrap...), t.bin, "serve",
		"--config", filepath.Join(t.Dir, "config.json"), "--rpc-socket", t.Socket)
	args = append(args, o.Args...)
	t.cmd = exec.Command(args[0], args[1:]...)
	t.cmd.Env = append(os.Environ(), o.Env...)
	t.cmd.Stdout, t.cmd.Stderr = (*logWriter)(t), (*logWriter)(t)
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a Ctrl-C is ours to pass on, and no terminal
	if err := t.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		t.err = t.cmd.Wait()
		close(t.done)
	}()
	if err := t.waitPort(ctx); err != nil {
		t.Kill()
		return nil, fmt.Errorf("%w\n%s", err, t.Log())
	}
	return t, nil
}

func (t *Target) writeFiles(o Options) error {
	if o.SizeMiB == 0 {
		o.SizeMiB = 100
	}
	if o.LUNs == nil {
		o.LUNs = defaultLUNs()
	}
	var bdevs, luns []obj
	for _, l := range o.LUNs {
		create, err := t.bdev(l, int64(o.SizeMiB)<<20)
		if err != nil {
			return err
		}
		bdevs = append(bdevs, create)
		lun := obj{"lun_id": l.ID, "bdev_name": l.name()}
		maps.Copy(lun, l.LUN)
		luns = append(luns, lun)
	}
	text, err := json.MarshalIndent(obj{"subsystems": []obj{
		{"subsystem": "bdev", "config": bdevs},
		{"subsystem": "iscsi", "config": t.node(luns, o.ISCSI)},
	}}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(t.Dir, "config.json"), text, 0o644)
}

type obj map[string]any

// call is a method as --config takes it.
func call(method string, params obj) obj { return obj{"method": method, "params": params} }

func (l LUN) name() string { return fmt.Sprintf("%s%d", l.Module, l.ID) }

// bdev makes the file of a LUN, if it has one, and returns the call that makes
// its bdev.
func (t *Target) bdev(l LUN, size int64) (obj, error) {
	block := int64(max(l.Block, 512))
	if l.Blocks != 0 {
		size = l.Blocks * block
	}
	params := obj{"name": l.name(), "block_size": block}
	maps.Copy(params, l.Bdev)
	if l.Module != "aio" {
		params["num_blocks"] = size / block
		return call("bdev_"+l.Module+"_create", params), nil
	}
	disk := filepath.Join(t.Dir, "disk.img")
	f, err := os.OpenFile(disk, os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	params["filename"] = disk
	return call("bdev_aio_create", params), f.Truncate(size)
}

// node is the calls that make the node and its groups.
func (t *Target) node(luns []obj, options obj) []obj {
	var calls []obj
	if len(options) > 0 {
		calls = append(calls, call("iscsi_set_options", options))
	}
	calls = append(calls, call("iscsi_create_initiator_group", obj{"tag": 1, "initiators": []string{"ANY"}, "netmasks": []string{"ANY"}}))
	var groups []obj
	for k, port := range append([]int{t.Port}, t.More...) {
		calls = append(calls, call("iscsi_create_portal_group", obj{"tag": k + 1, "portals": []obj{{"host": "127.0.0.1", "port": strconv.Itoa(port)}}}))
		groups = append(groups, obj{"pg_tag": k + 1, "ig_tag": 1})
	}
	return append(calls, call("iscsi_create_target_node", obj{
		"name": IQN, "alias_name": "testbed", "queue_depth": 64, "disable_chap": true, "luns": luns, "pg_ig_maps": groups,
	}))
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// startLimit is how long a target may take to serve: long enough for a machine
// that is busy with other tests.
const startLimit = time.Minute

func (t *Target) waitPort(ctx context.Context) error {
	deadline := time.Now().Add(startLimit)
	for time.Now().Before(deadline) {
		if strings.Contains(t.Log(), " serves on ") {
			if c, err := net.Dial("tcp", t.Addr()); err == nil {
				return c.Close()
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.done:
			return fmt.Errorf("spindle ended at once: %v", t.err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("spindle does not serve after %v", startLimit)
}

// Addr is host:port of the portal.
func (t *Target) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(t.Port)) }

// Portal is the URL that discovery takes, URL that of a LUN.
func (t *Target) Portal() string { return "iscsi://" + t.Addr() }

// URL names a LUN in libiscsi's and QEMU's way.
func (t *Target) URL(lun int) string { return fmt.Sprintf("%s/%s/%d", t.Portal(), IQN, lun) }

// Paths are the URLs of a LUN by each portal group.
func (t *Target) Paths(lun int) []string {
	urls := []string{t.URL(lun)}
	for _, port := range t.More {
		urls = append(urls, fmt.Sprintf("iscsi://127.0.0.1:%d/%s/%d", port, IQN, lun))
	}
	return urls
}

// PID is the process. A wrapper that does not exec would be it: use those that do.
func (t *Target) PID() int { return t.cmd.Process.Pid }

// RPC runs `spindle rpc METHOD args...` and returns what it prints.
func (t *Target) RPC(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, t.bin, append([]string{"rpc", "--rpc-socket", t.Socket}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return out, fmt.Errorf("spindle rpc %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return out, nil
}

// Alive tells whether the process runs.
func (t *Target) Alive() bool {
	select {
	case <-t.done:
		return false
	default:
		return true
	}
}

// Signal sends sig and waits up to limit for the end of the process, whose
// exit error it returns.
func (t *Target) Signal(sig os.Signal, limit time.Duration) error {
	if err := t.cmd.Process.Signal(sig); err != nil {
		return err
	}
	t.told = true
	select {
	case <-t.done:
		return t.err
	case <-time.After(limit):
		return fmt.Errorf("spindle runs %v after %v", limit, sig)
	}
}

// Stop ends the target in good order and removes its folder. It returns an
// error if the target had ended by itself, or does not exit with status 0.
func (t *Target) Stop() (err error) {
	switch {
	case t.Alive():
		err = t.Signal(syscall.SIGTERM, 15*time.Second)
	case !t.told:
		err = fmt.Errorf("it had ended by itself: %v", t.err)
	}
	t.Kill()
	if err != nil {
		err = fmt.Errorf("spindle: %w\n%s", err, t.Log())
	}
	return errors.Join(err, os.RemoveAll(t.Dir))
}

// Kill ends the process at once and leaves its files.
func (t *Target) Kill() {
	if t.Alive() {
		_ = t.cmd.Process.Kill() // it may end by itself first
	}
	<-t.done
}

// Log is what the target wrote so far, its last 16 KiB.
func (t *Target) Log() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.log.Bytes()
	return string(b[max(0, len(b)-16<<10):])
}

type logWriter Target

func (w *logWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(b)
}
