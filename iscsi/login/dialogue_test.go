package login

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"spindle/iscsi/pdu"
	"spindle/iscsi/pdu/pcap"
)

var update = flag.Bool("update", false, "rewrite testdata/dialogues with what the machine says")

// TestDialogues plays the dialogues of testdata/dialogues. Its format:
//
//	== name
//	policy words of parsePolicy
//	I T C 0-1 tsih=1      request: bits, CSG-NSG, fields other than usual
//		Key=value           its text, one pair a line, without the final NUL
//	T T 0-1               response: bits, CSG-NSG
//		Key=value
//	T fail 0207 reason    failure: status
//	= result              after Done
//
// What the target says is compared with the file, byte for byte.
func TestDialogues(t *testing.T) {
	files, err := filepath.Glob("testdata/dialogues/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dialogues: %v", err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		head, cases := splitCases(string(src))
		out.WriteString(head)
		for _, c := range cases {
			name, body, _ := strings.Cut(c, "\n")
			t.Run(strings.TrimSuffix(filepath.Base(file), ".txt")+"/"+name, func(t *testing.T) {
				got := play(t, body, nil)
				out.WriteString("== " + name + "\n" + got)
				if !*update && got != body {
					t.Errorf("got:\n%s\nwant:\n%s", got, body)
				}
			})
		}
		if *update {
			if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func splitCases(src string) (head string, cases []string) {
	parts := strings.Split("\n"+src, "\n== ")
	for i := 1; i < len(parts)-1; i++ {
		parts[i] += "\n"
	}
	return strings.TrimPrefix(parts[0]+"\n", "\n"), parts[1:]
}

// play runs the requests of one dialogue and writes it anew, with the answers
// of the machine in the place of those in the file. record, when not nil, sees
// each PDU as it would travel.
func play(t *testing.T, body string, record func(fromTarget bool, b []byte)) string {
	var out strings.Builder
	policy := defaultPolicy()
	var m *Machine
	lines := strings.Split(body, "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		switch {
		case strings.HasPrefix(line, "#"):
			fmt.Fprintln(&out, line)
		case strings.HasPrefix(line, "policy"):
			fmt.Fprintln(&out, line)
			parsePolicy(t, &policy, strings.Fields(line)[1:])
		case strings.HasPrefix(line, "I"):
			fmt.Fprintln(&out, line)
			var text []byte
			for ; i+1 < len(lines) && strings.HasPrefix(lines[i+1], "\t"); i++ {
				fmt.Fprintln(&out, lines[i+1])
				text = append(append(text, lines[i+1][1:]...), 0)
			}
			if m == nil {
				m = New(fixed{policy})
			}
			b := request(t, strings.Fields(line)[1:], len(text))
			r := m.Step(b, text)
			checkReply(t, &r)
			if record != nil {
				record(false, onWire(b, text))
				h := make(pdu.BHS, pdu.HeaderLen)
				r.Encode(h)
				record(true, onWire(h, r.Data))
			}
			out.WriteString(show(&r))
			if r.Verdict == Done {
				out.WriteString(showResult(m.Result()))
			}
		}
	}
	return out.String()
}

func onWire(b pdu.BHS, data []byte) []byte {
	out := append(append([]byte(nil), b...), data...)
	return append(out, pdu.PadBytes(uint32(len(data)))...)
}

// TestDissector has Wireshark, when it is there, judge what real initiators and
// we say to each other.
func TestDissector(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Skip("no tshark")
	}
	src, err := os.ReadFile("testdata/dialogues/initiators.txt")
	if err != nil {
		t.Fatal(err)
	}
	var capture bytes.Buffer
	w := pcap.NewWriter(&capture)
	pdus := 0
	_, cases := splitCases(string(src))
	for i, c := range cases {
		_, body, _ := strings.Cut(c, "\n")
		stream := w.Stream(netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(40000+i)), netip.MustParseAddrPort("10.0.0.2:3260"))
		play(t, body, func(fromTarget bool, b []byte) {
			if pdus++; fromTarget {
				stream.FromTarget(b)
			} else {
				stream.FromInitiator(b)
			}
		})
		stream.Close()
	}
	file := filepath.Join(t.TempDir(), "login.pcap")
	if err := os.WriteFile(file, capture.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, filter string
		want         int
	}{
		{"all are login PDUs", "iscsi.opcode == 0x03 || iscsi.opcode == 0x23", pdus},
		{"nothing malformed", "iscsi.keyvalue.invalid || iscsi.opcode.invalid || _ws.malformed", 0},
	} {
		out, err := exec.Command(tshark, "-n", "-r", file, "-Y", tc.filter).Output()
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(string(out), "\n"); got != tc.want {
			t.Errorf("%s: %d frames, want %d\n%s", tc.name, got, tc.want, out)
		}
	}
}

