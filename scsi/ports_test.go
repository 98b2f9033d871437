package scsi

import (
	"bytes"
	"errors"
	"testing"
)

// via is a ready session by target port tag, on reactor i.
func (g *bench) via(name string, i int, tag uint16) *session {
	s := g.session(name, i)
	id := s.n.ID
	s.n.Close(func() {})
	id.TPGT, id.RelativePort = tag, tag
	s = &session{g: g, n: g.dev.NewNexus(g.Reactors[i], id, nil)}
	s.do(0, cdb("00"), nil, 0)
	g.turns(4)
	return s
}

// setPorts is a SET TARGET PORT GROUPS with pairs of state and tag.
func (s *session) setPorts(pairs ...byte) string {
	list := make([]byte, 4)
	for k := 0; k < len(pairs); k += 2 {
		list = append(list, pairs[k], 0, 0, pairs[k+1])
	}
	return s.do(0, []byte{opMaintenanceOut, saReportPorts, 0, 0, 0, 0, 0, 0, 0, byte(len(list)), 0, 0}, list, 0).outcome()
}

const rtpg = "a3 0a 00 00 00 00 00 00 00 ff"

// TestReportPorts: both formats, and the same answer on every path.
func TestReportPorts(t *testing.T) {
	g := newBench(t, 2)
	g.dev.SetPorts([]uint16{2, 1, 2})
	g.add(0, newDisk(512, 100, allCaps), LUNOptions{})
	a, b := g.via("a", 0, 1), g.via("b", 1, 2)
	want := []byte{0, 0, 0, 24, 0, 0x8f, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0x8f, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2}
	for _, s := range []*session{a, b} {
		if got := s.in(0, cdb(rtpg), 255); !bytes.Equal(got, want) {
			t.Errorf("% x", got)
		}
		ext := s.in(0, cdb("a3 2a 00 00 00 00 00 00 00 ff"), 255)
		if be.Uint32(ext) != 28 || ext[4] != 0x10 || !bytes.Equal(ext[8:], want[4:]) {
			t.Errorf("extended: % x", ext)
		}
	}
	if got := a.do(0, cdb("a3 4a 00 00 00 00 00 00 00 ff"), nil, 255).outcome(); got != "05/2400" {
		t.Errorf("unknown format: %s", got)
	}
	if inq := a.in(0, cdb("12 00 00 00 24"), 36); inq[5]&0x30 != 0x30 {
		t.Errorf("TPGS: %02x", inq[5])
	}
	g.dev.SetPorts([]uint16{2, 3})
	g.turns(6)
	if got := b.in(0, cdb(rtpg), 255); be.Uint16(got[6:]) != 2 || be.Uint16(got[18:]) != 3 {
		t.Errorf("after a change: % x", got)
	}
	if got := b.do(0, cdb("00"), nil, 0).outcome(); got != "good" {
		t.Errorf("unit attention without a change of state: %s", got)
	}
}

// TestPortsPage: the SCSI ports page tells those of REPORT TARGET PORT GROUPS by the
// names that the device identification page has, on every path, however many.
func TestPortsPage(t *testing.T) {
	g := newBench(t, 2)
	g.dev.SetPorts([]uint16{1, 2})
	g.add(0, newDisk(512, 100, allCaps), LUNOptions{})
	a, b := g.via("a", 0, 1), g.via("b", 1, 2)
	page := a.in(0, cdb("12 01 88 00 ff"), 255)
	if other := b.in(0, cdb("12 01 88 00 ff"), 255); !bytes.Equal(page, other) {
		t.Errorf("% x by one path, % x by another", page, other)
	}
	for tag, s := range map[byte]*session{1: a, 2: b} {
		name := designators(s.in(0, cdb("12 01 83 00 ff"), 255))[0x18]
		want := append([]byte{0, 0, 0, tag, 0, 0, 0, 0, 0, 0, 0, byte(4 + len(name)), 0x53, 0x98, 0, byte(len(name))}, name...)
		if !bytes.Contains(page, want) || len(page) != 4+2*len(want) {
			t.Errorf("port %d: % x is not in % x", tag, want, page)
		}
	}
	g.dev.SetPorts(nil)
	g.turns(6)
	if left := a.in(0, cdb("12 01 88 00 ff"), 255); len(left) != 4+(len(page)-4)/2 || left[7] != 1 {
		t.Errorf("a session whose port is gone: % x", left)
	}
	var tags []uint16
	for tag := range uint16(MaxPorts) {
		tags = append(tags, tag+1)
	}
	g.dev.SetPorts(tags)
	g.turns(6)
	if all := a.in(0, cdb("12 01 88 ff ff"), 0xffff); len(all) != 4+MaxPorts*(len(page)-4)/2 || int(be.Uint16(all[2:])) != len(all)-4 {
		t.Errorf("%d bytes of %d ports", len(all), MaxPorts)
	}
}

// TestPortLeaves: when a port group goes, the others keep their states, whoever
// set them.
func TestPortLeaves(t *testing.T) {
	g := newBench(t, 2)
	g.dev.SetPorts([]uint16{1, 2, 3})
	g.add(0, newDisk(512, 100, allCaps), LUNOptions{})
	b := g.via("b", 1, 2)
	if err := g.dev.SetPortGroupState(g, 2, PortNonOptimized); err != nil {
		t.Fatal(err)
	}
	b.do(0, cdb("00"), nil, 0) // told
	if got := b.setPorts(byte(PortStandby), 3); got != "good" {
		t.Fatal(got)
	}
	g.dev.SetPorts([]uint16{2, 3})
	g.turns(6)
	if got := b.in(0, cdb(rtpg), 255); be.Uint32(got) != 24 || got[4] != byte(PortNonOptimized) || got[16] != byte(PortStandby) {
		t.Errorf("% x", got)
	}
}

