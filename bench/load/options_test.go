package load

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParseURL(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       Address
		bad        bool
	}{
		{"whole", "iscsi://127.0.0.1:3270/iqn.2026-11.io.spindle:d/3", Address{"127.0.0.1:3270", "iqn.2026-11.io.spindle:d", 3, false}, false},
		{"default port", "iscsi://host/iqn.a:b/0", Address{"host:3260", "iqn.a:b", 0, false}, false},
		{"IPv6", "iscsi://[::1]:1/iqn.a:b/0", Address{"[::1]:1", "iqn.a:b", 0, false}, false},
		{"IPv6, default port", "iscsi://[::1]/iqn.a:b/0", Address{"[::1]:3260", "iqn.a:b", 0, false}, false},
		{"escaped, with a slash", "iscsi://h/iqn.a%3Ab/c/1", Address{"h:3260", "iqn.a:b/c", 1, false}, false},
		{"large LUN", "iscsi://h/iqn.a/16383", Address{"h:3260", "iqn.a", 16383, false}, false},
		{"too large LUN", "iscsi://h/iqn.a/16384", Address{}, true},
		{"no LUN", "iscsi://h/iqn.a", Address{}, true},
		{"no target", "iscsi://h/", Address{}, true},
		{"another scheme", "http://h/iqn.a/0", Address{}, true},
		{"iSER", "iser://h/iqn.a/0", Address{"h:3260", "iqn.a", 0, true}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseURL(c.text)
			if errors.Is(err, ErrOption) != c.bad || got != c.want {
				t.Errorf("%v, %v; want %v", got, err, c.want)
			}
			if again, err := ParseURL(got.String()); !c.bad && !strings.Contains(c.text, "%") && (err != nil || again != got) {
				t.Errorf("%q is read as %v, %v", got.String(), again, err)
			}
		})
	}
}

func TestParseSizes(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []Size
	}{
		{"one", "4k", []Size{{4096, 100}}},
		{"bytes", "512", []Size{{512, 100}}},
		{"split", "4k/70:64k/30", []Size{{4096, 70}, {65536, 30}}},
		{"largest", "4m", []Size{{4 << 20, 100}}},
		{"beyond", "8m", nil},
		{"not a hundred", "4k/70:64k/20", nil},
		{"no share", "4k:64k", nil},
		{"nothing", "", nil},
		{"zero", "0", nil},
		{"words", "big", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseSizes(c.text)
			if !reflect.DeepEqual(got, c.want) || (err == nil) != (c.want != nil) {
				t.Errorf("%v, %v; want %v", got, err, c.want)
			}
		})
	}
}

func TestFormatBytesIsWhatParseBytesReads(t *testing.T) {
	for _, n := range []uint64{512, 4096, 1 << 20, 3 << 30, 1 << 40, 1536} {
		if got, err := ParseBytes(FormatBytes(n)); err != nil || got != n {
			t.Errorf("%d became %q became %d, %v", n, FormatBytes(n), got, err)
		}
	}
}

func TestParsePattern(t *testing.T) {
	for _, c := range []struct {
		word   string
		mix    int
		reads  int
		random bool
		bad    bool
	}{
		{"read", 50, 100, false, false},
		{"randread", 50, 100, true, false},
		{"write", 50, 0, false, false},
		{"randwrite", 50, 0, true, false},
		{"rw", 70, 70, false, false},
		{"randrw", 30, 30, true, false},
		{"randrw", 130, 0, true, true},
		{"trim", 50, 0, false, true},
	} {
		t.Run(c.word, func(t *testing.T) {
			p, err := ParsePattern(c.word, c.mix)
			if (err != nil) != c.bad || err == nil && (p.Reads != c.reads || p.Random != c.random) {
				t.Errorf("%+v, %v", p, err)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	good := func() Options { return Options{Runtime: time.Second, Pattern: Pattern{Name: "read", Reads: 100}} }
	for _, c := range []struct {
		name   string
		change func(*Options)
		bad    bool
	}{
		{"defaults", func(*Options) {}, false},
		{"no time", func(o *Options) { o.Runtime = 0 }, true},
		{"too deep", func(o *Options) { o.Depth = MaxDepth + 1 }, true},
		{"too many connections", func(o *Options) { o.Connections = MaxConnections + 1 }, true},
		{"odd size", func(o *Options) { o.Sizes = []Size{{1000, 100}} }, true},
		{"verification of a split", func(o *Options) { o.Verify, o.Sizes = true, []Size{{512, 50}, {4096, 50}} }, true},
		{"random once", func(o *Options) { o.Once, o.Pattern.Random = true, true }, true},
		{"negative rate", func(o *Options) { o.Rate = -1 }, true},
		{"sleep without a rate", func(o *Options) { o.Sleep = true }, true},
		{"sleep with one", func(o *Options) { o.Sleep, o.Rate = true, 1 }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := good()
			c.change(&o)
			if err := o.Check(); errors.Is(err, ErrOption) != c.bad {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestSI(t *testing.T) {
	for _, c := range []struct {
		x    float64
		want string
	}{{0, "0.00"}, {5, "5.00"}, {512, "512"}, {1234, "1.23k"}, {56789, "56.8k"}, {999000, "999k"}, {2.5e6, "2.50M"}} {
		if got := SI(c.x); got != c.want {
			t.Errorf("SI(%v) = %s, want %s", c.x, got, c.want)
		}
	}
}