// fixed is a Resolver with one answer.
type fixed struct{ p Policy }

func (f fixed) Resolve(id *Identity) Policy {
	if strings.HasSuffix(id.TargetName, ":missing") {
		return Policy{Status: pdu.LoginNotFound}
	}
	return f.p
}

// counting is entropy that can be foreseen.
type counting struct{ n byte }

func (c *counting) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = c.n
		c.n++
	}
	return len(p), nil
}

// users is a SecretStore.
type users map[string]Credentials

func (u users) Credentials(user, _ string) (Credentials, bool) {
	c, ok := u[user]
	return c, ok
}

var testUsers = users{
	"alice": {Secret: []byte("alice-secret-123"), MutualUser: "target", MutualSecret: []byte("target-secret-456")},
	"bob":   {Secret: []byte("bob-secret-12345")},
	"same":  {Secret: []byte("one-secret-for-both"), MutualUser: "target", MutualSecret: []byte("one-secret-for-both")},
	"empty": {},
}

func defaultPolicy() Policy {
	return Policy{Config: Config{
		PortalGroupTag: 1, HeaderDigest: DigestAllow, DataDigest: DigestAllow,
		MaxRecvData: 262144, MaxBurst: 1048576, FirstBurst: 65536, MaxOutstandingR2T: 4,
		MaxConnections: 2, Time2Wait: 2, Time2Retain: 20, ImmediateData: true,
	}}
}

func parsePolicy(t *testing.T, p *Policy, words []string) {
	c := &p.Config
	numbers := map[string]*uint32{"recv": &c.MaxRecvData, "maxburst": &c.MaxBurst, "firstburst": &c.FirstBurst,
		"wait": &c.Time2Wait, "retain": &c.Time2Retain, "conns": &c.MaxConnections}
	for _, w := range words {
		k, v, _ := strings.Cut(w, "=")
		switch k {
		case "chap":
			p.CHAP = &CHAP{Store: testUsers, Entropy: &counting{n: 1}}
		case "mutual":
			p.CHAP.Mutual = true
		case "noentropy":
			p.CHAP.Entropy = strings.NewReader("short")
		case "require":
			p.RequireAuth = true
		case "digests":
			c.HeaderDigest = map[string]Digests{"never": DigestNever, "allow": DigestAllow, "require": DigestRequire}[v]
			c.DataDigest = c.HeaderDigest
		case "rdma":
			c.RDMA = true
		case "alias":
			c.TargetAlias = v
		case "noimmediate":
			c.ImmediateData = false
		case "initialr2t":
			c.InitialR2T = true
		case "fence":
			c.TaskReporting = ResponseFence
		case "redirect":
			p.Status, p.Redirect = pdu.LoginMovedTemporarily, v
		default:
			n, err := strconv.ParseUint(v, 10, 32)
			if err != nil || numbers[k] == nil {
				t.Fatalf("policy %q", w)
			}
			*numbers[k] = uint32(n)
		}
	}
}

