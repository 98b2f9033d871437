package login

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spindle/iscsi/pdu"
)

// A fuzzed dialogue is a policy byte and records of flags, two bytes of length
// and a text.
func nextRecord(in []byte) (flags byte, text, rest []byte, ok bool) {
	if len(in) < 3 {
		return 0, nil, nil, false
	}
	n := min(int(binary.BigEndian.Uint16(in[1:])), len(in)-3)
	return in[0], in[3 : 3+n], in[3+n:], true
}

func fuzzPolicy(sel byte) Policy {
	p := defaultPolicy()
	if sel&1 != 0 {
		p.CHAP = &CHAP{Store: testUsers, Entropy: &counting{n: 1}, Mutual: sel&2 != 0}
		p.RequireAuth = sel&4 != 0
	}
	if sel&8 != 0 {
		p.Config.RDMA = true
		p.Config.MaxRecvData = 8192
	}
	if sel&16 != 0 {
		p.Config.HeaderDigest, p.Config.DataDigest = DigestRequire, DigestRequire
	}
	if sel&32 != 0 {
		p.Config.FirstBurst, p.Config.MaxBurst, p.Config.ImmediateData = 8192, 65536, false
	}
	p.Config.InitialR2T = sel&64 != 0
	return p
}

// seedDialogues turns the dialogues of testdata into fuzz inputs.
func seedDialogues(f *testing.F) {
	files, _ := filepath.Glob("testdata/dialogues/*.txt")
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		_, cases := splitCases(string(src))
		for _, c := range cases {
			in := []byte{0}
			if strings.Contains(c, "policy chap") {
				in[0] = 1
			}
			lines := strings.Split(c, "\n")
			for i := 0; i < len(lines); i++ {
				if !strings.HasPrefix(lines[i], "I") {
					continue
				}
				var text []byte
				var flags byte
				for _, w := range strings.Fields(lines[i])[1:] {
					switch {
					case w == "T":
						flags |= pdu.FlagTransit
					case w == "C":
						flags |= pdu.FlagContinue
					case len(w) == 3 && w[1] == '-':
						flags |= (w[0]-'0')<<2 | w[2] - '0'
					}
				}
				for ; i+1 < len(lines) && strings.HasPrefix(lines[i+1], "\t"); i++ {
					text = append(append(text, lines[i+1][1:]...), 0)
				}
				in = append(append(in, flags, byte(len(text)>>8), byte(len(text))), text...)
			}
			f.Add(in)
		}
	}
}

// FuzzLogin plays whole dialogues from the first byte of a connection. Nothing
// panics; every reply is within its limits and one of continue, done, failed;
// nobody gets past RequireAuth without a secret; results are in range.
func FuzzLogin(f *testing.F) {
	seedDialogues(f)
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 {
			return
		}
		p := fuzzPolicy(in[0])
		m := New(fixed{p})
		total, ended := 0, false
		for in = in[1:]; ; {
			flags, text, rest, ok := nextRecord(in)
			if !ok {
				break
			}
			in = rest
			r := m.Step(header(flags, len(text)), text)
			checkReply(t, &r)
			if total += len(r.Data); total > MaxRequests*MaxPDUData {
				t.Fatalf("%d bytes of replies", total)
			}
			if ended && r.Verdict != Failed {
				t.Fatalf("verdict %d after the end", r.Verdict)
			}
			ended = ended || r.Verdict != Continue
			if r.Verdict == Done {
				checkResult(t, &p, m.Result())
			}
		}
	})
}

func checkResult(t *testing.T, p *Policy, r Result) {
	t.Helper()
	c := &p.Config
	switch {
	case r.InitiatorName == "" || r.TargetName == "" && !r.Discovery:
		t.Fatal("done without names")
	case p.RequireAuth && testUsers[r.CHAPUser].Secret == nil:
		t.Fatal("done without authentication")
	case p.RequireAuth && p.CHAP.Mutual && !r.Mutual:
		t.Fatal("done without mutual authentication")
	case r.MaxSendData < 512 || r.MaxSendData > maxU24 || r.MaxRecvData > max(c.MaxRecvData, 8192):
		t.Fatalf("segments %d, %d", r.MaxSendData, r.MaxRecvData)
	case r.Discovery:
		return
	case r.FirstBurst > r.MaxBurst || r.MaxBurst < 512 || r.MaxBurst > c.MaxBurst && r.TSIH == 0:
		t.Fatalf("bursts %d, %d", r.FirstBurst, r.MaxBurst)
	case r.TSIH == 0 && (r.ImmediateData && !c.ImmediateData || !r.InitialR2T && c.InitialR2T):
		t.Fatal("laxer than our side")
	case r.MaxConnections > max(c.MaxConnections, 1) || r.ERL != 0 || r.MaxOutstandingR2T > c.MaxOutstandingR2T:
		t.Fatalf("%+v", r)
	case c.HeaderDigest == DigestRequire && !c.RDMA && !r.HeaderDigest:
		t.Fatal("required digest is off")
	case c.RDMA && (r.HeaderDigest || r.DataDigest):
		t.Fatal("digests on RDMA")
	case !c.RDMA && r.RDMAExtensions:
		t.Fatal("RDMAExtensions without RDMA")
	}
}

// FuzzTextExchange: every answer is within the peer's segment length, a tag is
// out if and only if the exchange is open.
func FuzzTextExchange(f *testing.F) {
	f.Add([]byte("\x00\x80\x00\x10SendTargets=All\x00\x80\x00\x00\x80\x00\x00"))
	f.Add([]byte("\x01\x40\x00\x04Send\x80\x00\x08Targets=\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 {
			return
		}
		x := NewText(&Result{Identity: Identity{Discovery: in[0]&1 == 0, TargetName: "iqn.a"}, MaxSendData: 512}, twoTargets, uint32(in[0]&2)*64)
		ttt := uint32(pdu.ReservedTag)
		for in = in[1:]; ; {
			flags, text, rest, ok := nextRecord(in)
			if !ok {
				break
			}
			in = rest
			before := x.MaxSendData()
			r := ask(x, flags&(pdu.FlagFinal|pdu.FlagContinue), ttt, string(text))
			if r.Reject != 0 {
				ttt = pdu.ReservedTag
				continue
			}
			if uint32(len(r.Data)) > before {
				t.Fatalf("%d bytes, at most %d", len(r.Data), before)
			}
			if open := r.TTT != pdu.ReservedTag; open == (r.Flags == pdu.FlagFinal) {
				t.Fatalf("%+v", r)
			}
			ttt = r.TTT
		}
	})
}
