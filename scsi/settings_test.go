package scsi

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"spindle/bdev"
)

// kept is a target node over a store, as it is after a restart.
type keptBench struct {
	*bench
	off  *offload
	a, b *session
}

func restarted(t *testing.T, store *memoryStore) *keptBench {
	g := &keptBench{bench: newBench(t, 2), off: &offload{}}
	g.dev.Persist(store, g.off)
	g.add(0, newDisk(512, 100, allCaps), LUNOptions{})
	g.a, g.b = g.ready("a", 0), g.ready("b", 1)
	return g
}

// saves runs a command of a and the saves that it asks for; it is not done before.
func (g *keptBench) saves(c string, list []byte) string {
	q := g.a.start(0, cdb(c), list, 0, AttrSimple)
	g.turns(6)
	if q.done && len(g.off.jobs) != 0 {
		g.T.Errorf("%s: done before it is kept", c)
	}
	g.off.run()
	g.turns(6)
	return q.outcome()
}

// cachingOff is a MODE SELECT (6) list that clears WCE.
func cachingOff() []byte {
	return append([]byte{0, 0, 0, 0, pageCaching, 18}, make([]byte, 18)...)
}

// TestSavedPages: MODE SELECT with SP is kept before GOOD, is what a reset and
// a restart return to, and is shown as saved.
func TestSavedPages(t *testing.T) {
	store := &memoryStore{kept: map[string][]byte{}}
	const selectSaved, saved, current = "15 11 00 00 18", "1a 08 c8 00 ff", "1a 08 08 00 ff"
	g := restarted(t, store)
	wce := func(c string) byte {
		page := g.a.in(0, cdb(c), 255)[4:]
		if page[0] != 0x80|pageCaching {
			t.Errorf("%s: page byte %02x", c, page[0])
		}
		return page[2] & 0x04
	}
	if wce(saved) == 0 {
		t.Error("saved values without anything saved are not the default")
	}
	if got := g.saves(selectSaved, cachingOff()); got != "good" || store.saves != 1 || wce(saved) != 0 {
		t.Errorf("%s, %d saves, WCE %02x", got, store.saves, wce(saved))
	}
	if got := g.saves(selectSaved, cachingOff()); got != "good" || store.saves != 1 {
		t.Errorf("once more: %s, %d saves", got, store.saves)
	}
	if got := g.b.do(0, cdb("00"), nil, 0).outcome(); got != "06/2A01" {
		t.Errorf("another nexus is told %s", got)
	}
	// Without SP the current value changes alone, and a reset takes it back.
	on := cachingOff()
	on[6] = 0x04
	if got := g.saves("15 10 00 00 18", on); got != "good" || wce(current) == 0 || wce(saved) != 0 {
		t.Errorf("unsaved: %s, WCE %02x, saved %02x", got, wce(current), wce(saved))
	}
	m := &Management{Fn: FnLUNReset, Done: func(uint8) {}}
	g.a.n.Manage(m)
	g.turns(10)
	g.a.do(0, cdb("00"), nil, 0)
	if wce(current) != 0 {
		t.Error("a reset returns to the default, not to what was saved")
	}
	store.err = errors.New("no space")
	if got := g.saves(selectSaved, on); got != "04/4400" || wce(current) != 0 {
		t.Errorf("save fails: %s, WCE %02x", got, wce(current))
	}
	store.err = nil

	g = restarted(t, store)
	if wce(current) != 0 || !g.dev.inventory.Load().find(0).latest.Load().through {
		t.Error("after a restart the write cache is on again")
	}
	for name := range store.kept {
		if strings.HasSuffix(name, settingsSuffix) {
			store.kept[name] = []byte(`{"version":9}`)
		}
	}
	broken := newBench(t, 1)
	broken.dev.Persist(store, &offload{})
	if _, err := broken.dev.AddLUN(broken, 0, bdev.New("disk", bdev.UUID{}, newDisk(512, 100, allCaps)), LUNOptions{}); !errors.Is(err, ErrSettings) {
		t.Errorf("settings of another version: %v", err)
	}
}

