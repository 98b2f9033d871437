package login

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"spindle/iscsi/pdu"
)

// shelf is a Directory.
type shelf []Target

func (s shelf) Targets(name string) []Target {
	var out []Target
	for _, t := range s {
		if name == "" || name == t.Name {
			out = append(out, t)
		}
	}
	return out
}

func portal(s string, tag uint16) Portal { return Portal{Addr: netip.MustParseAddrPort(s), Tag: tag} }

var twoTargets = shelf{
	{Name: "iqn.a", Portals: []Portal{portal("10.0.0.1:3260", 1), portal("[fd00::1]:3261", 2)}},
	{Name: "iqn.b", Portals: []Portal{portal("[fe80::1%eth0]:3260", 1), portal("[::ffff:10.0.0.2]:3260", 3)}},
}

const (
	recordA = "TargetName=iqn.a\x00TargetAddress=10.0.0.1:3260,1\x00TargetAddress=[fd00::1]:3261,2\x00"
	recordB = "TargetName=iqn.b\x00TargetAddress=[fe80::1]:3260,1\x00TargetAddress=10.0.0.2:3260,3\x00"
)

func textRequest(flags byte, ttt uint32, n int) pdu.BHS {
	b := make(pdu.BHS, pdu.HeaderLen)
	b.Clear(pdu.TextRequest)
	b.SetFlags(flags)
	b.SetITT(0x77)
	b.SetTTT(ttt)
	b.SetLUN(0x0001000000000000)
	b.SetDataLen(uint32(n))
	return b
}

func ask(t *TextExchange, flags byte, ttt uint32, text string) TextReply {
	return t.Step(textRequest(flags, ttt, len(text)), []byte(text))
}

func TestTextAnswers(t *testing.T) {
	discovery := Result{Identity: Identity{Discovery: true}, MaxSendData: 8192}
	normal := Result{Identity: Identity{TargetName: "iqn.a"}, MaxSendData: 8192}
	iser := Result{Identity: Identity{TargetName: "iqn.a"}, MaxSendData: 8192, RDMAExtensions: true}
	for _, tc := range []struct {
		name   string
		r      Result
		in     string
		want   string
		reject uint8
		send   uint32 // MaxSendData afterwards, 0 means unchanged
	}{
		{name: "all", r: discovery, in: "SendTargets=All\x00", want: recordA + recordB},
		{name: "one", r: discovery, in: "SendTargets=iqn.b\x00", want: recordB},
		{name: "one in capitals", r: discovery, in: "SendTargets=IQN.B\x00", want: recordB},
		{name: "one that is not there", r: discovery, in: "SendTargets=iqn.c\x00"},
		{name: "own, in discovery", r: discovery, in: "SendTargets=\x00", want: "SendTargets=Reject\x00"},
		{name: "own", r: normal, in: "SendTargets=\x00", want: recordA},
		{name: "own by name", r: normal, in: "SendTargets=iqn.a\x00", want: recordA},
		{name: "all, in a normal session", r: normal, in: "SendTargets=All\x00", want: "SendTargets=Reject\x00"},
		{name: "another, in a normal session", r: normal, in: "SendTargets=iqn.b\x00", want: "SendTargets=Reject\x00"},
		{name: "nothing", r: normal},
		{name: "unknown", r: normal, in: "X-a=1\x00Foo=bar\x00Bar=Reject\x00", want: "X-a=NotUnderstood\x00Foo=NotUnderstood\x00"},
		{name: "login key", r: normal, in: "MaxBurstLength=512\x00HeaderDigest=None\x00", want: "MaxBurstLength=Reject\x00HeaderDigest=Reject\x00"},
		{name: "redeclaration", r: normal, in: "MaxRecvDataSegmentLength=65536\x00", send: 65536},
		{name: "redeclaration out of range", r: normal, in: "MaxRecvDataSegmentLength=1\x00", want: "MaxRecvDataSegmentLength=Reject\x00"},
		{name: "redeclaration on RDMA", r: iser, in: "MaxRecvDataSegmentLength=65536\x00", want: "MaxRecvDataSegmentLength=Irrelevant\x00"},
		{name: "alias", r: normal, in: "InitiatorAlias=x\x00"},
		{name: "twice", r: discovery, in: "SendTargets=All\x00SendTargets=All\x00", reject: pdu.RejectProtocol},
		{name: "malformed", r: discovery, in: "SendTargets=All", reject: pdu.RejectProtocol},
		{name: "too many", r: discovery, in: strings.Repeat("a=b\x00", MaxPairs+1), reject: pdu.RejectResources},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := NewText(&tc.r, twoTargets, 0)
			got := ask(x, pdu.FlagFinal, pdu.ReservedTag, tc.in)
			if got.Reject != tc.reject || string(got.Data) != tc.want {
				t.Fatalf("reject %#x, %q, want %#x, %q", got.Reject, got.Data, tc.reject, tc.want)
			}
			if got.Reject != 0 {
				return
			}
			if got.Flags != pdu.FlagFinal || got.TTT != pdu.ReservedTag || got.ITT != 0x77 || got.LUN != 0x0001000000000000 {
				t.Errorf("%+v", got)
			}
			if want := max(tc.send, 8192); x.MaxSendData() != want {
				t.Errorf("MaxSendData %d, want %d", x.MaxSendData(), want)
			}
			b := make(pdu.BHS, pdu.HeaderLen)
			got.Encode(b)
			if b.Opcode() != pdu.TextResponse || int(b.DataLen()) != len(tc.want) || b.TTT() != pdu.ReservedTag {
				t.Errorf("encoded as %x", []byte(b))
			}
		})
	}
}

