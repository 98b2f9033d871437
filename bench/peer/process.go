package peer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"spindle/internal/sys"
)

const (
	startTimeout = time.Minute
	stopTimeout  = 10 * time.Second
	logKept      = 8 << 10
)

// process is a peer's process, confined to its CPU.
type process struct {
	cmd   *exec.Cmd
	done  chan struct{} // closed when it has ended
	err   error         // its end, after done
	first chan string   // its first line of standard output

	mu  sync.Mutex // guards log
	log bytes.Buffer
}

// start runs a program confined to the setup's CPU.
func start(s Setup, path string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(path, args...), done: make(chan struct{}), first: make(chan string, 1)}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stderr = p
	p.cmd.Env = append(os.Environ(), s.Env...)
	if err := onCPU(s.CPU, p.cmd.Start); err != nil {
		return nil, err
	}
	go func() {
		r := bufio.NewReader(out)
		line, _ := r.ReadString('\n')
		p.first <- strings.TrimSpace(line)
		io.WriteString(p, line)
		io.Copy(p, r)
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// onCPU calls f on a thread of its own that is bound to cpu, which a process
// that f starts inherits.
func onCPU(cpu int, f func() error) error {
	if cpu < 0 {
		return f()
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its affinity
		if err := sys.PinThread(cpu); err != nil {
			result <- err
			return
		}
		result <- f()
	}()
	return <-result
}

// Output runs a program confined to cpu, and returns what it says.
func Output(cpu int, cmd *exec.Cmd) ([]byte, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := onCPU(cpu, cmd.Start); err != nil {
		return nil, err
	}
	err := cmd.Wait()
	return out.Bytes(), err
}

// Write keeps the last of what the process says.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.log.Len() > logKept {
		p.log.Next(p.log.Len() - logKept/2)
	}
	return p.log.Write(b)
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.TrimSpace(p.log.String())
}

func (p *process) alive() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s has ended: %v\n%s", p.cmd.Path, p.err, p.said())
	default:
		return nil
	}
}

// stop ends the process in good order, or else at once.
func (p *process) stop() error {
	if p.alive() != nil {
		return nil
	}
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return nil
	case <-time.After(stopTimeout):
	}
	p.signal(syscall.SIGKILL)
	<-p.done
	return fmt.Errorf("%s did not end within %v and was killed", p.cmd.Path, stopTimeout)
}

func (p *process) pause()  { p.signal(syscall.SIGSTOP) }
func (p *process) resume() { p.signal(syscall.SIGCONT) }

func (p *process) signal(s os.Signal) { _ = p.cmd.Process.Signal(s) } // it may have ended

// listens waits until addr, of a network such as tcp or unix, takes connections.
func (p *process) listens(ctx context.Context, network, addr string) error {
	return p.until(ctx, "listen on "+addr, func() bool {
		c, err := net.DialTimeout(network, addr, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// until waits for a condition, as long as the process lives.
func (p *process) until(ctx context.Context, what string, met func() bool) error {
	deadline := time.Now().Add(startTimeout)
	for !met() {
		if err := errors.Join(ctx.Err(), p.alive()); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not %s within %v\n%s", p.cmd.Path, what, startTimeout, p.said())
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

// host is where a peer listens.
func (s *Setup) host() string {
	if s.Host == "" {
		return "127.0.0.1"
	}
	return s.Host
}

// freePort is a port of that address that nobody listens on.
func freePort(host string) (int, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
