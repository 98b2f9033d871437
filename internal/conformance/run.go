package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// Limit is how long the whole suite may take. A target that dies makes it spin
// for ever, so it runs under a watch of its own.
const Limit = 15 * time.Minute

// Quiet is how long it may say nothing: the longest test sleeps for 20 s.
const Quiet = 2 * time.Minute

// Run runs every test, or those of one suite, against the LUN at urls, which
// loses its data: one URL a path to it. The log goes to log as it comes; each is
// called with every result.
func Run(ctx context.Context, urls []string, suite string, log io.Writer, each func(Result)) ([]Result, error) {
	if _, err := exec.LookPath("iscsi-test-cu"); err != nil {
		return nil, fmt.Errorf("%w (Debian: libiscsi-bin)", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, Limit, errors.New("the suite took too long"))
	defer cancel()
	quiet := time.AfterFunc(Quiet, cancel)
	defer quiet.Stop()

	// stdbuf: into a pipe the suite would speak only at its end.
	which := "ALL"
	if suite != "" {
		which = "ALL." + suite
	}
	args := append([]string{"-oL", "iscsi-test-cu", "--dataloss", "--allow-sanitize", "--test=" + which}, urls...)
	cmd := exec.CommandContext(ctx, "stdbuf", args...)
	cmd.WaitDelay = time.Second
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, err
	}
	w.Close()
	rs, err := Parse(io.TeeReader(r, log), func(res Result) {
		quiet.Reset(Quiet)
		if each != nil {
			each(res)
		}
	})
	// Its exit status says nothing that the log does not.
	werr := cmd.Wait()
	if ctx.Err() != nil {
		return rs, fmt.Errorf("iscsi-test-cu stopped: no progress or too long (%w)", context.Cause(ctx))
	}
	var exit *exec.ExitError
	if errors.As(werr, &exit) && exit.ExitCode() < 0 {
		return rs, fmt.Errorf("iscsi-test-cu: %w", werr)
	}
	return rs, err
}
