package cli

import (
	"errors"
	"strings"
	"testing"

	"spindle/verbs/ibverbs"
)

func TestExplainRDMA(t *testing.T) {
	good := ibverbs.Finding{OK: true, What: "libraries are there"}
	for _, tt := range []struct {
		name     string
		findings []ibverbs.Finding
		ready    bool
		want     []string
	}{
		{"ready", []ibverbs.Finding{good}, true, []string{"  ok    libraries are there\n", "set_iser tag=1 enable=true", "-I iser --login"}},
		{"steps in order", []ibverbs.Finding{good, {What: "no device", Do: "add one"}, {What: "no memory", Do: "raise it"}}, false,
			[]string{"  ok    libraries", "  1.    no device\n        do: add one\n", "  2.    no memory\n        do: raise it\n", "run this command again"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			err := explainRDMA(&out, tt.findings, tt.ready)
			if tt.ready != (err == nil) || err != nil && !errors.Is(err, errNoISER) {
				t.Errorf("error %v", err)
			}
			text := out.String()
			for _, w := range tt.want {
				_, rest, found := strings.Cut(text, w)
				if !found {
					t.Fatalf("no %q, or not there, in\n%s", w, out.String())
				}
				text = rest
			}
		})
	}
}

// TestRDMA: on any machine the command finds something and says so.
func TestRDMA(t *testing.T) {
	status, out, errOut := run("rdma")
	switch {
	case status == exitOK && !strings.Contains(out, "iSER can be served"),
		status == exitError && !strings.Contains(errOut, errNoISER.Error()),
		status == exitError && !strings.Contains(out, "do: "),
		status == exitUsage:
		t.Errorf("status %d, %q, %q", status, out, errOut)
	}
	for _, args := range [][]string{{"rdma", "x"}, {"rdma", "--mem", "much"}} {
		if status, _, _ := run(args...); status != exitUsage {
			t.Errorf("%v: status %d", args, status)
		}
	}
}
