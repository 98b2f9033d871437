package scsi

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"spindle/bdev"
	"spindle/reactor"
)

// transport is an iSCSI TransportID in the form 01b.
func transport(text string) []byte {
	n := max((len(text)+4)&^3, 20)
	return append([]byte{0x45, 0, byte(n >> 8), byte(n)}, append([]byte(text), make([]byte, n-len(text))...)...)
}

// specList is a REGISTER parameter list with TransportIDs.
func specList(key uint64, flags byte, ids ...[]byte) []byte {
	all := bytes.Join(ids, nil)
	b := append(prOutList(0, key, flags|prSpecIPT), 0, 0, 0, 0)
	be.PutUint32(b[24:], uint32(len(all)))
	return append(b, all...)
}

// moveList is a REGISTER AND MOVE parameter list.
func moveList(key, key2 uint64, flags byte, port uint16, id []byte) []byte {
	b := prOutList(key, key2, 0)
	b[17] = flags
	be.PutUint16(b[18:], port)
	be.PutUint32(b[20:], uint32(len(id)))
	return append(b, id...)
}

// prOut runs PERSISTENT RESERVE OUT with any list.
func (s *session) prOut(sa uint16, list []byte) string {
	s.g.T.Helper()
	c := []byte{opPersistentOut, byte(sa), 0, 0, 0, 0, 0, byte(len(list) >> 8), byte(len(list)), 0}
	return s.do(0, c, list, 0).outcome()
}

func TestParseTransportID(t *testing.T) {
	const good = "iqn.a:b,i,0x400102030405"
	alter := func(at int, v byte) []byte {
		b := transport(good)
		b[at] = v
		return b
	}
	tests := []struct {
		name string
		in   []byte
		n    int
	}{
		{"good", transport(good), 32},
		{"upper case digits", transport("iqn.a:b,I,0X40010203040A"), 32},
		{"upper case name", transport("IQN.a:B,i,0x400102030405"), 32},
		{"more behind it", append(transport(good), 1, 2, 3), 32},
		{"whole initiator", alter(0, 0x05), 0},
		{"another protocol", alter(0, 0x40), 0},
		{"length beyond the list", alter(3, 0x20), 0},
		{"length not a multiple of four", alter(3, 0x1b), 0},
		{"length zero", alter(3, 0), 0},
		{"length too long", append(alter(2, 1), make([]byte, 512)...), 0},
		{"no NUL", transport(good + "1234")[:32], 0},
		{"text after the NUL", alter(31, 'x'), 0},
		{"no session id", transport("iqn.2026-01.test:long"), 0},
		{"session id not hexadecimal", transport("iqn.a:b,i,0x40010203040g"), 0},
		{"session id too short", transport("iqn.a:b,i,0x4001020304"), 0},
		{"no name", transport(",i,0x400102030405"), 0},
		{"empty", nil, 0},
		{"three bytes", transport(good)[:3], 0},
	}
	for _, tc := range tests {
		name, isid, n := parseTransportID(tc.in)
		if n != tc.n || n != 0 && (name != "iqn.a:b" || isid[0] != 0x40 || isid[4] != 4) {
			t.Errorf("%s: %q %x, %d", tc.name, name, isid, n)
		}
	}
}

