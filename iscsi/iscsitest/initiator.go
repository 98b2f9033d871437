package iscsitest

import (
	"encoding/binary"
	"net/netip"
	"strings"

	"spindle/iscsi/pdu"
	"spindle/reactor/ring/simring"
)

// PDU is one PDU as the initiator sees it.
type PDU struct {
	BHS  pdu.BHS
	AHS  []byte
	Data []byte
}

// Conn is an initiator's connection: it sends what it is told and checks the
// framing of what comes.
type Conn struct {
	g    *Target
	Peer *simring.Peer
	rx   []byte

	HeaderDigest, DataDigest bool
	CmdSN, ExpStatSN         uint32
	ITT                      uint32
	TSIH, CID                uint16
	ISID                     [6]byte
	lead                     *Conn // the session's first connection, which counts its CmdSN and tags
	// MaxCmdSN and ExpCmdSN are what the target said last.
	MaxCmdSN, ExpCmdSN uint32
	told               bool
	// Answered: keys of the login, as the target answered them.
	Answered map[string]string
}

// Dial connects to the portal.
func (g *Target) Dial() *Conn {
	g.T.Helper()
	return g.DialFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
}

// DialFrom connects to the portal from an address.
func (g *Target) DialFrom(from netip.Addr) *Conn {
	g.T.Helper()
	return g.dial(from, g.Portal)
}

// DialTo connects to a portal of another group.
func (g *Target) DialTo(portal netip.AddrPort) *Conn {
	g.T.Helper()
	return g.dial(netip.AddrFrom4([4]byte{127, 0, 0, 1}), portal)
}

func (g *Target) dial(from netip.Addr, portal netip.AddrPort) *Conn {
	g.T.Helper()
	p, err := g.World.DialFrom(from, portal)
	g.must(err)
	return &Conn{g: g, Peer: p, CmdSN: 1, ISID: [6]byte{0x80, 1, 2, 3, 4, 5}, Answered: map[string]string{}}
}

// DialInto connects to the portal for one more connection of c's session; Login
// has it join. The session's CmdSN and tags are c's.
func (c *Conn) DialInto(cid uint16) *Conn {
	c.g.T.Helper()
	k := c.g.Dial()
	k.lead, k.CID, k.TSIH, k.ISID = c.leader(), cid, c.TSIH, c.ISID
	return k
}

// leader is the connection that counts for the session.
func (c *Conn) leader() *Conn {
	if c.lead != nil {
		return c.lead
	}
	return c
}

// Send writes a PDU, padded and with the digests in force.
func (c *Conn) Send(b pdu.BHS, ahs, data []byte) {
	c.g.T.Helper()
	b.SetAHSLen(uint32(len(ahs)))
	b.SetDataLen(uint32(len(data)))
	c.SendRaw(c.Frame(b, ahs, data))
}

// Frame is a PDU's bytes on the wire; the header's lengths are the caller's.
func (c *Conn) Frame(b pdu.BHS, ahs, data []byte) []byte {
	w := append(append([]byte(nil), b[:pdu.HeaderLen]...), ahs...)
	if c.HeaderDigest {
		w = binary.LittleEndian.AppendUint32(w, pdu.Digest(w))
	}
	if len(data) > 0 {
		at := len(w)
		w = append(append(w, data...), pdu.PadBytes(uint32(len(data)))...)
		if c.DataDigest {
			w = binary.LittleEndian.AppendUint32(w, pdu.Digest(w[at:]))
		}
	}
	return w
}

// SendRaw writes bytes.
func (c *Conn) SendRaw(w []byte) {
	c.g.T.Helper()
	for len(w) > 0 {
		if c.Peer.WriteClosed() {
			return
		}
		n := c.Peer.Write(w)
		w = w[n:]
		if n == 0 {
			c.pull()
			c.g.Turn()
		}
	}
}

// pull takes what has arrived.
func (c *Conn) pull() {
	var buf [64 << 10]byte
	for {
		n := c.Peer.Read(buf[:])
		if n == 0 {
			return
		}
		c.rx = append(c.rx, buf[:n]...)
	}
}