// TestPortStates is what works in which state (SPC-5 §5.17.2).
func TestPortStates(t *testing.T) {
	const standby, unavailable, transition = "02/040B", "02/040C", "02/040A"
	tests := []struct {
		name                               string
		state                              PortState
		tur, read, modeSense, keys, opcode string
	}{
		{"optimized", PortOptimized, "good", "good", "good", "good", "good"},
		{"non-optimized", PortNonOptimized, "good", "good", "good", "good", "good"},
		{"standby", PortStandby, standby, standby, "good", "good", "good"},
		{"unavailable", PortUnavailable, unavailable, unavailable, unavailable, unavailable, unavailable},
		{"transitioning", PortTransition, transition, transition, transition, transition, transition},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			g := newBench(t, 3)
			g.dev.SetPorts([]uint16{1, 2})
			g.add(0, newDisk(512, 100, allCaps), LUNOptions{})
			a, b := g.via("a", 1, 1), g.via("b", 2, 2)
			if err := g.dev.SetPortGroupState(g, 2, tc.state); err != nil {
				t.Fatal(err)
			}
			if tc.state != PortOptimized {
				for _, s := range []*session{a, b} {
					if got := s.do(0, cdb("00"), nil, 0).outcome(); got != "06/2A06" {
						t.Errorf("told %s", got)
					}
				}
			}
			for _, c := range []struct{ cdb, want string }{
				{"00", tc.tur}, {"28 00 00 00 00 00 00 00 01", tc.read}, {"1a 00 3f 00 ff", tc.modeSense}, {"1d 04", tc.modeSense},
				{"5e 00 00 00 00 00 00 00 08", tc.keys}, {"a3 0c 00 00 00 00 00 00 00 ff", tc.opcode},
				{rtpg, "good"}, {"12 00 00 00 24", "good"}, {"03 00 00 00 ff", "good"}, {"a0 00 00 00 00 00 00 00 00 ff", "good"},
			} {
				if got := b.do(0, cdb(c.cdb), nil, 512).outcome(); got != c.want {
					t.Errorf("%s: %s, want %s", c.cdb, got, c.want)
				}
			}
			if got := a.do(0, cdb("28 00 00 00 00 00 00 00 01"), nil, 512).outcome(); got != "good" {
				t.Errorf("by the other path: %s", got)
			}
			if got := a.in(0, cdb(rtpg), 255); got[16] != byte(tc.state) {
				t.Errorf("reported % x", got)
			}
		})
	}
	g := newBench(t, 1)
	if err := g.dev.SetPortGroupState(g, 9, PortStandby); !errors.Is(err, ErrNoPort) {
		t.Error(err)
	}
}

func TestSetPorts(t *testing.T) {
	g := newBench(t, 3)
	g.dev.SetPorts([]uint16{1, 2})
	g.add(0, newDisk(512, 100, allCaps), LUNOptions{})
	a, b := g.via("a", 1, 1), g.via("b", 2, 2)
	// What is set as it was changes no state, which nobody has to be told.
	if got, other := a.setPorts(0, 1), b.do(0, cdb("00"), nil, 0).outcome(); got != "good" || other != "good" {
		t.Errorf("set as it was: %s, and the other: %s", got, other)
	}
	for _, tc := range []struct {
		name  string
		pairs []byte
		want  string
	}{
		{"nothing", nil, "good"},
		{"no change", []byte{0, 1}, "good"},
		{"a group that is not there", []byte{2, 1, 0, 9}, "05/2600"},
		{"offline", []byte{14, 1}, "05/2600"},
		{"standby", []byte{2, 1, 1, 2}, "good"},
	} {
		if got := a.setPorts(tc.pairs...); got != tc.want {
			t.Errorf("%s: %s", tc.name, got)
		}
	}
	if got := a.do(0, cdb("00"), nil, 0).outcome(); got != "02/040B" {
		t.Errorf("the one that asked: %s", got)
	}
	if got := b.do(0, cdb("00"), nil, 0).outcome(); got != "06/2A06" {
		t.Errorf("the other: %s", got)
	}
	if got := b.in(0, cdb(rtpg), 255); got[4] != 2 || got[9] != portExplicit || got[16] != 1 {
		t.Errorf("reported % x", got)
	}
	// A resize looks at control's list again: what was set stays.
	g.dev.SetPorts([]uint16{1, 2})
	g.turns(6)
	if got := b.in(0, cdb(rtpg), 255); got[4] != 2 {
		t.Errorf("after a refresh % x", got)
	}
	if got := a.setPorts(0, 1); got != "good" {
		t.Errorf("back: %s", got)
	}
	if got := a.do(0, cdb("28 00 00 00 00 00 00 00 01"), nil, 512).outcome(); got != "good" {
		t.Errorf("reads: %s", got)
	}
	if got := a.do(0, []byte{opMaintenanceOut, saReportPorts, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0}, make([]byte, 6), 0).outcome(); got != "05/1A00" {
		t.Errorf("half a descriptor: %s", got)
	}
}