func TestSpecIPT(t *testing.T) {
	const b, c = "iqn.2026-01.test:b,i,0x400102030401", "iqn.2026-01.test:c,i,0x400102030400"
	tests := []struct {
		name string
		sa   uint16
		list []byte
		want string
		keys int
	}{
		{"two others", prRegister, specList(7, 0, transport(b), transport(c)), "good", 3},
		{"one twice", prRegister, specList(7, 0, transport(b), transport(b)), "good", 2},
		{"itself", prRegister, specList(7, 0, transport("iqn.2026-01.test:a,i,0x400102030400")), "good", 1},
		{"nobody", prRegister, specList(7, 0), "good", 1},
		{"no key", prRegister, specList(0, 0, transport(b)), "good", 0},
		{"bad second", prRegister, specList(7, 0, transport(b), transport("nonsense")), "05/2600", 0},
		{"cut short", prRegister, specList(7, 0, transport(b)[:20]), "05/2600", 0},
		{"length of its own", prRegister, append(specList(7, 0, transport(b)), 0, 0, 0, 0), "05/1A00", 0},
		{"no list", prRegister, prOutList(0, 7, prSpecIPT), "05/1A00", 0},
		{"ignore existing key", prRegisterIgnore, prOutList(0, 7, prSpecIPT), "05/2600", 0},
		{"every port", prRegister, specList(7, prAllTgPt, transport(b)), "good", 4},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			g := newBench(t, 2)
			g.dev.SetPorts([]uint16{1, 2})
			g.add(0, newDisk(512, 100, allCaps), LUNOptions{})
			a, bs := g.ready("a", 0), g.ready("b", 1)
			if got := a.prOut(tc.sa, tc.list); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
			gen, keys := a.keys()
			if len(keys) != tc.keys || (gen != 0) != (tc.keys != 0) {
				t.Errorf("generation %d, keys %x", gen, keys)
			}
			if tc.name != "two others" {
				return
			}
			if got := bs.pr(prReserve, exclusiveAccess, 7, 0); got != "good" {
				t.Errorf("the registered one reserves: %s", got)
			}
			if got := a.prOut(prRegister, specList(7, 0, transport(b))); got != "conflict" {
				t.Errorf("again, with key 0: %s", got)
			}
			again := specList(8, 0, transport(b))
			be.PutUint64(again, 7)
			if got := a.prOut(prRegister, again); got != "05/2600" {
				t.Errorf("by a registered nexus: %s", got)
			}
			for _, sa := range []uint16{prReserve, prRelease, prClear, prPreempt, prPreemptAbort} {
				list := prOutList(7, 7, prSpecIPT)
				cdb := []byte{opPersistentOut, byte(sa), byte(exclusiveAccess), 0, 0, 0, 0, 0, byte(len(list)), 0}
				if got := a.do(0, cdb, list, 0).outcome(); got != "05/2600" {
					t.Errorf("service action %d with SPEC_I_PT: %s", sa, got)
				}
			}
			if got := a.prOut(prRegister, prOutList(7, 0, 0)); got != "good" {
				t.Errorf("it leaves: %s", got)
			}
			// SPC-5 §5.14.7: a list names only those who are not registered.
			d := transport("iqn.2026-01.test:d,i,0x400102030400")
			if got := a.prOut(prRegister, specList(7, 0, d, transport(c))); got != "05/2600" {
				t.Errorf("with one that is registered: %s", got)
			}
			if _, keys := a.keys(); len(keys) != 2 {
				t.Errorf("after that, keys %x", keys)
			}
		})
	}
}

// TestAllTgPt: registrations of one initiator port with every target port are
// registrations of their own, each with its relative port.
func TestAllTgPt(t *testing.T) {
	g := newBench(t, 2)
	g.dev.SetPorts([]uint16{1, 2, 3})
	g.add(0, newDisk(512, 100, allCaps), LUNOptions{})
	a := g.ready("a", 0)
	other := a.n.ID
	other.TPGT, other.RelativePort = 2, 2
	two := &session{g: g, n: g.dev.NewNexus(g.Reactors[1], other, nil)}
	two.do(0, cdb("00"), nil, 0)
	if got := a.prOut(prRegister, prOutList(0, 7, prAllTgPt)); got != "good" {
		t.Fatal(got)
	}
	full := a.in(0, cdb("5e 03 00 00 00 00 00 ff ff"), 0xffff)
	var ports []uint16
	for d := full[8:]; len(d) != 0; d = d[24+be.Uint32(d[20:]):] {
		ports = append(ports, be.Uint16(d[18:]))
	}
	if len(ports) != 3 || ports[0] != 1 || ports[1] != 2 || ports[2] != 3 {
		t.Errorf("relative ports %v", ports)
	}
	if got := two.pr(prReserve, writeExclusive, 7, 0); got != "good" {
		t.Errorf("the other port reserves: %s", got)
	}
	if got := two.pr(prRegister, 0, 7, 0); got != "good" {
		t.Errorf("the other port leaves: %s", got)
	}
	if _, keys := a.keys(); len(keys) != 2 {
		t.Errorf("keys %x", keys)
	}
	if got := a.prOut(prRegisterIgnore, prOutList(0, 0, prAllTgPt)); got != "good" {
		t.Errorf("all leave: %s", got)
	}
	if _, keys := a.keys(); len(keys) != 0 {
		t.Errorf("keys %x", keys)
	}
}

