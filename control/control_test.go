package control_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"spindle/bdev"
	"spindle/control"
	"spindle/control/controltest"
	"spindle/iscsi"
	"spindle/reactor"
)

// target makes what most tests need: bdevs M and N, groups 1, and a node.
func target(t *testing.T) (*control.Control, *controltest.Engine) {
	t.Helper()
	c, e := controltest.New()
	c.Start()
	for _, name := range []string{"M", "N"} {
		if _, err := c.CreateMalloc(control.MallocSpec{Name: name, Geometry: control.Geometry{BlockSize: 512, NumBlocks: 64}, NUMA: -1}); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(
		c.CreatePortalGroup(control.PortalGroup{Tag: 1, Portals: []control.Portal{{Host: "127.0.0.1", Port: "0"}}}),
		c.CreateInitiatorGroup(iscsi.InitiatorGroup{Tag: 1, Initiators: []string{"ANY"}, Netmasks: []string{"ANY"}}),
		c.CreateNode(node("Disk"), []control.LUN{{ID: -1, Bdev: "M"}, {ID: 5, Bdev: "N"}, {ID: -1, Bdev: "M"}}),
	)
	if err != nil {
		t.Fatal(err)
	}
	return c, e
}

func node(name string) iscsi.NodeConfig {
	return iscsi.NodeConfig{Name: name, Maps: []iscsi.Map{{PortalTag: 1, InitiatorTag: 1}}, QueueDepth: 32}
}

func full(name string) string { return iscsi.Defaults().NodeBase + ":" + name }

func luns(c *control.Control) string {
	var s []string
	for _, n := range c.Nodes() {
		for _, l := range n.LUNs {
			s = append(s, fmt.Sprintf("%s/%d=%s", strings.TrimPrefix(n.Name, iscsi.Defaults().NodeBase+":"), l.ID, l.Bdev.Name()))
		}
	}
	return strings.Join(s, " ")
}

func TestNode(t *testing.T) {
	c, e := target(t)
	if got := luns(c); got != "Disk/0=M Disk/5=N Disk/1=M" {
		t.Errorf("LUNs %s", got)
	}
	if !slices.Contains(e.Log(), "add node "+strings.ToLower(full("Disk"))) {
		t.Errorf("the engine was not given the normal form of the name: %v", e.Log())
	}
	if len(e.LUNs) == 0 || slices.ContainsFunc(e.LUNs, func(l iscsi.LUN) bool { return !l.TAS }) {
		t.Errorf("not every LUN tells initiators that their tasks were aborted: %+v", e.LUNs)
	}
	if _, shares := mustBdev(t, c, "M").Claimed(); shares != 2 {
		t.Errorf("M is shared by %d", shares)
	}
	if err := c.RemoveLUN(full("Disk"), 0); err != nil {
		t.Fatal(err)
	}
	if err := c.AddLUN(strings.ToUpper(full("Disk")), control.LUN{ID: -1, Bdev: "N"}); err != nil {
		t.Fatalf("names are compared without case: %v", err)
	}
	if got := luns(c); got != "Disk/5=N Disk/1=M Disk/0=N" {
		t.Errorf("LUNs %s", got)
	}
	if err := c.DeleteNode(full("Disk")); err != nil {
		t.Fatal(err)
	}
	if _, shares := mustBdev(t, c, "N").Claimed(); shares != 0 {
		t.Errorf("N is still shared by %d", shares)
	}
}

func mustBdev(t *testing.T, c *control.Control, name string) *control.Bdev {
	t.Helper()
	b, err := c.Bdev(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRefusals(t *testing.T) {
	geometry := control.Geometry{BlockSize: 512, NumBlocks: 8}
	portals := []control.Portal{{Host: "127.0.0.1", Port: "3260"}}
	withMap := func(pg, ig uint16) iscsi.NodeConfig {
		n := node("other")
		n.Maps = []iscsi.Map{{PortalTag: pg, InitiatorTag: ig}}
		return n
	}
	for _, tt := range []struct {
		name string
		do   func(c *control.Control) error
		want syscall.Errno
	}{
		{"bdev exists", func(c *control.Control) error {
			_, err := c.CreateNull(control.NullSpec{Name: "M", Geometry: geometry})
			return err
		}, syscall.EEXIST},
		{"UUID exists", func(c *control.Control) error {
			_, err := c.CreateNull(control.NullSpec{Name: "X", UUID: bdev.NameUUID("M"), Geometry: geometry})
			return err
		}, syscall.EEXIST},
		{"block size", func(c *control.Control) error {
			_, err := c.CreateNull(control.NullSpec{Name: "X", Geometry: control.Geometry{BlockSize: 520, NumBlocks: 8}})
			return err
		}, syscall.EINVAL},
		{"no blocks", func(c *control.Control) error {
			_, err := c.CreateNull(control.NullSpec{Name: "X", Geometry: control.Geometry{BlockSize: 512}})
			return err
		}, syscall.EINVAL},
		{"name too long", func(c *control.Control) error {
			_, err := c.CreateNull(control.NullSpec{Name: strings.Repeat("x", control.MaxNameLen+1), Geometry: geometry})
			return err
		}, syscall.EINVAL},
		{"stack on what LUNs use", func(c *control.Control) error { _, err := c.CreatePassthru("P", "M", bdev.UUID{}); return err }, syscall.EPERM},
		{"stack on nothing", func(c *control.Control) error { _, err := c.CreatePassthru("P", "no", bdev.UUID{}); return err }, syscall.ENODEV},
		{"latencies", func(c *control.Control) error {
			_, err := c.CreateDelay("D", "M", bdev.UUID{}, control.Latencies{AvgRead: 2, P99Read: 1})
			return err
		}, syscall.EINVAL},
		{"delete by another module", func(c *control.Control) error { return c.DeleteBdev("M", "null") }, syscall.ENODEV},
		{"resize malloc", func(c *control.Control) error { return c.Resize("M", 1) }, syscall.EINVAL},
		{"inject into malloc", func(c *control.Control) error { return c.SetLatency("M", "avg_read", 1) }, syscall.EINVAL},
		{"portal group exists", func(c *control.Control) error {
			return c.CreatePortalGroup(control.PortalGroup{Tag: 1, Portals: portals})
		}, syscall.EEXIST},
		{"no portals", func(c *control.Control) error { return c.CreatePortalGroup(control.PortalGroup{Tag: 2}) }, syscall.EINVAL},
		{"host name", func(c *control.Control) error {
			return c.CreatePortalGroup(control.PortalGroup{Tag: 2, Portals: []control.Portal{{Host: "localhost", Port: "1"}}})
		}, syscall.EINVAL},
		{"port", func(c *control.Control) error {
			return c.CreatePortalGroup(control.PortalGroup{Tag: 2, Portals: []control.Portal{{Host: "::1", Port: "65536"}}})
		}, syscall.EINVAL},
		{"portal twice", func(c *control.Control) error {
			return c.CreatePortalGroup(control.PortalGroup{Tag: 2, Portals: append(portals, portals...)})
		}, syscall.EINVAL},
		{"too many portals", func(c *control.Control) error {
			return c.CreatePortalGroup(control.PortalGroup{Tag: 2, Portals: make([]control.Portal, control.MaxPortals+1)})
		}, syscall.EINVAL},
		{"netmask", func(c *control.Control) error {
			return c.CreateInitiatorGroup(iscsi.InitiatorGroup{Tag: 2, Initiators: []string{"ANY"}, Netmasks: []string{"10.0.0.0/33"}})
		}, syscall.EINVAL},
		{"too many initiators", func(c *control.Control) error {
			return c.CreateInitiatorGroup(iscsi.InitiatorGroup{Tag: 2, Initiators: make([]string, control.MaxInitiators+1)})
		}, syscall.EINVAL},
		{"initiator not there", func(c *control.Control) error {
			return c.EditInitiatorGroup(iscsi.InitiatorGroup{Tag: 1, Initiators: []string{"ANY", "iqn.x"}}, true)
		}, syscall.ENOENT},
		{"node exists", func(c *control.Control) error { return c.CreateNode(node("DISK"), nil) }, syscall.EEXIST},
		{"node name", func(c *control.Control) error { return c.CreateNode(node("a b"), nil) }, syscall.EINVAL},
		{"node name too long", func(c *control.Control) error { return c.CreateNode(node(strings.Repeat("x", 224)), nil) }, syscall.EINVAL},
		{"no portal group", func(c *control.Control) error { return c.CreateNode(withMap(9, 1), nil) }, syscall.ENOENT},
		{"no initiator group", func(c *control.Control) error { return c.CreateNode(withMap(1, 9), nil) }, syscall.ENOENT},
		{"no bdev", func(c *control.Control) error {
			return c.CreateNode(node("other"), []control.LUN{{ID: 0, Bdev: "no"}})
		}, syscall.ENODEV},
		{"LUN twice", func(c *control.Control) error {
			return c.CreateNode(node("other"), []control.LUN{{ID: 3, Bdev: "M"}, {ID: 3, Bdev: "N"}})
		}, syscall.EEXIST},
		{"LUN too high", func(c *control.Control) error {
			return c.AddLUN(full("Disk"), control.LUN{ID: control.MaxLUN + 1, Bdev: "M"})
		}, syscall.EINVAL},
		{"map twice", func(c *control.Control) error { return c.AddMaps(full("Disk"), node("").Maps) }, syscall.EEXIST},
		{"map not there", func(c *control.Control) error {
			return c.RemoveMaps(full("Disk"), []iscsi.Map{{PortalTag: 1, InitiatorTag: 1}, {PortalTag: 2, InitiatorTag: 1}})
		}, syscall.ENOENT},
		{"queue depth", func(c *control.Control) error { n := node("other"); n.QueueDepth = 0; return c.CreateNode(n, nil) }, syscall.EINVAL},
		{"CHAP flags", func(c *control.Control) error {
			n := node("other")
			n.DisableCHAP, n.RequireCHAP = true, true
			return c.CreateNode(n, nil)
		}, syscall.EINVAL},
		{"same secret both ways", func(c *control.Control) error {
			return c.CreateAuthGroup(iscsi.AuthGroup{Tag: 1, Secrets: []iscsi.Secret{{User: "u", Secret: "s", MUser: "m", MSecret: "s"}}})
		}, syscall.EINVAL},
		{"user bound to what is no name", func(c *control.Control) error {
			return c.CreateAuthGroup(iscsi.AuthGroup{Tag: 1, Secrets: []iscsi.Secret{{User: "u", Secret: "s", Initiators: []string{"ANY"}}}})
		}, syscall.EINVAL},
		{"user bound to too many names", func(c *control.Control) error {
			return c.CreateAuthGroup(iscsi.AuthGroup{Tag: 1, Secrets: []iscsi.Secret{{User: "u", Secret: "s", Initiators: make([]string, control.MaxInitiators+1)}}})
		}, syscall.EINVAL},
		{"too many secrets", func(c *control.Control) error {
			return c.CreateAuthGroup(iscsi.AuthGroup{Tag: 1, Secrets: make([]iscsi.Secret, control.MaxSecrets+1)})
		}, syscall.EINVAL},
		{"node base", func(c *control.Control) error {
			return c.SetOptions(func(o *iscsi.Options) { o.NodeBase = "spindle" })
		}, syscall.EINVAL},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, e := target(t)
			before, log := fmt.Sprint(c.Save()), e.Log()
			err := tt.do(c)
			if err == nil || control.Errno(err) != tt.want {
				t.Fatalf("got %v (%d), want %v", err, control.Errno(err), tt.want)
			}
			if after := fmt.Sprint(c.Save()); after != before {
				t.Errorf("a refused change left\n%s\nwas\n%s", after, before)
			}
			if got := e.Log(); !slices.Equal(got, log) {
				t.Errorf("the engine was told %v", got[len(log):])
			}
			for _, b := range c.Bdevs() {
				if by, _ := b.Claimed(); by != "" {
					t.Errorf("%s is left claimed by %s", b.Name(), by)
				}
			}
		})
	}
}

// TestEngineRefuses: what the engine refuses leaves nothing behind here either.
func TestEngineRefuses(t *testing.T) {
	refusal := fmt.Errorf("test: %w", iscsi.ErrLimit)
	for _, tt := range []struct {
		name string
		do   func(c *control.Control) error
	}{
		{"portal group", func(c *control.Control) error {
			return c.CreatePortalGroup(control.PortalGroup{Tag: 2, Portals: []control.Portal{{Host: "::1"}}})
		}},
		{"node", func(c *control.Control) error {
			return c.CreateNode(node("other"), []control.LUN{{ID: 0, Bdev: "N"}})
		}},
		{"LUN", func(c *control.Control) error { return c.AddLUN(full("Disk"), control.LUN{ID: 9, Bdev: "N"}) }},
		{"delete node", func(c *control.Control) error { return c.DeleteNode(full("Disk")) }},
		{"delete bdev in use", func(c *control.Control) error { return c.DeleteBdev("N", "") }},
		{"delete portal group in use", func(c *control.Control) error { return c.DeletePortalGroup(1) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, e := target(t)
			before := fmt.Sprint(c.Save())
			_, shares := mustBdev(t, c, "N").Claimed()
			e.Fail = func(string) error { return refusal }
			if err := tt.do(c); !errors.Is(err, iscsi.ErrLimit) || control.Errno(err) != syscall.ENOSPC {
				t.Fatalf("got %v", err)
			}
			if after := fmt.Sprint(c.Save()); after != before {
				t.Errorf("left\n%s\nwas\n%s", after, before)
			}
			if _, now := mustBdev(t, c, "N").Claimed(); now != shares {
				t.Errorf("N is shared by %d, was by %d", now, shares)
			}
		})
	}
}

// TestDeleteCascade: what stands on a bdev goes first, after its LUNs.
func TestDeleteCascade(t *testing.T) {
	var closed []string
	e := controltest.NewEngine()
	c := control.New(control.Config{Engine: e, Modules: controltest.Modules(func(p string) { closed = append(closed, p) }), Caller: reactor.Blocking{}})
	must := func(_ string, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.CreateFile(control.FileSpec{Name: "F", Path: "/f"}))
	for _, stack := range []func() (string, error){
		func() (string, error) { return c.CreateDelay("D", "", bdev.UUID{}, control.Latencies{}) },
		func() (string, error) { return c.CreateError("", bdev.UUID{}) },
		func() (string, error) { return c.CreatePassthru("P", "", bdev.UUID{}) },
	} {
		if name, err := stack(); control.Errno(err) != syscall.ENODEV {
			t.Errorf("%q stands on nothing: %v", name, err)
		}
	}
	must(c.CreatePassthru("P", "F", bdev.UUID{}))
	must(c.CreateError("P", bdev.UUID{}))
	if _, err := c.CreateDelay("D", "EE_P", bdev.UUID{}, control.Latencies{}); control.Errno(err) != syscall.EINVAL {
		t.Errorf("a stack deeper than an I/O has frames for: %v", err)
	}
	must("", c.CreatePortalGroup(control.PortalGroup{Tag: 1, Portals: []control.Portal{{Host: "::1"}}}))
	must("", c.CreateInitiatorGroup(iscsi.InitiatorGroup{Tag: 1}))
	must("", c.CreateNode(node("d"), []control.LUN{{ID: 4, Bdev: "EE_P"}}))
	if err := c.AddLUN(full("d"), control.LUN{ID: 5, Bdev: "F"}); control.Errno(err) != syscall.EPERM {
		t.Errorf("a claimed bdev became a LUN: %v", err)
	}
	must("", c.DeleteBdev("F", "aio"))
	if got := strings.Join(closed, ","); got != "Error Injection Disk,passthru,AIO disk" {
		t.Errorf("closed in the order %s", got)
	}
	if log := e.Log(); log[len(log)-1] != "remove LUN "+full("d")+"/4" || luns(c) != "" {
		t.Errorf("log %v, LUNs %q", log, luns(c))
	}
	var types []string
	for _, ev := range c.Events(0, 100) {
		types = append(types, ev.Type+" "+ev.Context)
	}
	want := "bdev_register F,bdev_register P,bdev_register EE_P,bdev_unregister EE_P,bdev_unregister P,bdev_unregister F"
	if got := strings.Join(types, ","); got != want {
		t.Errorf("events %s", got)
	}
}

// TestGroupsGoWithTheirMaps: deleting a group takes the maps that name it.
func TestGroupsGoWithTheirMaps(t *testing.T) {
	c, e := target(t)
	if err := c.DeletePortalGroup(1); err != nil {
		t.Fatal(err)
	}
	if n := c.Nodes()[0]; len(n.Maps) != 0 {
		t.Errorf("maps %v", n.Maps)
	}
	log := e.Log()
	if got := log[len(log)-2:]; !strings.HasPrefix(got[0], "remove 1 maps") || got[1] != "remove portal group 1" {
		t.Errorf("log %v", got)
	}
}

func TestClose(t *testing.T) {
	c, e := target(t)
	if _, err := c.CreateNull(control.NullSpec{Name: "base", Geometry: control.Geometry{BlockSize: 512, NumBlocks: 8}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreatePassthru("top", "base", bdev.UUID{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if len(c.Bdevs())+len(c.Nodes())+len(c.PortalGroups()) != 0 {
		t.Error("something is left")
	}
	log := e.Log()
	if got := log[len(log)-2]; !strings.HasPrefix(got, "remove node") {
		t.Errorf("log %v", log)
	}
}

func TestEvents(t *testing.T) {
	c, _ := controltest.New()
	for i := range control.MaxEvents {
		if _, err := c.CreateNull(control.NullSpec{Name: fmt.Sprint(i), Geometry: control.Geometry{BlockSize: 512, NumBlocks: 8}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Resize("7", 1); err != nil {
		t.Fatal(err)
	}
	all := c.Events(0, control.MaxEvents*2)
	if len(all) != control.MaxEvents || all[0].ID != 1 || all[len(all)-1] != (control.Event{Type: "bdev_resize", Context: "7", ID: control.MaxEvents}) {
		t.Errorf("%d events from %+v to %+v", len(all), all[0], all[len(all)-1])
	}
	if got := c.Events(10, 2); len(got) != 2 || got[0].ID != 10 {
		t.Errorf("from 10, at most 2: %+v", got)
	}
	if got := c.Events(1<<63, 5); len(got) != 0 {
		t.Errorf("from the future: %+v", got)
	}
}

// TestFailedBdev: a disk that fails for good is in the log, once, and in what
// bdev_get_bdevs shows.
func TestFailedBdev(t *testing.T) {
	var log strings.Builder
	dev, err := controltest.NewDevice("AIO disk", control.Geometry{BlockSize: 512, NumBlocks: 8})
	if err != nil {
		t.Fatal(err)
	}
	mods := controltest.Modules(nil)
	mods.File = func(control.FileSpec) (bdev.Device, error) { return dev, nil }
	c := control.New(control.Config{Engine: controltest.NewEngine(), Modules: mods, Caller: reactor.Blocking{}, Log: control.NewLog(&log)})
	if _, err := c.CreateFile(control.FileSpec{Name: "F", Path: "f"}); err != nil {
		t.Fatal(err)
	}
	b, err := c.Bdev("F")
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(c.Driver(b)); strings.Contains(got, "failure") {
		t.Errorf("before: %s", got)
	}
	for range 2 {
		if err := dev.Update(func(i *bdev.Info) { i.Failure = "fdatasync: input/output error" }); err != nil {
			t.Fatal(err)
		}
	}
	if got := log.String(); strings.Count(got, "level=ERROR") != 1 || !strings.Contains(got, `name=F cause="fdatasync: input/output error"`) {
		t.Errorf("log %s", got)
	}
	if got := fmt.Sprint(c.Driver(b)); !strings.Contains(got, "{failure fdatasync: input/output error}") {
		t.Errorf("after: %s", got)
	}
}

func TestAwaitBdev(t *testing.T) {
	c, _ := controltest.New()
	type result struct {
		b   *control.Bdev
		err error
	}
	found := make(chan result)
	go func() {
		b, err := c.AwaitBdev(t.Context(), "late")
		found <- result{b, err}
	}()
	for _, name := range []string{"early", "late"} {
		if _, err := c.CreateNull(control.NullSpec{Name: name, Geometry: control.Geometry{BlockSize: 512, NumBlocks: 8}}); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case r := <-found:
		if r.err != nil || r.b.Name() != "late" {
			t.Errorf("got %v", r)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("not found")
	}
}

func TestSaveFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "c.json")
	empty, _ := controltest.New()
	if err := empty.SaveFile(path, control.SaveOptions{}); err != nil {
		t.Fatalf("an empty configuration to a new file: %v", err)
	}
	c, _ := target(t)
	if err := c.SaveFile(path, control.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	i, err := os.Stat(path)
	if err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", i.Mode(), err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := empty.SaveFile(path, control.SaveOptions{}); !errors.Is(err, control.ErrEmpty) {
		t.Errorf("an empty configuration over one: %v", err)
	}
	if err := c.SaveFile(filepath.Join(dir, "no", "c.json"), control.SaveOptions{}); err == nil {
		t.Error("saved to a folder that is not there")
	}
	after, err := os.ReadFile(path)
	if err != nil || string(after) != string(before) {
		t.Errorf("the file changed: %v", err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("left behind: %v", files)
	}
}

func TestLog(t *testing.T) {
	var b strings.Builder
	l := control.NewLog(&b)
	bd, is := l.Logger("bdev"), l.Logger("iscsi")
	say := func() string {
		b.Reset()
		for _, lg := range []interface {
			Debug(string, ...any)
			Info(string, ...any)
			Warn(string, ...any)
		}{bd, is} {
			lg.Debug("d")
			lg.Info("i")
			lg.Warn("w")
		}
		var got []string
		for _, line := range strings.Fields(b.String()) {
			if m, ok := strings.CutPrefix(line, "msg="); ok {
				got = append(got, m)
			}
		}
		return strings.Join(got, "")
	}
	for _, tt := range []struct {
		name string
		do   func() error
		want string
	}{
		{"default", func() error { return nil }, "ww"},
		{"info", func() error { return l.SetLevel("INFO") }, "iwiw"},
		{"lower case", func() error { return l.SetLevel("error") }, ""},
		{"one flag", func() error { return l.SetFlag("bdev", true) }, "diw"},
		{"all flags", func() error { return l.SetFlag("all", true) }, "diwdiw"},
		{"flag cleared", func() error { return l.SetFlag("iscsi", false) }, "diw"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.do(); err != nil {
				t.Fatal(err)
			}
			if got := say(); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	if l.SetLevel("LOUD") == nil || l.SetFlag("nosuch", true) == nil {
		t.Error("nonsense was accepted")
	}
	b.Reset()
	l.Logger("").Log(t.Context(), control.LevelNotice, "x")
	_ = l.SetLevel("NOTICE")
	l.Logger("").Log(t.Context(), control.LevelNotice, "x")
	if strings.Count(b.String(), "level=NOTICE") != 1 {
		t.Errorf("got %s", b.String())
	}
}

// TestIdentities: no bdev has what another answers to as name or UUID, given or
// derived: two LUNs of one identity are two paths to one disk for an initiator.
func TestIdentities(t *testing.T) {
	geometry := control.Geometry{BlockSize: 512, NumBlocks: 8}
	for _, tt := range []struct {
		name          string
		first, second control.NullSpec
		want          error
	}{
		{"another's UUID is what the name gives", control.NullSpec{Name: "A", UUID: bdev.NameUUID("B")}, control.NullSpec{Name: "B"}, syscall.EEXIST},
		{"the same with a UUID of its own", control.NullSpec{Name: "A", UUID: bdev.NameUUID("B")}, control.NullSpec{Name: "B", UUID: bdev.NameUUID("C")}, nil},
		{"another's UUID as name", control.NullSpec{Name: "A"}, control.NullSpec{Name: bdev.NameUUID("A").String()}, syscall.EEXIST},
		{"another's name as UUID", control.NullSpec{Name: bdev.NameUUID("C").String()}, control.NullSpec{Name: "B", UUID: bdev.NameUUID("C")}, syscall.EEXIST},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := controltest.New()
			tt.first.Geometry, tt.second.Geometry = geometry, geometry
			if _, err := c.CreateNull(tt.first); err != nil {
				t.Fatal(err)
			}
			if _, err := c.CreateNull(tt.second); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

// TestAutomaticNames: names that a loaded configuration brought are passed over.
func TestAutomaticNames(t *testing.T) {
	c, _ := controltest.New()
	spec := control.MallocSpec{Geometry: control.Geometry{BlockSize: 512, NumBlocks: 8}, NUMA: -1}
	for k, want := range []string{"Malloc1", "Malloc0", "Malloc2", "Malloc3"} {
		if spec.Name = ""; k == 0 {
			spec.Name = want
		}
		if name, err := c.CreateMalloc(spec); err != nil || name != want {
			t.Errorf("%q, %v; want %q", name, err, want)
		}
	}
	if err := c.DeleteBdev("Malloc3", ""); err != nil {
		t.Fatal(err)
	}
	if name, err := c.CreateMalloc(spec); err != nil || name != "Malloc4" {
		t.Errorf("%q, %v: a number came back", name, err)
	}
}