// TestTextContinuation: an answer longer than the peer's segment comes in
// pieces of exactly that, whatever it is, and adds up.
func TestTextContinuation(t *testing.T) {
	var many shelf
	var want strings.Builder
	for i := range 100 {
		name := fmt.Sprintf("iqn.2025-01.test:disk%03d", i)
		many = append(many, Target{Name: name, Portals: []Portal{portal("10.0.0.1:3260", 1)}})
		fmt.Fprintf(&want, "TargetName=%s\x00TargetAddress=10.0.0.1:3260,1\x00", name)
	}
	for _, tc := range []struct{ declared, bound, segment uint32 }{
		{512, 0, 512}, {8192, 128, 128}, {600, 1000, 600}, {uint32(want.Len()), 0, uint32(want.Len())},
	} {
		x := NewText(&Result{Identity: Identity{Discovery: true}, MaxSendData: tc.declared}, many, tc.bound)
		var got strings.Builder
		r := ask(x, pdu.FlagFinal, pdu.ReservedTag, "SendTargets=All\x00")
		for n := 0; r.Flags != pdu.FlagFinal; n++ {
			if r.Reject != 0 || r.Flags != pdu.FlagContinue || r.TTT == pdu.ReservedTag || uint32(len(r.Data)) != tc.segment || n > 1000 {
				t.Fatalf("%+v: piece %d: %+v", tc, n, r)
			}
			got.Write(r.Data)
			r = ask(x, pdu.FlagFinal, r.TTT, "")
		}
		if got.Write(r.Data); got.String() != want.String() {
			t.Errorf("%+v: %d bytes, want %d", tc, got.Len(), want.Len())
		}
	}
}

