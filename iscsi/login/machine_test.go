package login

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"spindle/iscsi/pdu"
)

func header(flags byte, n int) pdu.BHS {
	b := make(pdu.BHS, pdu.HeaderLen)
	b.Clear(pdu.LoginRequest)
	b.SetImmediate()
	b.SetFlags(flags)
	b.SetDataLen(uint32(n))
	return b
}

func step(m *Machine, flags byte, text string) Reply {
	return m.Step(header(flags, len(text)), []byte(text))
}

const (
	toOperational = pdu.FlagTransit | pdu.StageSecurity<<2 | pdu.StageOperational
	toFullFeature = pdu.FlagTransit | pdu.StageOperational<<2 | pdu.StageFullFeature
	inPieces      = pdu.FlagContinue | pdu.StageOperational<<2
	names         = "InitiatorName=iqn.a\x00TargetName=iqn.b\x00"
)

// TestSplitAnywhere cuts the text of a login at any points, in the middle of
// keys and terminators too: the outcome is that of the text in one piece.
func TestSplitAnywhere(t *testing.T) {
	text := names + "SessionType=Normal\x00HeaderDigest=CRC32C,None\x00InitialR2T=No\x00ImmediateData=Yes\x00" +
		"FirstBurstLength=262144\x00MaxBurstLength=16776192\x00MaxConnections=1\x00X-com.example=1\x00MaxRecvDataSegmentLength=65536\x00"
	whole := New(fixed{defaultPolicy()})
	want := step(whole, toFullFeature, text)
	if want.Verdict != Done {
		t.Fatalf("in one piece: %s", show(&want))
	}
	check := func(cuts []int) {
		t.Helper()
		m := New(fixed{defaultPolicy()})
		from := 0
		for _, to := range cuts {
			r := step(m, inPieces, text[from:to])
			if r.Verdict != Continue || len(r.Data) != 0 || r.Flags != pdu.StageOperational<<2 {
				t.Fatalf("cuts %v: partial text answered by %s", cuts, show(&r))
			}
			from = to
		}
		got := step(m, toFullFeature, text[from:])
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("cuts %v: %s, want %s", cuts, show(&got), show(&want))
		}
		if got, want := m.Result(), whole.Result(); got != want {
			t.Fatalf("cuts %v: result %+v, want %+v", cuts, got, want)
		}
	}
	for at := range len(text) + 1 {
		check([]int{at})
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var cuts []int
		for at := rnd.IntN(20); at < len(text) && len(cuts) < MaxRequests-1; at += rnd.IntN(40) {
			cuts = append(cuts, at)
		}
		check(cuts)
	}
}

// TestReplySplit: an answer longer than a PDU leaves in pieces under the C bit,
// and the T bit waits for the last.
func TestReplySplit(t *testing.T) {
	var text, want strings.Builder
	text.WriteString(names)
	want.WriteString("TargetPortalGroupTag=1\x00MaxRecvDataSegmentLength=262144\x00")
	for i := range 500 {
		fmt.Fprintf(&text, "X-%05d=1\x00", i)
		fmt.Fprintf(&want, "X-%05d=NotUnderstood\x00", i)
	}
	m := New(fixed{defaultPolicy()})
	r := step(m, toFullFeature, text.String())
	if r.Verdict != Continue || r.Flags != pdu.StageOperational<<2|pdu.FlagContinue || len(r.Data) != MaxPDUData {
		t.Fatalf("first piece: flags %#x, %d bytes", r.Flags, len(r.Data))
	}
	got := append([]byte(nil), r.Data...)
	if r = step(m, toFullFeature, ""); r.Verdict != Done {
		t.Fatalf("last piece: %s", show(&r))
	}
	if got = append(got, r.Data...); string(got) != want.String() {
		t.Errorf("answer of %d bytes, want %d", len(got), want.Len())
	}

	m = New(fixed{defaultPolicy()})
	step(m, toFullFeature, text.String())
	if r = step(m, toFullFeature, "MaxConnections=1\x00"); r.Status != pdu.LoginInvalidRequest {
		t.Errorf("keys in the middle of an answer: %s", show(&r))
	}
}

// TestLimits hits each limit of limits.go, and the step before it.
func TestLimits(t *testing.T) {
	filler := func(n int) string { // n bytes of keys without an answer
		return strings.Repeat("X-aaaa=Irrelevant\x00", n/18) + strings.Repeat("\x00", n%18)
	}
	for _, tc := range []struct {
		name  string
		last  string   // text that ends the login
		parts []string // under the C bit before it
		want  pdu.LoginStatus
	}{
		{name: "LoginPayloadEdge 8189", last: names + filler(8189-len(names))},
		{name: "LoginPayloadEdge 8192", last: names + filler(8192-len(names))},
		{name: "LoginPayloadEdge 8193", last: names + filler(8193-len(names)), want: pdu.LoginInitiatorError},
		{name: "LoginPayloadEdge no terminator", last: names + "a=" + strings.Repeat("b", 8190-len(names)), want: pdu.LoginInitiatorError},
		{name: "MaxText reached", parts: []string{names, strings.Repeat("\x00", 8192)}, last: strings.Repeat("\x00", MaxText-8192-len(names))},
		{name: "MaxText passed", parts: []string{names, strings.Repeat("\x00", 8192)}, last: strings.Repeat("\x00", MaxText-8192-len(names)+1), want: pdu.LoginInitiatorError},
		{name: "MaxPairs", last: names + strings.Repeat("a=Reject\x00", 900), parts: []string{strings.Repeat("a=Reject\x00", MaxPairs-902)}},
		{name: "MaxPairs passed", last: names + strings.Repeat("a=Reject\x00", 900), parts: []string{strings.Repeat("a=Reject\x00", MaxPairs-901)}, want: pdu.LoginInitiatorError},
		{name: "ReplyAmplification", last: names + strings.Repeat("a=b\x00", 2040), want: pdu.LoginInitiatorError},
		{name: "ReplyAmplification by long keys", last: names + strings.Repeat("X-0000000000000000000000000=1\x00", 278), parts: []string{strings.Repeat("X-0000000000000000000000000=1\x00", 270)}, want: pdu.LoginInitiatorError},
		{name: "MaxRequests", parts: make([]string, MaxRequests-1), last: names},
		{name: "MaxRequests passed", parts: make([]string, MaxRequests), last: names, want: pdu.LoginInitiatorError},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := New(fixed{defaultPolicy()})
			for _, p := range tc.parts {
				if r := step(m, inPieces, p); r.Verdict != Continue {
					t.Fatalf("part of %d bytes: %s", len(p), show(&r))
				}
			}
			r := step(m, toFullFeature, tc.last)
			checkReply(t, &r)
			if r.Status != tc.want || (r.Verdict == Done) != (tc.want == 0) {
				t.Errorf("status %04x %q, want %04x", uint16(r.Status), r.Reason, uint16(tc.want))
			}
		})
	}
}

