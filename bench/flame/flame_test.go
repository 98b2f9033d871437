package flame

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"runtime/pprof"
	"strings"
	"testing"
	"time"
)

// spend takes time where a profile must find it.
func spend(d time.Duration) (n int) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		n++
	}
	return n
}

// TestParse profiles this very test.
func TestParse(t *testing.T) {
	for d := 200 * time.Millisecond; ; d *= 2 {
		var b bytes.Buffer
		if err := pprof.StartCPUProfile(&b); err != nil {
			t.Skip(err)
		}
		spend(d)
		pprof.StopCPUProfile()
		stacks, err := Parse(b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range stacks {
			at := strings.Join(s.Functions, " ")
			if strings.Contains(at, "testing.tRunner") && strings.Contains(at, "flame.TestParse spindle/bench/flame.spend") && s.Count > 0 {
				return
			}
		}
		if d > 3*time.Second {
			t.Fatalf("spend is in none of %v", stacks)
		}
	}
}

func TestParseRefusesNonsense(t *testing.T) {
	for _, b := range [][]byte{nil, []byte("text"), {0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0}} {
		if _, err := Parse(b); !errors.Is(err, ErrProfile) {
			t.Errorf("% x: %v", b, err)
		}
	}
	for _, b := range [][]byte{{0x12}, {0x12, 0x05, 0x01}, {0x0d, 0, 0, 0, 0}} {
		if err := fields(b, func(int, uint64, []byte) error { return nil }); !errors.Is(err, ErrProfile) {
			t.Errorf("% x: %v", b, err)
		}
	}
}

var stacks = []Stack{
	{[]string{"runtime.main", "a/b.turn", "a/b.parse"}, 30},
	{[]string{"runtime.main", "a/b.turn", "a/b.parse", "c.<get>"}, 10},
	{[]string{"runtime.main", "a/b.turn", "syscall.RawSyscall6"}, 50},
	{[]string{"runtime.gc"}, 10},
}

func TestSVG(t *testing.T) {
	for _, c := range []struct {
		name, within string
		want         []string
		not          string
	}{
		{"all", "", []string{"all: 100.0 %", "b.turn: 90.0 %", "c.&lt;get&gt;: 10.0 %", "runtime.gc: 10.0 %"}, "NaN"},
		{"within a function", "b.turn", []string{"all: 100.0 %", "b.turn: 100.0 %", "RawSyscall6: 55.6 %"}, "runtime.gc"},
		{"within nothing", "zzz", []string{"<title>"}, "all:"},
	} {
		t.Run(c.name, func(t *testing.T) {
			svg := SVG(stacks, "a <title>", c.within)
			for _, want := range c.want {
				if !strings.Contains(svg, want) {
					t.Errorf("lacks %q:\n%s", want, svg)
				}
			}
			if strings.Contains(svg, c.not) || strings.Contains(svg, "href") {
				t.Errorf("has %q, or needs something beside it:\n%s", c.not, svg)
			}
			d := xml.NewDecoder(strings.NewReader(svg))
			for {
				if _, err := d.Token(); err == io.EOF {
					break
				} else if err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestTop(t *testing.T) {
	top := Top(stacks, 2)
	if len(top) != 2 || top[0] != (Share{"syscall.RawSyscall6", 0.5, 0.5}) || top[1] != (Share{"a/b.parse", 0.4, 0.3}) {
		t.Errorf("%+v", top)
	}
}