func TestTextDialogues(t *testing.T) {
	long := "SendTargets=All\x00"
	fresh := func() *TextExchange {
		return NewText(&Result{Identity: Identity{Discovery: true}, MaxSendData: 64}, twoTargets, 0)
	}
	t.Run("request in pieces", func(t *testing.T) {
		for at := range len(long) + 1 {
			x := NewText(&Result{Identity: Identity{Discovery: true}, MaxSendData: 8192}, twoTargets, 0)
			r := ask(x, pdu.FlagContinue, pdu.ReservedTag, long[:at])
			if r.Flags != 0 || len(r.Data) != 0 || r.TTT == pdu.ReservedTag {
				t.Fatalf("cut at %d: %+v", at, r)
			}
			if r = ask(x, pdu.FlagFinal, r.TTT, long[at:]); string(r.Data) != recordA+recordB || r.Flags != pdu.FlagFinal {
				t.Fatalf("cut at %d: %+v", at, r)
			}
		}
	})
	t.Run("open until the initiator is done", func(t *testing.T) {
		x := NewText(&Result{MaxSendData: 8192}, twoTargets, 0)
		r := ask(x, 0, pdu.ReservedTag, "MaxRecvDataSegmentLength=512\x00")
		if r.Flags != 0 || r.TTT == pdu.ReservedTag || x.MaxSendData() != 8192 {
			t.Fatalf("%+v, MaxSendData %d", r, x.MaxSendData())
		}
		if r = ask(x, pdu.FlagFinal, r.TTT, ""); r.Flags != pdu.FlagFinal || x.MaxSendData() != 512 {
			t.Fatalf("%+v, MaxSendData %d", r, x.MaxSendData())
		}
	})
	t.Run("abandoned for a new one", func(t *testing.T) {
		x := fresh()
		old := ask(x, pdu.FlagFinal, pdu.ReservedTag, long)
		if r := ask(x, pdu.FlagFinal, pdu.ReservedTag, "X-a=1\x00"); string(r.Data) != "X-a=NotUnderstood\x00" {
			t.Fatalf("%+v", r)
		}
		if r := ask(x, pdu.FlagFinal, old.TTT, ""); r.Reject != pdu.RejectProtocol {
			t.Fatalf("a tag of the abandoned exchange: %+v", r)
		}
	})
	for _, tc := range []struct {
		name   string
		flags  byte
		tag    func(uint32) uint32
		text   string
		reject uint8
	}{
		{"F and C together", pdu.FlagFinal | pdu.FlagContinue, func(t uint32) uint32 { return t }, "", pdu.RejectProtocol},
		{"another tag", pdu.FlagFinal, func(t uint32) uint32 { return t + 1 }, "", pdu.RejectProtocol},
		{"keys in the middle of an answer", pdu.FlagFinal, func(t uint32) uint32 { return t }, "X-a=1\x00", pdu.RejectProtocol},
		{"C bit in the middle of an answer", pdu.FlagContinue, func(t uint32) uint32 { return t }, "", pdu.RejectProtocol},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := fresh()
			r := ask(x, pdu.FlagFinal, pdu.ReservedTag, long)
			if r = ask(x, tc.flags, tc.tag(r.TTT), tc.text); r.Reject != tc.reject {
				t.Errorf("%+v", r)
			}
		})
	}
	t.Run("too many pieces", func(t *testing.T) {
		x := fresh()
		r := ask(x, pdu.FlagContinue, pdu.ReservedTag, "")
		for range MaxRequests - 1 {
			if r = ask(x, pdu.FlagContinue, r.TTT, ""); r.Reject != 0 {
				t.Fatalf("%+v", r)
			}
		}
		if r = ask(x, pdu.FlagContinue, r.TTT, ""); r.Reject != pdu.RejectResources {
			t.Errorf("%+v", r)
		}
	})
	t.Run("too much text", func(t *testing.T) {
		x := fresh()
		r := ask(x, pdu.FlagContinue, pdu.ReservedTag, strings.Repeat("a", MaxText))
		if r = ask(x, pdu.FlagContinue, r.TTT, "a"); r.Reject != pdu.RejectResources {
			t.Errorf("%+v", r)
		}
	})
	t.Run("answer too long", func(t *testing.T) {
		many := make(shelf, MaxTextReply/200)
		for i := range many {
			many[i] = Target{Name: strings.Repeat("x", 200)}
		}
		x := NewText(&Result{Identity: Identity{Discovery: true}, MaxSendData: 64}, many, 0)
		if r := ask(x, pdu.FlagFinal, pdu.ReservedTag, long); r.Reject != pdu.RejectResources {
			t.Errorf("reject %#x, %d bytes", r.Reject, len(r.Data))
		}
	})
}

// TestTextOtherTask: an exchange belongs to the task tag that began it, as well
// as to the target transfer tag it was given (RFC 7143 §11.10.3, §11.10.4).
func TestTextOtherTask(t *testing.T) {
	x := NewText(&Result{Identity: Identity{Discovery: true}, MaxSendData: 8192}, twoTargets, 0)
	r := ask(x, pdu.FlagContinue, pdu.ReservedTag, "SendTargets=")
	if r.Reject != 0 || r.TTT == pdu.ReservedTag {
		t.Fatalf("%+v", r)
	}
	b := textRequest(pdu.FlagFinal, r.TTT, 4)
	b.SetITT(0x78)
	if r := x.Step(b, []byte("All\x00")); r.Reject != pdu.RejectProtocol {
		t.Errorf("another task went on with the exchange: %+v", r)
	}
}