// TestRegistrantLimit: as many as may be, with the longest names, are told in
// full; one more is refused and nothing changes.
func TestRegistrantLimit(t *testing.T) {
	g := newBench(t, 1)
	g.add(0, newDisk(512, 100, allCaps), LUNOptions{})
	a := g.ready("a", 0)
	var ids [][]byte
	for k := range MaxRegistrants {
		name := fmt.Sprintf("iqn.%0*d", maxISCSIName-4, k)
		ids = append(ids, transport(name+",i,0x400000000000"))
	}
	if got := a.prOut(prRegister, specList(7, 0, ids...)); got != "05/5504" {
		t.Errorf("one too many: %s", got)
	}
	if _, keys := a.keys(); len(keys) != 0 {
		t.Errorf("%d are registered", len(keys))
	}
	if got := a.prOut(prRegister, specList(7, 0, ids[1:]...)); got != "good" {
		t.Fatal(got)
	}
	full := a.in(0, cdb("5e 03 00 00 00 00 00 ff ff"), 0xffff)
	n := 0
	for d := full[8:]; len(d) != 0; d = d[24+be.Uint32(d[20:]):] {
		n++
	}
	if n != MaxRegistrants || int(be.Uint32(full[4:])) != len(full)-8 {
		t.Errorf("%d registrants in %d bytes", n, len(full))
	}
}

func TestRegisterAndMove(t *testing.T) {
	const b = "iqn.2026-01.test:b,i,0x400102030401"
	mine := transport("iqn.2026-01.test:a,i,0x400102030400")
	tests := []struct {
		name string
		list []byte
		want string
		keys []uint64
	}{
		{"move", moveList(7, 8, 0, 1, transport(b)), "good", []uint64{7, 8}},
		{"a name in capitals", moveList(7, 8, 0, 1, transport("iqn.2026-01.TEST:B,i,0x400102030401")), "good", []uint64{7, 8}},
		{"to itself in capitals", moveList(7, 8, 0, 1, transport("iqn.2026-01.TEST:A,i,0x400102030400")), "05/2600", []uint64{7}},
		{"move and leave", moveList(7, 8, prMoveUnreg, 1, transport(b)), "good", []uint64{8}},
		{"to another port", moveList(7, 8, 0, 2, transport(b)), "good", []uint64{7, 8}},
		{"to no port", moveList(7, 8, 0, 3, transport(b)), "05/2600", []uint64{7}},
		{"to itself", moveList(7, 8, 0, 1, mine), "05/2600", []uint64{7}},
		{"without a key", moveList(7, 0, 0, 1, transport(b)), "05/2600", []uint64{7}},
		{"wrong key", moveList(9, 8, 0, 1, transport(b)), "conflict", []uint64{7}},
		{"bad TransportID", moveList(7, 8, 0, 1, transport("nonsense")), "05/2600", []uint64{7}},
		{"two TransportIDs", moveList(7, 8, 0, 1, append(transport(b), transport(b)...)), "05/2600", []uint64{7}},
		{"cut", moveList(7, 8, 0, 1, transport(b))[:40], "05/1A00", []uint64{7}},
		{"aptpl without a store", moveList(7, 8, prAPTPL, 1, transport(b)), "05/2600", []uint64{7}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			g := newBench(t, 2)
			g.dev.SetPorts([]uint16{1, 2})
			g.add(0, newDisk(512, 100, allCaps), LUNOptions{})
			a, bs := g.ready("a", 0), g.ready("b", 1)
			a.pr(prRegister, 0, 0, 7)
			if got := a.prOut(prRegisterMove, tc.list); got != "conflict" && tc.want != "05/1A00" {
				t.Errorf("without a reservation: %s", got)
			}
			a.pr(prReserve, exclusiveAccess, 7, 0)
			if got := a.prOut(prRegisterMove, tc.list); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
			gen, keys := a.keys()
			if len(keys) != len(tc.keys) || keys[0] != tc.keys[0] || (gen == 2) != (tc.want == "good") {
				t.Errorf("generation %d, keys %x", gen, keys)
			}
			holds := bs.do(0, cdb("28 00 00 00 00 00 00 00 01"), nil, 512).outcome() == "good"
			if want := tc.want == "good" && tc.name != "to another port"; holds != want {
				t.Errorf("the target of the move holds it: %v", holds)
			}
		})
	}
}

// memoryStore keeps reservations in memory.
type memoryStore struct {
	kept  map[string][]byte
	saves int
	err   error
}