// TryRecv returns the next whole PDU if it has arrived.
func (c *Conn) TryRecv() (PDU, bool) {
	c.g.T.Helper()
	c.pull()
	if len(c.rx) < pdu.HeaderLen {
		return PDU{}, false
	}
	b := pdu.BHS(c.rx[:pdu.HeaderLen:pdu.HeaderLen])
	n := pdu.HeaderLen + b.AHSLen()
	if c.HeaderDigest {
		n += pdu.DigestLen
	}
	at, dl := n, b.DataLen()
	n += pdu.Padded(dl)
	if c.DataDigest && dl > 0 {
		n += pdu.DigestLen
	}
	if uint32(len(c.rx)) < n {
		return PDU{}, false
	}
	w := c.rx[:n:n]
	c.rx = c.rx[n:]
	if c.HeaderDigest {
		if got, want := pdu.GetDigest(w[at-4:]), pdu.Digest(w[:at-4]); got != want {
			c.g.T.Fatalf("header digest %08x, want %08x", got, want)
		}
	}
	if c.DataDigest && dl > 0 {
		end := at + pdu.Padded(dl)
		if got, want := pdu.GetDigest(w[end:]), pdu.Digest(w[at:end]); got != want {
			c.g.T.Fatalf("data digest %08x, want %08x", got, want)
		}
	}
	for _, p := range w[at+dl : at+pdu.Padded(dl)] {
		if p != 0 {
			c.g.T.Fatalf("padding is not zero: %x", w[at+dl:at+pdu.Padded(dl)])
		}
	}
	if c.told && (pdu.SNLess(b.MaxCmdSN(), c.MaxCmdSN) || pdu.SNLess(b.ExpCmdSN(), c.ExpCmdSN)) {
		c.g.T.Fatalf("the window retreats from %#x..%#x to %#x..%#x", c.ExpCmdSN, c.MaxCmdSN, b.ExpCmdSN(), b.MaxCmdSN())
	}
	c.ExpCmdSN, c.MaxCmdSN, c.told = b.ExpCmdSN(), b.MaxCmdSN(), true
	return PDU{BHS: b, AHS: w[pdu.HeaderLen : pdu.HeaderLen+b.AHSLen()], Data: w[at : at+dl]}, true
}

// Recv turns the target until a PDU comes.
func (c *Conn) Recv() PDU {
	c.g.T.Helper()
	for range turnLimit {
		if p, ok := c.TryRecv(); ok {
			return p
		}
		if c.Peer.EOF() || c.Peer.Err() != nil {
			c.g.T.Fatalf("connection ended while a PDU was expected (err %v)", c.Peer.Err())
		}
		c.g.Turn()
	}
	c.g.T.Fatal("no PDU came")
	return PDU{}
}

// Expect receives a PDU of this opcode.
func (c *Conn) Expect(o pdu.Opcode) PDU {
	c.g.T.Helper()
	p := c.Recv()
	if p.BHS.Opcode() != o {
		c.g.T.Fatalf("got opcode %#02x, want %#02x: % x", p.BHS.Opcode(), o, p.BHS)
	}
	return p
}

// ExpectClosed turns the target until the connection is closed; PDUs that come
// before are dropped.
func (c *Conn) ExpectClosed() {
	c.g.T.Helper()
	c.g.Until("close", func() bool {
		for {
			if _, ok := c.TryRecv(); !ok {
				break
			}
		}
		return c.Peer.EOF() || c.Peer.Err() != nil
	})
}

// Keys encodes key=value pairs.
func Keys(kv ...string) []byte {
	var b []byte
	for _, s := range kv {
		b = append(append(b, s...), 0)
	}
	return b
}

// LoginBHS is the header of a Login Request.
func (c *Conn) LoginBHS(flags byte) pdu.BHS {
	b := make(pdu.BHS, pdu.HeaderLen)
	b.SetOpcode(pdu.LoginRequest)
	b[0] |= 0x40
	b.SetFlags(flags)
	copy(b.ISID(), c.ISID[:])
	binary.BigEndian.PutUint16(b[14:], c.TSIH)
	b.SetITT(c.ITT)
	b.SetCID(c.CID)
	b.SetCmdSN(c.leader().CmdSN)
	b.SetExpStatSN(c.ExpStatSN)
	return b
}

// LoginStatus sends one Login Request that goes for full feature phase with
// these keys and returns the status.
func (c *Conn) LoginStatus(kv ...string) uint16 {
	c.g.T.Helper()
	c.Send(c.LoginBHS(pdu.FlagTransit|1<<2|3), nil, Keys(kv...))
	p := c.Expect(pdu.LoginResponse)
	for _, s := range strings.Split(string(p.Data), "\x00") {
		if k, v, ok := strings.Cut(s, "="); ok {
			c.Answered[k] = v
		}
	}
	c.ExpStatSN = p.BHS.StatSN() + 1
	c.TSIH = p.BHS.TSIH()
	return uint16(p.BHS.LoginStatus())
}

// Login logs in to the node with these keys beside the usual ones.
func (c *Conn) Login(kv ...string) *Conn {
	c.g.T.Helper()
	if s := c.LoginStatus(append([]string{"InitiatorName=" + Initiator, "TargetName=" + Node, "SessionType=Normal"}, kv...)...); s != 0 {
		c.g.T.Fatalf("login status %04x", s)
	}
	c.HeaderDigest = c.Answered["HeaderDigest"] == "CRC32C"
	c.DataDigest = c.Answered["DataDigest"] == "CRC32C"
	return c
}

// NewITT returns a fresh initiator task tag.
func (c *Conn) NewITT() uint32 {
	q := c.leader()
	q.ITT++
	return q.ITT
}

// Request is a header with a new tag and the next CmdSN.
func (c *Conn) Request(o pdu.Opcode, flags byte) pdu.BHS {
	b := make(pdu.BHS, pdu.HeaderLen)
	b.SetOpcode(o)
	b.SetFlags(flags)
	q := c.leader()
	b.SetITT(q.NewITT())
	b.SetCmdSN(q.CmdSN)
	q.CmdSN++
	b.SetExpStatSN(c.ExpStatSN)
	return b
}