// TestNothingSaved: without a store, saving is refused where it is asked for.
func TestNothingSaved(t *testing.T) {
	g := newBench(t, 1)
	g.add(0, newDisk(512, 100, allCaps), LUNOptions{})
	s := g.ready("a", 0)
	for _, tc := range []struct {
		name, cdb string
		out       []byte
		want      string
	}{
		{"save pages", "15 11 00 00 18", cachingOff(), "05/2400"},
		{"saved values", "1a 08 c8 00 ff", nil, "05/3900"},
		{"set identifier", "a4 06 00 00 00 00 00 00 00 04 00 00", fill(1, 4), "05/2400"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := s.do(0, cdb(tc.cdb), tc.out, 255).outcome(); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

// TestIdentifyingInformation: both kinds are set, told, kept, and removed.
func TestIdentifyingInformation(t *testing.T) {
	store := &memoryStore{kept: map[string][]byte{}}
	g := restarted(t, store)
	if got := g.a.in(0, cdb("a3 05 00 00 00 00 00 00 00 ff fe"), 255); !bytes.Equal(got, []byte{0, 0, 0, 8, 0, 0, 0, 64, 4, 0, 1, 0}) {
		t.Errorf("supported: % x", got)
	}
	for _, tc := range []struct {
		name, set, get string
		value          []byte
		want           string
	}{
		{"number", "a4 06 00 00 00 00 00 00 00 05 00", "a3 05 00 00 00 00 00 00 00 ff 00", []byte("asset"), "good"},
		{"text", "a4 06 00 00 00 00 00 00 00 07 04", "a3 05 00 00 00 00 00 00 00 ff 04", []byte("rack 7\x00"), "good"},
		{"number too long", "a4 06 00 00 00 00 00 00 00 41 00", "a3 05 00 00 00 00 00 00 00 ff 00", fill('x', 65), "05/2400"},
		{"unknown kind", "a4 06 00 00 00 00 00 00 00 01 08", "a3 05 00 00 00 00 00 00 00 ff 00", fill('x', 1), "05/2400"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := g.a.in(0, cdb(tc.get), 255)
			if got := g.saves(tc.set, tc.value); got != tc.want {
				t.Fatalf("%s, want %s", got, tc.want)
			}
			want := append([]byte{0, 0, 0, byte(len(tc.value))}, tc.value...)
			if tc.want != "good" {
				want = before
			}
			if got := g.a.in(0, cdb(tc.get), 255); !bytes.Equal(got, want) {
				t.Errorf("told % x", got)
			}
		})
	}
	if got := g.b.do(0, cdb("00"), nil, 0).outcome(); got != "06/3F05" {
		t.Errorf("another nexus is told %s", got)
	}
	g = restarted(t, store)
	const get = "a3 05 00 00 00 00 00 00 00 ff 00"
	if got := g.a.in(0, cdb(get), 255); string(got[4:]) != "asset" {
		t.Errorf("after a restart: % x", got)
	}
	if got := g.saves("a4 06", nil); got != "good" || len(g.a.in(0, cdb(get), 255)) != 4 {
		t.Errorf("removed: %s", got)
	}
}

// meteredDisk is a disk that tells how much it uses.
type meteredDisk struct {
	*disk
	usage bdev.Usage
}

func (d *meteredDisk) Usage() (bdev.Usage, error) { return d.usage, nil }

// TestThreshold: the mode page arms it, every nexus is told once when it is
// reached, again when usage has been below it.
func TestThreshold(t *testing.T) {
	g := newBench(t, 2)
	d := &meteredDisk{disk: newDisk(512, 1<<16, allCaps), usage: bdev.Usage{Used: 1 << 20, Available: 50 << 20}}
	d.info.Metered = true
	g.add(0, d, LUNOptions{})
	a, b := g.ready("a", 0), g.ready("b", 1)
	if b2 := a.in(0, cdb("12 01 b2 00 ff"), 255); b2[4] != 11 {
		t.Errorf("THRESHOLD EXPONENT %d", b2[4])
	}
	if page := a.in(0, cdb("4d 00 4c 00 00 00 00 00 ff"), 255); len(page) != 4 {
		t.Errorf("counts before the device was asked: % x", page)
	}
	arm := func(s *session, sets byte) string {
		list := make([]byte, 4+24)
		copy(list[4:], []byte{pageSPF | pageExceptions, subpageProvisioning, 0, 20})
		copy(list[4+16:], []byte{thresholdEnabled | thresholdIncreasing, resourceUsed, 0, 0, 0, 0, 0, sets})
		return s.do(0, cdb("15 10 00 00 1c"), list, 0).outcome()
	}
	if got := arm(a, 3); got != "good" {
		t.Fatal(got)
	}
	b.do(0, cdb("00"), nil, 0) // mode parameters changed
	if page := a.in(0, cdb("1a 08 1c 02 ff"), 255); page[4+16] != 0x81 || page[4+23] != 3 {
		t.Errorf("mode page % x", page)
	}
	for _, tc := range []struct {
		name string
		used uint64
		want string
	}{
		{"below", 2 << 20, "good"},
		{"reached", 2<<20 + 1, "06/3807"},
		{"beyond", 9 << 20, "good"},
		{"below again", 1 << 20, "good"},
		{"reached again", 5 << 20, "06/3807"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d.usage.Used = tc.used
			g.dev.PollUsage(g)
			g.turns(6)
			for _, s := range []*session{a, b} {
				if got := s.do(0, cdb("00"), nil, 0).outcome(); got != tc.want {
					t.Errorf("%s, want %s", got, tc.want)
				}
			}
		})
	}
	page := a.in(0, cdb("4d 00 4c 00 00 00 00 00 ff"), 255)
	if !bytes.Equal(page, []byte{logProvision, 0, 0, 24, 0, 1, 3, 8, 0, 0, 0, 50, 1, 0, 0, 0, 0, 2, 3, 8, 0, 0, 0, 5, 1, 0, 0, 0}) {
		t.Errorf("log page % x", page)
	}
	bad := make([]byte, 4+24)
	copy(bad[4:], []byte{pageSPF | pageExceptions, subpageProvisioning, 0, 20})
	copy(bad[4+16:], []byte{thresholdEnabled | thresholdIncreasing, resourceAvailable})
	if got := a.do(0, cdb("15 10 00 00 1c"), bad, 0).outcome(); got != "05/2600" {
		t.Errorf("another resource: %s", got)
	}
}