func (m *memoryStore) Load(name string) ([]byte, error) { return m.kept[name], m.err }

func (m *memoryStore) Save(name string, data []byte) error {
	m.saves++
	if m.err == nil {
		m.kept[name] = data
	}
	return m.err
}

// offload runs work when told to.
type offload struct{ jobs []func() }

func (o *offload) Go(work func(), r *reactor.Reactor, done *reactor.Msg) {
	o.jobs = append(o.jobs, func() { work(); r.Post(done) })
}

func (o *offload) run() {
	for _, j := range o.jobs {
		j()
	}
	o.jobs = nil
}

// TestAPTPL: GOOD comes once the reservations are kept, nothing changes when
// they cannot be, and a new unit begins with what was kept.
func TestAPTPL(t *testing.T) {
	store, off := &memoryStore{kept: map[string][]byte{}}, &offload{}
	persistent := func() (*bench, *session, *session) {
		g := newBench(t, 3)
		g.dev.Persist(store, off)
		g.add(0, newDisk(512, 100, allCaps), LUNOptions{})
		g.add(1, newDisk(512, 100, allCaps), LUNOptions{Serial: "other"})
		return g, g.ready("a", 1), g.ready("b", 2)
	}
	g, a, b := persistent()
	if caps := a.in(0, cdb("5e 02 00 00 00 00 00 00 08"), 8); caps[2] != 0x0d || caps[3] != 0x80 {
		t.Errorf("capabilities % x", caps)
	}
	steps := []struct {
		name  string
		s     *session
		sa    uint16
		kind  prType
		list  []byte
		saves int
	}{
		{"register", a, prRegister, 0, prOutList(0, 1, prAPTPL), 1},
		{"another registers", b, prRegister, 0, prOutList(0, 2, prAPTPL), 2},
		{"reserve", a, prReserve, exclusiveAccess, prOutList(1, 0, 0), 3},
		{"reserve again changes nothing", a, prReserve, exclusiveAccess, prOutList(1, 0, 0), 3},
	}
	for _, st := range steps {
		q := st.s.start(0, []byte{opPersistentOut, byte(st.sa), byte(st.kind), 0, 0, 0, 0, 0, 24, 0}, st.list, 0, AttrSimple)
		g.turns(6)
		if waits := len(off.jobs) == 1; waits == q.done {
			t.Errorf("%s: done %v with %d saves to do", st.name, q.done, len(off.jobs))
		}
		off.run()
		g.turns(6)
		if !q.done || q.outcome() != "good" || store.saves != st.saves {
			t.Errorf("%s: done %v, %s, %d saves", st.name, q.done, q.outcome(), store.saves)
		}
	}
	store.err = errors.New("no space")
	q := b.start(0, []byte{opPersistentOut, prPreempt, byte(exclusiveAccess), 0, 0, 0, 0, 0, 24, 0}, prOutList(2, 1, 0), 0, AttrSimple)
	g.turns(6)
	off.run()
	g.turns(6)
	if !q.done || q.outcome() != "04/4400" {
		t.Errorf("save fails: done %v, %s", q.done, q.outcome())
	}
	if gen, keys := a.keys(); gen != 2 || len(keys) != 2 {
		t.Errorf("after that: generation %d, keys %x", gen, keys)
	}
	blocked := bdev.New("disk", bdev.UUID{}, newDisk(512, 100, 0))
	if _, err := g.dev.AddLUN(g, 9, blocked, LUNOptions{}); !errors.Is(err, ErrReservations) {
		t.Errorf("a unit whose reservations cannot be read: %v", err)
	}
}

