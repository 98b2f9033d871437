package dialogue_test

import (
	"io"
	"runtime"
	"testing"

	"spindle/iscsi/dialogue"
	"spindle/iscsi/dialogue/linktest"
	"spindle/iscsi/iscsitest"
	"spindle/iscsi/pdu"
)

// tap keeps what is sent over a Link.
type tap struct {
	dialogue.Link
	sent *[]byte
}

func (l tap) Write(b []byte) error {
	*l.sent = append(*l.sent, b...)
	return l.Link.Write(b)
}

// FuzzConnection sends any bytes from the first one of a connection on: login,
// full feature phase and all between. The scripts are its seeds, every
// connection of each. Properties: no panic; what is answered is PDUs of a
// target, none longer than the connection may send, no more of them than the
// input can have asked for; no allocation that the input's length does not
// explain; the connection ends in login, in full feature phase or closed; another
// session does not notice; every buffer and task comes home.
func FuzzConnection(f *testing.F) {
	for _, s := range load(f) {
		var sent []*[]byte
		p := newSim(f).player()
		dial := p.Dial
		p.Dial = func() (dialogue.Link, error) {
			l, err := dial()
			sent = append(sent, new([]byte))
			return tap{l, sent[len(sent)-1]}, err
		}
		if err := p.Play(s); err != nil {
			f.Fatal(err)
		}
		for _, b := range sent {
			if len(*b) < 16<<10 {
				f.Add(*b)
			}
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 32<<10 {
			return
		}
		g := iscsitest.New(t, iscsitest.Options{Memory: 16 << 20, Blocks: 2048})
		other := g.Dial()
		other.ISID[5] = 0x99
		other.Login()
		l, err := linktest.DialSim(g)
		if err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		out := feed(t, l, in)
		runtime.ReadMemStats(&after)
		// The network and the test itself copy what goes through them.
		if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20+uint64(64*len(in)+64*len(out)) {
			t.Fatalf("%d bytes allocated for %d received and %d sent", n, len(in), len(out))
		}
		replies(t, in, out)
		for _, c := range g.Engine.Connections(g) {
			switch c.LoginPhase {
			case "not_started", "security_negotiation_phase", "operational_negotiation_phase", "full_feature_phase":
			default:
				t.Fatalf("connection in phase %s, state %s", c.LoginPhase, c.State)
			}
		}
		l.Close()
		g.Settle()
		if !other.Peer.EOF() && other.Peer.Err() == nil { // TARGET COLD RESET ends every session
			ping := other.Immediate(pdu.NopOut, pdu.FlagFinal)
			ping.SetTTT(pdu.ReservedTag)
			other.Send(ping, nil, nil)
			for p := other.Recv(); p.BHS.ITT() != ping.ITT(); p = other.Recv() {
			}
		}
	})
}

// feed sends in and returns all that comes back.
func feed(t *testing.T, l linktest.Sim, in []byte) (out []byte) {
	buf := make([]byte, 64<<10)
	quiet := 0
	for turns := 0; quiet < 100; turns++ {
		if turns > 200_000 {
			t.Fatalf("no end: %d bytes are not taken, %d came", len(in), len(out))
		}
		if len(in) > 0 && !l.Peer.WriteClosed() && l.Peer.Err() == nil {
			n := l.Peer.Write(in[:min(len(in), 1+turns*37%4096)])
			in = in[n:]
		}
		n := l.Peer.Read(buf)
		out = append(out, buf[:n]...)
		if quiet++; n > 0 || len(in) > 0 && !l.Peer.WriteClosed() && l.Peer.Err() == nil {
			quiet = 0
		}
		l.G.Turn()
	}
	return out
}

// replies holds what came back to what a target may send; with digests, whose
// negotiation is not followed here, only the first PDU.
func replies(t *testing.T, in, out []byte) {
	// A READ of 4 MiB is 48 bytes; everything else answers with less.
	if len(out) > (len(in)/pdu.HeaderLen+1)*(4<<20+64<<10) {
		t.Fatalf("%d bytes came for %d", len(out), len(in))
	}
	digests := false
	for len(out) >= pdu.HeaderLen && !digests {
		b := pdu.BHS(out)
		switch b.Opcode() {
		case pdu.LoginResponse:
			digests = true
			if b.DataLen() > 8192 {
				t.Fatalf("a Login Response with %d bytes", b.DataLen())
			}
		case pdu.NopIn, pdu.SCSIResponse, pdu.TMFResponse, pdu.TextResponse, pdu.DataIn, pdu.LogoutResp, pdu.R2T, pdu.AsyncMessage, pdu.Reject:
		default:
			t.Fatalf("opcode %#x of an initiator", b.Opcode())
		}
		n := pdu.HeaderLen + b.AHSLen() + b.PaddedDataLen()
		if uint32(len(out)) < n {
			t.Fatalf("%v: %d bytes of a PDU of %d", io.ErrUnexpectedEOF, len(out), n)
		}
		out = out[n:]
	}
}