// request builds a Login Request's header from the words of an I line.
func request(t *testing.T, words []string, n int) pdu.BHS {
	b := make(pdu.BHS, pdu.HeaderLen)
	b.Clear(pdu.LoginRequest)
	b.SetImmediate()
	b.SetDataLen(uint32(n))
	copy(b.ISID(), []byte{0x00, 0x02, 0x3d, 0, 0, 1})
	b.SetITT(0x10)
	flags := byte(0)
	for _, w := range words {
		k, v, _ := strings.Cut(w, "=")
		num, _ := strconv.ParseUint(v, 0, 32)
		switch k {
		case "T":
			flags |= pdu.FlagTransit
		case "C":
			flags |= pdu.FlagContinue
		case "tsih":
			b.SetTSIH(uint16(num))
		case "cid":
			b.SetCID(uint16(num))
		case "isid":
			b.ISID()[5] = byte(num)
		case "version":
			b.SetVersions(byte(num), byte(num))
		case "ahs":
			b.SetAHSLen(uint32(num))
		case "datalen":
			b.SetDataLen(uint32(num))
		case "opcode":
			b.SetOpcode(pdu.Opcode(num))
		default:
			var csg, nsg byte
			if _, err := fmt.Sscanf(w, "%d-%d", &csg, &nsg); err != nil {
				t.Fatalf("request word %q", w)
			}
			flags |= csg<<2 | nsg
		}
	}
	b.SetFlags(flags)
	return b
}

func show(r *Reply) string {
	var out strings.Builder
	out.WriteString("T")
	if r.Verdict == Failed {
		fmt.Fprintf(&out, " fail %04x %s\n", uint16(r.Status), r.Reason)
	} else {
		if r.Flags&pdu.FlagTransit != 0 {
			out.WriteString(" T")
		}
		if r.Flags&pdu.FlagContinue != 0 {
			out.WriteString(" C")
		}
		fmt.Fprintf(&out, " %d-%d\n", r.Flags>>2&3, r.Flags&3)
	}
	for pair := range strings.SplitAfterSeq(string(r.Data), "\x00") {
		switch {
		case pair == "":
		case strings.HasSuffix(pair, "\x00"):
			fmt.Fprintf(&out, "\t%s\n", pair[:len(pair)-1])
		default:
			fmt.Fprintf(&out, "\t%s...\n", pair) // continued by the next PDU
		}
	}
	return out.String()
}

func showResult(r Result) string {
	return fmt.Sprintf("= %q alias %q target %q discovery %v user %q mutual %v\n"+
		"= digests %v %v send %d recv %d burst %d first %d r2t %d conns %d wait %d retain %d\n"+
		"= initialR2T %v immediate %v erl %d level %d reporting %d rdma %v unexpected %d ahs %d\n",
		r.InitiatorName, r.InitiatorAlias, r.TargetName, r.Discovery, r.CHAPUser, r.Mutual,
		r.HeaderDigest, r.DataDigest, r.MaxSendData, r.MaxRecvData, r.MaxBurst, r.FirstBurst, r.MaxOutstandingR2T,
		r.MaxConnections, r.Time2Wait, r.Time2Retain,
		r.InitialR2T, r.ImmediateData, r.ERL, r.ProtocolLevel, r.TaskReporting, r.RDMAExtensions, r.MaxUnexpectedPDUs, r.MaxAHSLength)
}

// checkReply holds a reply to what every reply must be.
func checkReply(t *testing.T, r *Reply) {
	t.Helper()
	if len(r.Data) > MaxPDUData {
		t.Fatalf("reply of %d bytes", len(r.Data))
	}
	if r.Flags&pdu.FlagTransit != 0 && r.Flags&pdu.FlagContinue != 0 {
		t.Fatal("T and C bit together")
	}
	switch r.Verdict {
	case Continue, Done:
		if r.Status != pdu.LoginSuccess || r.Reason != "" {
			t.Fatalf("status %04x %q without a failure", uint16(r.Status), r.Reason)
		}
	case Failed:
		if r.Status.Class() == 0 || r.Reason == "" {
			t.Fatalf("failure with status %04x %q", uint16(r.Status), r.Reason)
		}
	default:
		t.Fatalf("verdict %d", r.Verdict)
	}
	if done := r.Flags&pdu.FlagTransit != 0 && r.Flags&3 == pdu.StageFullFeature; done != (r.Verdict == Done) {
		t.Fatalf("flags %#x with verdict %d", r.Flags, r.Verdict)
	}
	b := make(pdu.BHS, pdu.HeaderLen)
	r.Encode(b)
	if b.Opcode() != pdu.LoginResponse || b.DataLen() != uint32(len(r.Data)) || b.LoginStatus() != r.Status {
		t.Fatalf("encoded as %x", []byte(b))
	}
}
