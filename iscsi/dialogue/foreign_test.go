package dialogue_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"spindle/iscsi/dialogue"
	"spindle/iscsi/dialogue/linktest"
	"spindle/iscsi/iscsitest"
)

var (
	foreign       = flag.String("dialogue.addr", "", "play against the target at this host:port")
	foreignTarget = flag.String("dialogue.iqn", "", "its node's name")
	foreignLUN    = flag.String("dialogue.lun", "1", "a LUN of it that may be written")
	foreignWith   = flag.String("dialogue.with", "", "play against what this program starts, anew for each dialogue: it is told start or stop, and prints variables")
	foreignWait   = flag.Duration("dialogue.patience", 2*time.Second, "how long it may take to answer")
	foreignExpect = flag.String("dialogue.expect", "", "file of the dialogues that it departs from, and at which line")
)

// TestForeign plays the scripts against somebody else's target.
func TestForeign(t *testing.T) {
	vars := map[string]string{"target": *foreignTarget, "lun": *foreignLUN, "portal": *foreign, "initiator": iscsitest.Initiator}
	fresh := func(t *testing.T) {}
	switch {
	case *foreignWith != "":
		fresh = func(t *testing.T) { maps.Copy(vars, control(t, "start")) }
		defer control(t, "stop")
	case *foreign == "":
		t.Skip("-dialogue.addr and -dialogue.with name no target")
	}
	expected := readDepartures(t)
	for _, s := range load(t) {
		t.Run(s.Name, func(t *testing.T) {
			fresh(t)
			if m := missing(s, vars); len(m) > 0 {
				t.Skipf("needs %v", m)
			}
			p := &dialogue.Player{
				Dial: func() (dialogue.Link, error) { return linktest.DialSocket(vars["portal"], *foreignWait) }, Wait: time.Sleep, Vars: vars,
			}
			err := p.Play(s)
			var d *dialogue.Departure
			switch want := expected[s.Name]; {
			case err == nil && want.line != 0 && !want.sometimes:
				t.Fatalf("it departed at line %d, and does no more", want.line)
			case errors.As(err, &d) && d.Line == want.line:
				t.Log("as expected: ", err)
			case err != nil:
				t.Fatal(err)
			}
		})
	}
}

// control has the program of -dialogue.with do something and returns the
// variables that it prints.
func control(t *testing.T, what string) map[string]string {
	t.Helper()
	var said bytes.Buffer
	cmd := exec.Command(*foreignWith, what)
	cmd.Stderr = &said
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", *foreignWith, what, err, &said)
	}
	vars := map[string]string{}
	for w := range strings.FieldsSeq(string(out)) {
		k, v, _ := strings.Cut(w, "=")
		vars[k] = v
	}
	return vars
}

// departure is where a target is known to do something else, always or sometimes.
type departure struct {
	line      int
	sometimes bool
}

// readDepartures reads the file of -dialogue.expect: in each line a dialogue, the
// number of a line of it, and "sometimes" where it is not always so.
func readDepartures(t *testing.T) map[string]departure {
	t.Helper()
	list := map[string]departure{}
	if *foreignExpect == "" {
		return list
	}
	text, err := os.ReadFile(*foreignExpect)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		var name string
		var d departure
		if _, err := fmt.Sscan(line, &name, &d.line); err != nil {
			t.Fatalf("%s: %q: %v", *foreignExpect, line, err)
		}
		d.sometimes = strings.HasSuffix(line, " sometimes")
		list[name] = d
	}
	return list
}
