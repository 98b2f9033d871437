package dialogue

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"spindle/iscsi/pdu"
	"spindle/iscsi/pdu/pcap"
)

// ErrQuiet is what a Link reads when nothing comes.
var ErrQuiet = errors.New("nothing came")

// Link is a connection to a target.
type Link interface {
	// Write sends b whole; io.EOF once the target has closed.
	Write(b []byte) error
	// Read returns what has come, at least a byte. With nothing, it waits: long
	// when something has to come, else as long as it takes to believe that
	// nothing does. Then ErrQuiet; io.EOF once the target has closed.
	Read(hopeful bool) ([]byte, error)
	Close()
}

// Player plays scripts against one target.
type Player struct {
	Dial func() (Link, error)
	Wait func(time.Duration)
	// Vars are what scripts call $name: target, initiator and lun at least.
	Vars map[string]string
	// Capture, when not nil, takes all that is said, from port Port on.
	Capture *pcap.Writer
	Port    uint16
	// Frames tells which step each frame of Capture is of, by its number.
	Frames map[int]Frame

	conns []*conn
	cur   *conn
	itt   uint32
}

// Frame is where a frame of a capture comes from.
type Frame struct {
	Script    *Script
	Line      int
	Malformed string // why a dissector may find fault with it, when it was sent
}

// conn is one connection of a script.
type conn struct {
	name   string
	link   Link
	stream *pcap.Stream
	rx     []byte
	ended  bool

	headerDigest, dataDigest bool
	cmdSN, expStatSN         uint32
	statKnown                bool // expStatSN is the target's
	snacked                  bool // has asked for PDUs again: StatSNs may repeat
	expCmdSN, maxCmdSN       uint32
	told                     bool
	tsih                     uint16
	last                     pdu.BHS // sent
}

// packet is a received PDU.
type packet struct {
	bhs  pdu.BHS
	data []byte
}

// Departure is where a target did something else than a script says.
type Departure struct {
	Script, Step string
	Line         int
	Err          error
}

func (d *Departure) Error() string {
	return fmt.Sprintf("%s:%d: %s: %v", d.Script, d.Line, d.Step, d.Err)
}

func (d *Departure) Unwrap() error { return d.Err }

// Play plays a script. The error is a Departure.
func (p *Player) Play(s *Script) error {
	vars := p.Vars
	p.Vars = make(map[string]string, len(vars)+8)
	defer func() {
		for _, c := range p.conns {
			p.hangUp(c)
		}
		p.Vars, p.conns, p.cur, p.itt = vars, nil, nil, 0
	}()
	for k, v := range vars { //spindle:ordered a copy of a map
		p.Vars[k] = v
	}
	for i := range s.steps {
		st := &s.steps[i]
		if err := p.captured(s, st); err != nil {
			return &Departure{s.Name, strings.Join(append([]string{st.verb}, st.words...), " "), st.line, err}
		}
	}
	return nil
}

// captured plays a step and notes which frames of the capture are of it.
func (p *Player) captured(s *Script, st *step) error {
	if p.Capture == nil {
		return p.step(st)
	}
	n := p.Capture.Frames()
	err := p.step(st)
	for n < p.Capture.Frames() {
		n++
		p.Frames[n] = Frame{s, st.line, st.malformed}
	}
	return err
}

func (p *Player) hangUp(c *conn) {
	if c.link != nil {
		c.link.Close()
		c.link = nil
	}
	if c.stream != nil {
		c.stream.Close()
	}
}

func (p *Player) step(s *step) error {
	if s.verb == "conn" {
		return p.connect(s.words[0])
	}
	if p.cur == nil {
		if err := p.connect("main"); err != nil {
			return err
		}
	}
	c := p.cur
	switch s.verb {
	case ">":
		return p.send(s)
	case "<":
		return p.expect(s)
	case "raw":
		return p.raw(s)
	case "login":
		return p.login(s, "TargetName="+p.Vars["target"], "SessionType=Normal")
	case "discover":
		return p.login(s, "SessionType=Discovery")
	case "ready":
		return p.ready()
	case "alive":
		return p.alive()
	case "logout":
		return p.logout()
	case "close":
		p.hangUp(c)
		return nil
	case "expect-close":
		return p.expectClose(c, len(s.words) > 0 && s.words[0] == "silent")
	case "silence":
		return p.silence(c)
	case "wait":
		d, err := time.ParseDuration(s.words[0])
		if err == nil {
			p.Wait(d)
		}
		return err
	default:
		return p.set(s)
	}
}

// connect makes the connection of that name current, a new one if it is not there.
func (p *Player) connect(name string) error {
	for _, c := range p.conns {
		if c.name == name {
			p.cur = c
			return nil
		}
	}
	l, err := p.Dial()
	if err != nil {
		return err
	}
	c := &conn{name: name, link: l, cmdSN: 1}
	if p.Capture != nil {
		c.stream = p.Capture.Stream(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), p.Port),
			netip.MustParseAddrPort("10.0.0.2:3260"))
		p.Port++
	}
	p.conns, p.cur = append(p.conns, c), c
	return nil
}