// TestAPTPLRestart: what was kept is there after a restart, and is forgotten
// when a REGISTER without APTPL says so.
func TestAPTPLRestart(t *testing.T) {
	store, off := &memoryStore{kept: map[string][]byte{}}, &offload{}
	restart := func() (a, b *session, do func(*session, uint16, prType, []byte) string) {
		g := newBench(t, 2)
		g.dev.Persist(store, off)
		g.add(0, newDisk(512, 100, allCaps), LUNOptions{})
		return g.ready("a", 0), g.ready("b", 1), func(s *session, sa uint16, kind prType, list []byte) string {
			q := s.start(0, []byte{opPersistentOut, byte(sa), byte(kind), 0, 0, 0, 0, 0, 24, 0}, list, 0, AttrSimple)
			g.turns(6)
			off.run()
			g.turns(6)
			return q.outcome()
		}
	}
	a, _, do := restart()
	do(a, prRegister, 0, prOutList(0, 1, prAPTPL))
	do(a, prReserve, exclusiveAccess, prOutList(1, 0, 0))
	a, b, do := restart()
	if gen, keys := a.keys(); gen != 0 || len(keys) != 1 || keys[0] != 1 {
		t.Errorf("after restart: generation %d, keys %x", gen, keys)
	}
	if got := b.do(0, cdb("28 00 00 00 00 00 00 00 01"), nil, 512).outcome(); got != "conflict" {
		t.Errorf("another reads: %s", got)
	}
	if got := a.do(0, cdb("28 00 00 00 00 00 00 00 01"), nil, 512).outcome(); got != "good" {
		t.Errorf("the holder reads: %s", got)
	}
	if caps := a.in(0, cdb("5e 02 00 00 00 00 00 00 08"), 8); caps[3] != 0x81 {
		t.Errorf("PTPL_A: % x", caps)
	}
	if got := do(a, prRegister, 0, prOutList(1, 1, 0)); got != "good" {
		t.Errorf("APTPL off: %s", got)
	}
	a, _, _ = restart()
	if _, keys := a.keys(); len(keys) != 0 {
		t.Errorf("forgotten ones are back: %x", keys)
	}
}

// TestKeptAndShared: a bdev whose registrations were kept is one LUN after a
// restart, whichever of those that are configured comes first, and it is said why.
func TestKeptAndShared(t *testing.T) {
	store := &memoryStore{kept: map[string][]byte{}}
	g := restarted(t, store)
	if got := g.saves("5f 00 00 00 00 00 00 00 18", prOutList(0, 1, prAPTPL)); got != "good" {
		t.Fatal(got)
	}
	for _, kept := range []int{0, 1} {
		g := newBench(t, 1)
		devices := []*Device{NewDevice("iqn.2026-01.test:other", g.Reactors), g.dev, NewDevice("iqn.2026-01.test:third", g.Reactors)}
		b := bdev.New("disk", bdev.UUID{}, newDisk(512, 100, allCaps))
		for i, d := range devices[1-kept:][:2] {
			d.Persist(store, &offload{})
			_, err := d.AddLUN(g, 3, b, LUNOptions{})
			if (err == nil) != (i == 0) || err != nil && (!errors.Is(err, bdev.ErrClaimed) || !strings.Contains(err.Error(), "--state-dir")) {
				t.Errorf("kept by LUN %d, LUN %d: %v", kept, i, err)
			}
		}
	}
}

func TestDecodeReservations(t *testing.T) {
	const reg = `{"initiator":"iqn.a","isid":"400000000001","target":"iqn.t","port":1,"key":"00000000000000ab"}`
	tests := []struct {
		name, data string
		ok         bool
	}{
		{"nobody", `{"version":1,"holder":-1,"registrants":[]}`, true},
		{"holder", `{"version":1,"type":1,"holder":0,"registrants":[` + reg + `]}`, true},
		{"all registrants", `{"version":1,"type":7,"holder":-1,"registrants":[` + reg + `]}`, true},
		{"cut", `{"version":1,"holder":-1,"regi`, false},
		{"empty", ``, false},
		{"version", `{"version":2,"holder":-1,"registrants":[]}`, false},
		{"type", `{"version":1,"type":2,"holder":0,"registrants":[` + reg + `]}`, false},
		{"no holder", `{"version":1,"type":1,"holder":-1,"registrants":[` + reg + `]}`, false},
		{"holder beyond", `{"version":1,"type":1,"holder":1,"registrants":[` + reg + `]}`, false},
		{"held by nobody", `{"version":1,"type":7,"holder":-1,"registrants":[]}`, false},
		{"one twice", `{"version":1,"holder":-1,"registrants":[` + reg + `,` + reg + `]}`, false},
		{"key", `{"version":1,"holder":-1,"registrants":[{"initiator":"a","isid":"400000000001","key":"ab"}]}`, false},
	}
	for _, tc := range tests {
		p, err := decodeReservations([]byte(tc.data))
		if (err == nil) != tc.ok || err != nil && !errors.Is(err, ErrReservations) {
			t.Errorf("%s: %v", tc.name, err)
		}
		if err == nil && !p.aptpl {
			t.Errorf("%s: not kept any more", tc.name)
		}
	}
}