// Immediate is a header with a new tag that does not count in the window.
func (c *Conn) Immediate(o pdu.Opcode, flags byte) pdu.BHS {
	b := c.Request(o, flags)
	c.leader().CmdSN--
	b[0] |= 0x40
	return b
}

// Command is a SCSI Command: dir is pdu.FlagRead, pdu.FlagWrite or 0.
func (c *Conn) Command(lun uint16, dir byte, edtl uint32, cdb ...byte) pdu.BHS {
	b := c.Request(pdu.SCSICommand, pdu.FlagFinal|dir|pdu.AttrSimple)
	b.SetLUN(uint64(lun) << 48)
	b.SetEDTL(edtl)
	copy(b.CDB(), cdb)
	return b
}

// Read10 and Write10 are the CDBs of those commands.
func Read10(lba uint32, blocks uint16) []byte {
	return rw10(0x28, lba, blocks)
}

// Write10 is the CDB of WRITE (10).
func Write10(lba uint32, blocks uint16) []byte { return rw10(0x2a, lba, blocks) }

func rw10(op byte, lba uint32, blocks uint16) []byte {
	cdb := make([]byte, 10)
	cdb[0] = op
	binary.BigEndian.PutUint32(cdb[2:], lba)
	binary.BigEndian.PutUint16(cdb[7:], blocks)
	return cdb
}

// Result of a command.
type Result struct {
	Status   uint8
	Sense    []byte
	Data     []byte
	Flags    byte
	Residual uint32
	DataPDUs int
}

// Sense returns key, and ASC and ASCQ as one number, of fixed format sense.
func (r Result) Triple() (key byte, code uint16) {
	if len(r.Sense) < 14 {
		return 0, 0
	}
	return r.Sense[2] & 0xf, binary.BigEndian.Uint16(r.Sense[12:])
}

// Do sends a command with all of its immediate data and collects its result;
// R2Ts are answered from data.
func (c *Conn) Do(b pdu.BHS, data []byte, immediate int) Result {
	c.g.T.Helper()
	c.Send(b, nil, data[:immediate])
	return c.Finish(b.ITT(), data)
}

// Finish collects the result of the command with this tag.
func (c *Conn) Finish(itt uint32, data []byte) Result {
	c.g.T.Helper()
	var r Result
	for {
		p := c.Recv()
		if p.BHS.ITT() != itt {
			c.g.T.Fatalf("PDU of another task: % x", p.BHS)
		}
		switch p.BHS.Opcode() {
		case pdu.R2T:
			c.DataOut(p.BHS, data)
		case pdu.DataIn:
			if int(p.BHS.Offset()) != len(r.Data) || p.BHS.DataSN() != uint32(r.DataPDUs) {
				c.g.T.Fatalf("Data-In out of order: % x", p.BHS)
			}
			r.Data = append(r.Data, p.Data...)
			r.DataPDUs++
			if p.BHS.Flags()&pdu.FlagStatus != 0 {
				c.status(p.BHS)
				r.Status, r.Flags, r.Residual = p.BHS.Status(), p.BHS.Flags()&6, p.BHS.Residual()
				return r
			}
		case pdu.SCSIResponse:
			c.status(p.BHS)
			r.Status, r.Flags, r.Residual = p.BHS.Status(), p.BHS.Flags()&6, p.BHS.Residual()
			if len(p.Data) > 2 {
				r.Sense = p.Data[2:]
			}
			return r
		default:
			c.g.T.Fatalf("unexpected PDU: % x", p.BHS)
		}
	}
}

// status checks StatSN.
func (c *Conn) status(b pdu.BHS) {
	c.g.T.Helper()
	if b.StatSN() != c.ExpStatSN {
		c.g.T.Fatalf("StatSN %d, want %d", b.StatSN(), c.ExpStatSN)
	}
	c.ExpStatSN++
}

// DataOut answers an R2T from data, in PDUs of at most 8 KiB.
func (c *Conn) DataOut(r2t pdu.BHS, data []byte) {
	off, end := r2t.Offset(), r2t.Offset()+r2t.Desired()
	for sn := uint32(0); off < end; sn++ {
		n := min(end-off, 8192)
		c.Send(c.DataOutBHS(r2t.ITT(), r2t.TTT(), sn, off, off+n == end), nil, data[off:off+n])
		off += n
	}
}

// DataOutBHS is the header of a Data-Out PDU.
func (c *Conn) DataOutBHS(itt, ttt, sn, off uint32, final bool) pdu.BHS {
	b := make(pdu.BHS, pdu.HeaderLen)
	b.SetOpcode(pdu.DataOut)
	if final {
		b.SetFlags(pdu.FlagFinal)
	}
	b.SetITT(itt)
	b.SetTTT(ttt)
	b.SetExpStatSN(c.ExpStatSN)
	b.SetDataSN(sn)
	b.SetOffset(off)
	return b
}

// Discard drops what has arrived, whatever it is.
func (c *Conn) Discard() {
	c.pull()
	c.rx = c.rx[:0]
}
