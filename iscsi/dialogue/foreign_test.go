package dialogue_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"slices"
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
	expected := map[string]departure{}
	if *foreignExpect != "" {
		expected = readDepartures(t, *foreignExpect)
	}
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

// readDepartures reads a file of -dialogue.expect: in each line a dialogue, the
// number of a line of it, and "sometimes" where it is not always so.
func readDepartures(t *testing.T, file string) map[string]departure {
	t.Helper()
	list := map[string]departure{}
	text, err := os.ReadFile(file)
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
			t.Fatalf("%s: %q: %v", file, line, err)
		}
		d.sometimes = strings.HasSuffix(line, " sometimes")
		list[name] = d
	}
	return list
}

// TestDeparturesAreExplained: where another target is known to depart there is a
// step, and README.md says why it does; it gives no reason for what does not.
func TestDeparturesAreExplained(t *testing.T) {
	readme, err := os.ReadFile("testdata/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for peer, title := range map[string]string{"stgt": "STGT", "lio": "LIO"} {
		_, table, found := strings.Cut(string(readme), "\n## Held against "+title+"\n")
		if !found {
			t.Fatalf("README.md has no table of %s", title)
		}
		table, _, _ = strings.Cut(table, "\n## ")
		var explained []string
		for row := range strings.Lines(table) {
			if cells := strings.Split(row, "|"); len(cells) > 3 {
				explained = append(explained, strings.Split(strings.ReplaceAll(cells[1], " ", ""), ",")...)
			}
		}
		explained = explained[2:] // the head and what is under it
		departures := readDepartures(t, "../../scripts/oracle/"+peer+".expected")
		is := func(pattern, name string) bool {
			ok, _ := path.Match(pattern, name)
			return ok || strings.HasPrefix(pattern, "class") && strings.HasPrefix(name, pattern+"_")
		}
		for name, d := range departures {
			text, err := os.ReadFile("testdata/" + name + ".txt")
			lines := strings.Split(string(text), "\n")
			if err != nil || d.line > len(lines) || strings.Trim(lines[d.line-1][:min(1, len(lines[d.line-1]))], " #") == "" {
				t.Errorf("%s: %s has no step in line %d", peer, name, d.line)
			}
			if !slices.ContainsFunc(explained, func(pattern string) bool { return is(pattern, name) }) {
				t.Errorf("%s departs from %s, and README.md does not say why", title, name)
			}
		}
		names := slices.Collect(maps.Keys(departures))
		for _, pattern := range explained {
			if !slices.ContainsFunc(names, func(name string) bool { return is(pattern, name) }) {
				t.Errorf("README.md tells of %s and %s, and there is no departure", title, pattern)
			}
		}
	}
}
