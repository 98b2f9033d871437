package peer

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"os/exec"
	"strconv"
	"strings"

	"spindle/bench/counters"
)

// Program is a target that any command starts: NAME=COMMAND ARGS... URL, in
// which {port}, {cpu} and {size} are replaced. The URL is that of its null LUN;
// it has no other.
func Program(text string) (Driver, error) {
	name, rest, ok := strings.Cut(text, "=")
	words := strings.Fields(rest)
	if !ok || name == "" || len(words) < 2 || !strings.HasPrefix(words[len(words)-1], "iscsi://") {
		return nil, fmt.Errorf("program %q: want NAME=COMMAND ARGUMENTS... iscsi://127.0.0.1:{port}/target/lun", text)
	}
	return programDriver{name, words[:len(words)-1], words[len(words)-1]}, nil
}

type programDriver struct {
	name    string
	command []string
	url     string
}

func (d programDriver) Name() string  { return d.name }
func (d programDriver) Title() string { return d.name }

func (d programDriver) Version(context.Context) (string, error) {
	path, err := exec.LookPath(d.command[0])
	if err != nil {
		return "", absent("there is no " + d.command[0])
	}
	return strings.Join(append([]string{path}, d.command[1:]...), " "), nil
}

func (d programDriver) Start(ctx context.Context, s Setup) (*Running, error) {
	port, err := freePort(s.host())
	if err != nil {
		return nil, err
	}
	replace := strings.NewReplacer("{port}", strconv.Itoa(port), "{cpu}", strconv.Itoa(s.CPU), "{size}", strconv.FormatUint(s.Size, 10))
	args := make([]string, len(d.command))
	for i, w := range d.command {
		args[i] = replace.Replace(w)
	}
	p, err := start(s, args[0], args[1:]...)
	if err != nil {
		return nil, err
	}
	target := replace.Replace(d.url)
	r := &Running{PID: p.cmd.Process.Pid, proc: p, URLs: map[string]string{Null: target}}
	addr, err := loopback(target)
	if err == nil {
		// Looked up, not connected to: a program of one connection would be used up.
		err = p.until(ctx, "listen on "+addr.String(), func() bool { return counters.Listener(addr) != 0 })
	}
	if err != nil {
		r.Stop()
		return nil, err
	}
	return r, nil
}

// loopback is where a URL leads.
func loopback(target string) (netip.AddrPort, error) {
	u, err := url.Parse(target)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.ParseAddrPort(u.Host)
}
