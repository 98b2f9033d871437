package cli

import (
	"bytes"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"spindle/control"
	"spindle/control/controltest"
	"spindle/control/rpc"
	"spindle/reactor"
)

// patience bounds how long a test waits for what must come.
const patience = 20 * time.Second

func run(args ...string) (status int, out, errOut string) {
	var o, e bytes.Buffer
	status = Run(args, &o, &e)
	return status, o.String(), e.String()
}

func TestRun(t *testing.T) {
	for _, tt := range []struct {
		name     string
		args     []string
		status   int
		out, err string // what it must say
	}{
		{"nothing", nil, exitUsage, "", "no command given"},
		{"help", []string{"help"}, exitOK, "serve disks over iSCSI", ""},
		{"dashes", []string{"--help"}, exitOK, "rpc", ""},
		{"help of a command", []string{"help", "serve"}, exitOK, "--rpc-socket PATH", ""},
		{"help of rpc", []string{"rpc", "--help"}, exitOK, "bdev_malloc_create", ""},
		{"help of a method", []string{"rpc", "bdev_malloc_create", "--help"}, exitOK, "num_blocks (required): uint64", ""},
		{"help of nonsense", []string{"help", "no"}, exitUsage, "", `"spindle help"`},
		{"version", []string{"version"}, exitOK, "Spindle v", ""},
		{"version flag", []string{"--version"}, exitOK, "Spindle v", ""},
		{"version with more", []string{"version", "x"}, exitUsage, "", "no arguments"},
		{"unknown command", []string{"server"}, exitUsage, "", `no command "server"`},
		{"unknown flag", []string{"serve", "--nosuch"}, exitUsage, "", `"spindle serve --help"`},
		{"argument", []string{"serve", "x"}, exitUsage, "", "flags only"},
		{"cores", []string{"serve", "--cores", "x"}, exitUsage, "", "0-1"},
		{"mem", []string{"serve", "--mem", "much"}, exitUsage, "", "512M"},
		{"too little mem", []string{"serve", "--mem", "1M", "--no-rpc"}, exitError, "", "each needs 32 MiB"},
		{"placement", []string{"serve", "--tcp-placement", "moon"}, exitUsage, "", "load, queue or pack"},
		{"busy poll", []string{"serve", "--busy-poll", "5000"}, exitUsage, "", "at most 1000"},
		{"zero copy", []string{"serve", "--tcp-zero-copy", "12"}, exitUsage, "", "from 4K on"},
		{"idle", []string{"serve", "--idle", "never"}, exitUsage, "", "adaptive, poll or interrupt"},
		{"profile", []string{"serve", "--profile", "disk"}, exitUsage, "", "cpu, mem or trace"},
		{"ACK timeout", []string{"serve", "--rdma-ack-timeout", "32"}, exitUsage, "", "at most"},
		{"log level", []string{"serve", "--log-level", "loud"}, exitUsage, "", "ERROR, WARNING"},
		{"wait and config", []string{"serve", "--wait-for-rpc", "--config", "x"}, exitUsage, "", "load_config"},
		{"wait without socket", []string{"serve", "--wait-for-rpc", "--no-rpc"}, exitUsage, "", "for ever"},
		{"core not there", []string{"serve", "--cores", "[1000]", "--no-rpc"}, exitError, "", "--cores"},
		{"no config file", []string{"serve", "--config", "/nosuch/c.json", "--no-rpc"}, exitError, "", "/nosuch/c.json"},
		{"no method", []string{"rpc"}, exitUsage, "", "name a method"},
		{"unknown method", []string{"rpc", "bdev_get_bdev"}, exitUsage, "", `did you mean "bdev_get_bdevs"`},
		{"nobody there", []string{"rpc", "--rpc-socket", "/nosuch/s", "log_get_level"}, exitError, "", `"spindle serve"`},
		{"no shell", []string{"completion"}, exitUsage, "", "bash or zsh"},
		{"unknown shell", []string{"completion", "tcsh"}, exitUsage, "", "bash and zsh"},
		{"completion", []string{"completion", "zsh"}, exitOK, "--wait-for-rpc", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, out, errOut := run(tt.args...)
			if status != tt.status || !strings.Contains(out, tt.out) || !strings.Contains(errOut, tt.err) {
				t.Errorf("status %d\nout %s\nerr %s", status, out, errOut)
			}
		})
	}
}