// TestRefuse: the engine may turn a Done down, once and for all.
func TestRefuse(t *testing.T) {
	m := New(fixed{defaultPolicy()})
	b := header(toFullFeature, len(names))
	if r := m.Step(b, []byte(names)); r.Verdict != Done {
		t.Fatal(show(&r))
	}
	r := m.Refuse(b, pdu.LoginOutOfResources, "no session left")
	checkReply(t, &r)
	if r.Verdict != Failed || r.Status != pdu.LoginOutOfResources || r.Flags&pdu.FlagTransit != 0 {
		t.Error(show(&r))
	}
}

// counter is a Resolver that keeps what it was asked.
type counter struct{ asked []Identity }

func (c *counter) Resolve(id *Identity) Policy {
	c.asked = append(c.asked, *id)
	return defaultPolicy()
}

func TestResolverIsAskedOnce(t *testing.T) {
	c := &counter{}
	m := New(c)
	b := header(pdu.StageSecurity<<2, 0)
	copy(b.ISID(), []byte{1, 2, 3, 4, 5, 6})
	b.SetCID(7)
	b.SetFlags(pdu.FlagContinue)
	b.SetDataLen(5)
	m.Step(b, []byte("Initi"))
	if len(c.asked) != 0 {
		t.Fatal("asked before the text was complete")
	}
	rest := names[5:] + "InitiatorAlias=host\x00"
	b.SetFlags(toOperational)
	b.SetDataLen(uint32(len(rest)))
	m.Step(b, []byte(rest))
	b.SetFlags(toFullFeature)
	b.SetDataLen(0)
	if r := m.Step(b, nil); r.Verdict != Done {
		t.Fatal(show(&r))
	}
	want := []Identity{{InitiatorName: "iqn.a", TargetName: "iqn.b", InitiatorAlias: "host", ISID: [6]byte{1, 2, 3, 4, 5, 6}, CID: 7}}
	if !reflect.DeepEqual(c.asked, want) {
		t.Errorf("asked %+v, want %+v", c.asked, want)
	}
	if m.Stage() != pdu.StageFullFeature {
		t.Errorf("stage %d", m.Stage())
	}
}

// TestReplyEncode: the response's header on the wire, no byte left from before.
func TestReplyEncode(t *testing.T) {
	r := Reply{Flags: toFullFeature, ISID: [6]byte{1, 2, 3, 4, 5, 6}, TSIH: 0x708, ITT: 0x090a0b0c, Data: make([]byte, 5)}
	got := bytes.Repeat([]byte{0xcc}, pdu.HeaderLen)
	r.Encode(got)
	want := make([]byte, pdu.HeaderLen)
	copy(want, []byte{0x23, 0x87, 0, 0, 0, 0, 0, 5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
	if !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

// TestKeyTable holds each row to what rows must be.
func TestKeyTable(t *testing.T) {
	seen := map[string]bool{}
	for k := range numKeys {
		s := &keys[k]
		if s.name == "" || len(s.name) > pdu.MaxKeyName || seen[s.name] {
			t.Errorf("row %d: name %q", k, s.name)
		}
		seen[s.name] = true
		if s.where == 0 {
			t.Errorf("%s stands nowhere", s.name)
		}
		if s.def > s.hi && (s.fn == fnMin || s.fn == fnMax) || s.lo > s.hi {
			t.Errorf("%s: default %d, range %d..%d", s.name, s.def, s.lo, s.hi)
		}
		if got, ok := findKey([]byte(s.name)); !ok || got != k {
			t.Errorf("findKey(%s) = %d, %v", s.name, got, ok)
		}
	}
	if _, ok := findKey([]byte("maxburstlength")); ok {
		t.Error("keys are case sensitive")
	}
}

func BenchmarkLogin(b *testing.B) {
	b.ReportAllocs()
	text := names + "HeaderDigest=None\x00InitialR2T=No\x00ImmediateData=Yes\x00MaxBurstLength=262144\x00FirstBurstLength=65536\x00"
	h, data, p := header(toFullFeature, len(text)), []byte(text), fixed{defaultPolicy()}
	for b.Loop() {
		if r := New(p).Step(h, data); r.Verdict != Done {
			b.Fatal(show(&r))
		}
	}
}
