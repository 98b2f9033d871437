package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// Options of a target. The zero value is the default.
type Options struct {
	Dir     string   // for its files; by default a new one under the temp folder
	Port    int      // by default a free one
	SizeMiB int      // of the malloc and file LUNs; by default 100
	Args    []string // added to `spindle serve`
	Env     []string // added to the environment
	Wrap    []string // put before the command: setpriv, prlimit, taskset
}

// Target is a running spindle.
type Target struct {
	Dir, Socket string
	Port        int

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
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is ours to pass on
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
	size := int64(o.SizeMiB) << 20
	if size == 0 {
		size = 100 << 20
	}
	disk := filepath.Join(t.Dir, "disk.img")
	f, err := os.OpenFile(disk, os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	text, err := json.MarshalIndent(config(t.Port, disk, size), "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(t.Dir, "config.json"), text, 0o644)
}

type obj map[string]any

// config is what --config takes: the methods that make the node, as save_config prints them.
func config(port int, disk string, size int64) obj {
	call := func(method string, params obj) obj { return obj{"method": method, "params": params} }
	return obj{"subsystems": []obj{
		{"subsystem": "bdev", "config": []obj{
			call("bdev_malloc_create", obj{"name": "malloc", "num_blocks": size / 512, "block_size": 512}),
			call("bdev_aio_create", obj{"name": "file", "filename": disk, "block_size": 512}),
			call("bdev_malloc_create", obj{"name": "aligned", "num_blocks": size / 512, "block_size": 512, "physical_block_size": 4096}),
			call("bdev_null_create", obj{"name": "null", "num_blocks": 1 << 31, "block_size": 512}),
		}},
		{"subsystem": "iscsi", "config": []obj{
			call("iscsi_create_portal_group", obj{"tag": 1, "portals": []obj{{"host": "127.0.0.1", "port": strconv.Itoa(port)}}}),
			call("iscsi_create_initiator_group", obj{"tag": 1, "initiators": []string{"ANY"}, "netmasks": []string{"ANY"}}),
			call("iscsi_create_target_node", obj{
				"name": IQN, "alias_name": "testbed", "queue_depth": 64, "disable_chap": true,
				"luns": []obj{
					{"lun_id": Malloc, "bdev_name": "malloc"}, {"lun_id": File, "bdev_name": "file"}, {"lun_id": Null, "bdev_name": "null"},
					{"lun_id": Aligned, "bdev_name": "aligned"},
				},
				"pg_ig_maps": []obj{{"pg_tag": 1, "ig_tag": 1}},
			}),
		}},
	}}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func (t *Target) waitPort(ctx context.Context) error {
	deadline := time.Now().Add(15 * time.Second)
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
	return errors.New("spindle does not serve after 15 s")
}

// Addr is host:port of the portal.
func (t *Target) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(t.Port)) }

// Portal is the URL that discovery takes, URL that of a LUN.
func (t *Target) Portal() string { return "iscsi://" + t.Addr() }

// URL names a LUN in libiscsi's and QEMU's way.
func (t *Target) URL(lun int) string { return fmt.Sprintf("%s/%s/%d", t.Portal(), IQN, lun) }

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