func TestServeOptions(t *testing.T) {
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	f := declareServe(fs)
	err := fs.Parse([]string{"--cores", "0x5", "--mem", "512M", "--malloc=1GiB", "--listen", "[::1]:0", "--idle", "poll", "--log-level", "debug", "--rpc-socket", "/s", "--config", "c",
		"--tcp-zero-copy", "64K", "--busy-poll", "50", "--tcp-placement", "queue"})
	if err != nil {
		t.Fatal(err)
	}
	o, err := f.options(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Cores) != 2 || o.Cores[1] != 2 || o.Mem != 512<<20 || o.Malloc != 1<<30 || o.Listen != "[::1]:0" || o.Idle != reactor.Poll ||
		o.Log.Level() != "DEBUG" || o.Socket != "/s" || o.Config != "c" ||
		o.ZeroCopy != 64<<10 || o.BusyPollUS != 50 || !o.ByQueue {
		t.Errorf("got %+v", o)
	}
}

func TestParseSize(t *testing.T) {
	for _, tt := range []struct {
		text string
		want uint64 // 0: refused
	}{
		{"1", 1}, {"4096", 4096}, {"1K", 1 << 10}, {"1k", 1 << 10}, {"2MB", 2 << 20}, {"3GiB", 3 << 30}, {"1T", 1 << 40}, {" 1g ", 1 << 30},
		{"", 0}, {"0", 0}, {"G", 0}, {"-1", 0}, {"1.5G", 0}, {"1X", 0}, {"9223372036854775807", 1<<63 - 1}, {"9223372036854775808", 0}, {"8388608T", 0}, {"8388607T", 8388607 << 40},
	} {
		t.Run(tt.text, func(t *testing.T) {
			got, err := parseSize(tt.text)
			if got != tt.want || (err == nil) != (tt.want != 0) {
				t.Errorf("got %d, %v", got, err)
			}
		})
	}
}

// listen starts a server and returns its socket.
func listen(t *testing.T) (ctl *control.Control, socket string) {
	t.Helper()
	ctl, _ = controltest.New()
	ctl.Start()
	s := rpc.NewServer(ctl)
	socket = filepath.Join(t.TempDir(), "s.sock")
	if err := s.Listen(socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return ctl, socket
}

// TestRPC calls a server as a user would.
func TestRPC(t *testing.T) {
	ctl, socket := listen(t)
	rpcRun := func(args ...string) (int, string, string) {
		return run(append([]string{"rpc", "--rpc-socket", socket}, args...)...)
	}
	for _, tt := range []struct {
		name     string
		args     []string
		status   int
		out, err string // exactly; the newline at the end is left out
	}{
		{"result", []string{"log_get_level"}, exitOK, `"NOTICE"`, ""},
		{"pretty", []string{"framework_get_scheduler"}, exitOK, "{\n  \"scheduler_name\": \"static\",\n  \"scheduler_period\": 0,\n  \"isolated_core_mask\": \"0x0\",\n  \"scheduling_core\": 1\n}", ""},
		{"raw", []string{"--raw", "framework_get_scheduler"}, exitOK, "", ""},
		{"create", []string{"bdev_malloc_create", "name=7", "num_blocks=8", "block_size=512"}, exitOK, `"7"`, ""},
		{"again", []string{"bdev_malloc_create", "name=7", "num_blocks=8", "block_size=512"}, exitError, "",
			`spindle: bdev_malloc_create: bdev "7" exists (File exists); choose another name, a block size of 512 or 4096, or a smaller size [code -17]`},
		{"missing", []string{"bdev_malloc_delete", "name=x"}, exitError, "",
			`spindle: bdev_malloc_delete: there is no bdev "x"; bdev_get_bdevs lists those there are (No such device) [code -19]`},
		{"a server that says no more", []string{"bdev_set_qos_limit", "name=7"}, exitError, "",
			`spindle: bdev_set_qos_limit: give at least one limit (No rate limits specified); "spindle rpc bdev_get_bdevs" lists the bdevs there are [code -22]`},
		{"checked before it is sent", []string{"bdev_malloc_create", "name=7", "num_blocks=many", "block_size=512"}, exitUsage, "",
			"spindle: parameter \"num_blocks\": must be a uint64\nusage: spindle rpc " + usage(t, "bdev_malloc_create")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, out, errOut := rpcRun(tt.args...)
			if tt.name == "raw" {
				tt.out = `{"scheduler_name":"static","scheduler_period":0,"isolated_core_mask":"0x0","scheduling_core":1}`
			}
			if status != tt.status || strings.TrimSuffix(out, "\n") != tt.out || strings.TrimSuffix(errOut, "\n") != tt.err {
				t.Errorf("status %d\nout %s\nerr %s", status, out, errOut)
			}
		})
	}
	t.Run("save and load", func(t *testing.T) {
		_, saved, _ := rpcRun("save_config")
		if status, _, errOut := rpcRun("bdev_malloc_delete", "name=7"); status != exitOK {
			t.Fatal(errOut)
		}
		var out bytes.Buffer
		if err := call(streams{&out, io.Discard}, socket, true, []string{"load_config"}, strings.NewReader(saved)); err != nil || out.String() != "true\n" {
			t.Fatalf("%s %v", out.String(), err)
		}
		if len(ctl.Bdevs()) != 1 {
			t.Error("not loaded")
		}
		if err := call(streams{&out, io.Discard}, socket, true, []string{"load_config"}, strings.NewReader("")); err == nil || !strings.Contains(err.Error(), "nothing was sent") {
			t.Errorf("nothing on the standard input: %v", err)
		}
	})
}

