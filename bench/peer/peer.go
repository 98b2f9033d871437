package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Target is the name of the target node, for those that take any.
const Target = "iqn.2026-11.io.spindle:bench"

// Spinning is the name of Spindle when it never sleeps.
const Spinning = "spindle-poll"

// LUN kinds.
const (
	Null = "null" // answers at once, stores nothing
	RAM  = "ram"  // stores in memory
)

// ErrAbsent: the peer is not on this machine. The text around it says how to get it.
var ErrAbsent = errors.New("absent")

// Setup is what every peer gets alike.
type Setup struct {
	CPU  int    // everything of the peer runs there; -1 leaves it
	Size uint64 // of each LUN, in bytes
	Dir  string // for its files
	Host string // address to listen on; empty is the loopback address
	// ISER has it listen over iSER too, at Host, which an RDMA device has.
	ISER bool
	Args []string // more for its program
	Env  []string // more for its environment
	// Connections there will be at most at a time, for those that must know.
	Connections int
	// NullOnly leaves the LUN in memory out, where that is a choice.
	NullOnly bool
}

// Driver knows one kind of target.
type Driver interface {
	// Name is its word on the command line, Title its name in a report.
	Name() string
	Title() string
	// Version tells that it is here and which it is, or ErrAbsent.
	Version(context.Context) (string, error)
	Start(context.Context, Setup) (*Running, error)
}

// Running is a started peer.
type Running struct {
	PID  int               // 0 where it lives in the kernel
	URLs map[string]string // by LUN kind
	ISER map[string]string // the same over iSER, where that was asked for
	// Threads are the beginnings of its threads' names, where it lives in the kernel.
	Threads []string
	// Control is the RPC socket of those that have one, with SPDK's methods.
	Control string

	proc     *process
	farewell func() // before it is told to end
	clean    func() // after
}

// Stop ends the peer and removes what it left.
func (r *Running) Stop() error {
	var err error
	if r.proc != nil {
		r.proc.resume() // a stopped process does not see that it is to end
		if r.farewell != nil && r.proc.alive() == nil {
			r.farewell()
		}
		err = r.proc.stop()
	}
	if r.clean != nil {
		r.clean()
	}
	return err
}

// Pause stops the peer's process, so that it costs nothing while another is
// measured; Resume lets it go on.
func (r *Running) Pause() {
	if r.proc != nil {
		r.proc.pause()
	}
}

// Resume lets a paused peer go on.
func (r *Running) Resume() {
	if r.proc != nil {
		r.proc.resume()
	}
}

// Alive is an error with its last words when the peer has ended by itself.
func (r *Running) Alive() error {
	if r.proc == nil {
		return nil
	}
	return r.proc.alive()
}

// Said is the last that the peer's program wrote.
func (r *Running) Said() string {
	if r.proc == nil {
		return ""
	}
	return r.proc.said()
}

// Paths are where to look first for what is not in PATH.
type Paths struct{ Spindle, SPDK, Self string }

// Drivers are all peers there are.
func Drivers(p Paths) []Driver {
	return []Driver{
		spindleDriver{p.Spindle}, stgtDriver{}, spdkDriver{p.SPDK}, lioDriver{lioRoot}, limitDriver{p.Self},
		Variant(spindleDriver{p.Spindle}, Spinning, "Spindle, spinning", func(s *Setup) { s.Args = append(s.Args, "--idle", "poll") }),
	}
}

// Find returns the drivers of a comma-separated list of names. An entry
// name=iscsi://host/target/lun is a target that runs already.
func Find(all []Driver, list string) ([]Driver, error) {
	var found []Driver
	for name := range strings.SplitSeq(list, ",") {
		if own, url, ok := strings.Cut(name, "="); ok {
			found = append(found, externalDriver{own, url})
			continue
		}
		i := slices.IndexFunc(all, func(d Driver) bool { return d.Name() == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no peer %q; there are %s, and name=iscsi://... for one that runs already", name, names(all))
		}
		found = append(found, all[i])
	}
	return found, nil
}

func names(all []Driver) string {
	var list []string
	for _, d := range all {
		list = append(list, d.Name())
	}
	return strings.Join(list, ", ")
}

// absent makes ErrAbsent with how to get the thing.
func absent(how string) error { return fmt.Errorf("%w: %s", ErrAbsent, how) }

// executable finds a program: where it was said to be, beside this one, in ./bin
// or in PATH.
func executable(said, name string) (string, error) {
	if said != "" {
		return said, runnable(said)
	}
	var places []string
	if self, err := os.Executable(); err == nil {
		places = append(places, filepath.Join(filepath.Dir(self), name))
	}
	places = append(places, filepath.Join("bin", name))
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin") {
		places = append(places, filepath.Join(dir, name))
	}
	for _, p := range places {
		if runnable(p) == nil {
			return filepath.Abs(p)
		}
	}
	return "", os.ErrNotExist
}

func runnable(path string) error {
	st, err := os.Stat(path)
	if err == nil && (st.IsDir() || st.Mode()&0o111 == 0) {
		err = os.ErrPermission
	}
	return err
}

// externalDriver is a target that somebody else started.
type externalDriver struct{ name, url string }

func (d externalDriver) Name() string  { return d.name }
func (d externalDriver) Title() string { return d.name }

func (d externalDriver) Version(context.Context) (string, error) { return d.url, nil }

func (d externalDriver) Start(context.Context, Setup) (*Running, error) {
	return &Running{URLs: map[string]string{Null: d.url, RAM: d.url}}, nil
}