// write sends bytes. That the target has closed is for the next expectation to find.
func (c *conn) write(b []byte) error {
	if c.link == nil {
		return errors.New("the script has closed this connection")
	}
	if c.stream != nil {
		c.stream.FromInitiator(b)
	}
	if err := c.link.Write(b); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// receive takes one PDU.
func (c *conn) receive(hopeful bool) (packet, error) {
	for {
		if k, n, err := c.parse(); n > 0 || err != nil {
			return k, err
		}
		if c.link == nil {
			return packet{}, errors.New("the script has closed this connection")
		}
		b, err := c.link.Read(hopeful)
		if err != nil {
			if len(c.rx) > 0 {
				return packet{}, fmt.Errorf("%w after %d bytes of a PDU", err, len(c.rx))
			}
			return packet{}, err
		}
		if c.stream != nil {
			c.stream.FromTarget(b)
		}
		c.rx = append(c.rx, b...)
	}
}

// parse takes a PDU off the received bytes, checks its framing, and keeps the
// sequence numbers; 0 when it is not whole.
func (c *conn) parse() (packet, uint32, error) {
	if len(c.rx) < pdu.HeaderLen {
		return packet{}, 0, nil
	}
	b := pdu.BHS(c.rx[:pdu.HeaderLen:pdu.HeaderLen])
	n := pdu.HeaderLen + b.AHSLen()
	if c.headerDigest {
		n += pdu.DigestLen
	}
	at, dl := n, b.DataLen()
	end := at + pdu.Padded(dl)
	n = end
	if c.dataDigest && dl > 0 {
		n += pdu.DigestLen
	}
	if uint32(len(c.rx)) < n {
		return packet{}, 0, nil
	}
	w := c.rx[:n:n]
	c.rx = c.rx[n:]
	if c.headerDigest && pdu.GetDigest(w[at-4:]) != pdu.Digest(w[:at-4]) {
		return packet{}, n, errors.New("wrong header digest")
	}
	if c.dataDigest && dl > 0 && pdu.GetDigest(w[end:]) != pdu.Digest(w[at:end]) {
		return packet{}, n, errors.New("wrong data digest")
	}
	for _, v := range w[at+dl : end] {
		if v != 0 {
			return packet{}, n, errors.New("padding is not zero")
		}
	}
	return packet{b, w[at : at+dl]}, n, c.numbers(b)
}

// numbers holds a PDU's StatSN, ExpCmdSN and MaxCmdSN to RFC 7143 §4.2.2.
func (c *conn) numbers(b pdu.BHS) error {
	if b.Opcode() == pdu.LoginResponse && b.LoginStatus().Class() != 0 {
		return nil // RFC 7143 §11.13.5: no other field means anything
	}
	if c.told && (pdu.SNLess(b.MaxCmdSN(), c.maxCmdSN) || pdu.SNLess(b.ExpCmdSN(), c.expCmdSN)) {
		return fmt.Errorf("the window retreats from %d..%d to %d..%d", c.expCmdSN, c.maxCmdSN, b.ExpCmdSN(), b.MaxCmdSN())
	}
	c.expCmdSN, c.maxCmdSN, c.told = b.ExpCmdSN(), b.MaxCmdSN(), true
	switch o := b.Opcode(); {
	case o == pdu.R2T, o == pdu.NopIn && b.ITT() == pdu.ReservedTag:
		if c.statKnown && b.StatSN() != c.expStatSN { // it shows the next one
			return fmt.Errorf("StatSN %d, the next is %d", b.StatSN(), c.expStatSN)
		}
		return nil
	case o == pdu.DataIn && b.Flags()&pdu.FlagStatus == 0:
		return nil
	case c.snacked && pdu.SNLess(b.StatSN(), c.expStatSN):
		return nil
	case c.statKnown && b.StatSN() != c.expStatSN:
		return fmt.Errorf("StatSN %d, want %d", b.StatSN(), c.expStatSN)
	}
	c.expStatSN, c.statKnown = b.StatSN()+1, true
	return nil
}

// expectClose wants the end of the connection; silent: with no PDU before it.
func (p *Player) expectClose(c *conn, silent bool) error {
	for {
		k, err := c.receive(true)
		switch {
		case errors.Is(err, io.EOF):
			c.ended = true
			return nil
		case err != nil:
			return err
		case silent:
			return fmt.Errorf("instead came %s", describe(k))
		}
	}
}

// silence wants nothing to come.
func (p *Player) silence(c *conn) error {
	k, err := c.receive(false)
	switch {
	case errors.Is(err, ErrQuiet):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("there came %s", describe(k))
}

func describe(k packet) string {
	return fmt.Sprintf("%s % x | %d bytes %q", opcodeName(k.bhs.Opcode()), []byte(k.bhs), len(k.data), k.data[:min(len(k.data), 256)])
}