func usage(t *testing.T, method string) string {
	t.Helper()
	m, err := rpc.Lookup(method)
	if err != nil {
		t.Fatal(err)
	}
	return m.Usage()
}

// started is a writer that tells when something was written: the banner comes
// when the target serves.
type started struct{ said chan string }

func (s started) Write(p []byte) (int, error) {
	s.said <- string(p)
	return len(p), nil
}

// TestServe: a target that serves ends in good order by a signal, or by RPC.
func TestServe(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s.sock")
	for _, tt := range []struct {
		name string
		stop func(t *testing.T)
	}{
		{"signal", func(t *testing.T) {
			self, err := os.FindProcess(os.Getpid())
			if err != nil {
				t.Fatal(err)
			}
			if err := self.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}},
		{"RPC", func(t *testing.T) {
			if status, _, errOut := run("rpc", "--rpc-socket", socket, "spdk_kill_instance", "sig_name=SIGINT"); status != exitOK {
				t.Error(errOut)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := started{make(chan string, 1)}
			var log bytes.Buffer
			ended := make(chan int)
			go func() {
				ended <- Run([]string{"serve", "--malloc", "16M", "--listen", "127.0.0.1:0", "--mem", "32M", "--rpc-socket", socket}, out, &log)
			}()
			select {
			case banner := <-out.said:
				for _, want := range []string{":disk", "LUN 0: Malloc0, Malloc disk, 16 MiB", "iscsi-ls -s iscsi://127.0.0.1:", "iscsiadm -m discovery"} {
					if !strings.Contains(banner, want) {
						t.Errorf("the banner has no %q:\n%s", want, banner)
					}
				}
			case status := <-ended:
				if strings.Contains(log.String(), "io_uring refused") {
					t.Skip(log.String())
				}
				t.Fatalf("ended with %d: %s", status, log.String())
			case <-time.After(patience):
				t.Fatal("no banner")
			}
			if status, _, errOut := run("serve", "--no-rpc", "--rpc-socket", socket, "--malloc", "16M", "--listen", "not an address"); status != exitError || !strings.Contains(errOut, "ADDRESS:PORT") {
				t.Errorf("a bad address: %d %s", status, errOut)
			}
			tt.stop(t)
			select {
			case status := <-ended:
				if status != exitOK {
					t.Errorf("status %d: %s", status, log.String())
				}
			case <-time.After(patience):
				t.Fatal("it does not end")
			}
			if _, err := os.Lstat(socket); !os.IsNotExist(err) {
				t.Errorf("the socket is left: %v", err)
			}
		})
	}
}

// TestEndWhileStarting: a signal ends a target that is still starting, and a second
// one whatever it waits for.
func TestEndWhileStarting(t *testing.T) {
	dir := t.TempDir()
	waits, fifo := filepath.Join(dir, "waits.json"), filepath.Join(dir, "fifo")
	config := `{"subsystems":[{"subsystem":"bdev","config":[
	 {"method":"bdev_null_create","params":{"name":"N","num_blocks":8,"block_size":512}},
	 {"method":"bdev_get_bdevs","params":{"name":"never","timeout":3600000}}]}]}`
	if err := os.WriteFile(waits, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, config string
		after        []string // a signal comes after each
		status       int
	}{
		{"a call that waits", waits, []string{"bdev created"}, exitOK},
		{"a file that is not read", fifo, []string{"reactors run", "given up"}, exitError},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log := started{make(chan string, 100)}
			ended := make(chan int, 1)
			go func() {
				ended <- Run([]string{"serve", "--config", tt.config, "--mem", "32M", "--no-rpc", "--log-level", "info"}, io.Discard, log)
			}()
			late := time.After(patience)
			for _, want := range tt.after {
				for line := ""; !strings.Contains(line, want); {
					select {
					case line = <-log.said:
						if strings.Contains(line, "io_uring refused") {
							t.Skip(line)
						}
					case <-late:
						t.Fatalf("no %q", want)
					}
				}
				if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case status := <-ended:
				if status != tt.status {
					t.Errorf("status %d", status)
				}
			case <-late:
				t.Fatal("it does not end")
			}
		})
	}
	// What waits for the file goes on, and ends for want of a configuration.
	if f, err := os.OpenFile(fifo, os.O_WRONLY, 0); err == nil {
		_ = f.Close()
	}
}
