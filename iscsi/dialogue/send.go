package dialogue

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"spindle/iscsi/pdu"
)

// number is the value of an expression: terms joined by + and -, each a number
// or $name.
func (p *Player) number(expr string) (uint64, error) {
	var sum uint64
	for sign := uint64(1); ; {
		end := strings.IndexAny(expr, "+-")
		term := expr
		if end >= 0 {
			term = expr[:end]
		}
		if name, ok := strings.CutPrefix(term, "$"); ok {
			v, ok := p.lookup(name)
			if !ok {
				return 0, fmt.Errorf("no variable %s", term)
			}
			term = v
		}
		n, err := strconv.ParseUint(term, 0, 64)
		if err != nil {
			return 0, err
		}
		sum += sign * n
		if end < 0 {
			return sum, nil
		}
		if sign = 1; expr[end] == '-' {
			sign = ^uint64(0)
		}
		expr = expr[end+1:]
	}
}

// lookup finds a variable; those of the current connection have names of their own.
func (p *Player) lookup(name string) (string, bool) {
	u := func(n uint32) (string, bool) { return strconv.FormatUint(uint64(n), 10), true }
	switch name {
	case "cmdsn":
		return u(p.cur.cmdSN)
	case "statsn":
		return u(p.cur.expStatSN)
	case "maxcmdsn":
		return u(p.cur.maxCmdSN)
	case "tsih":
		return u(uint32(p.cur.tsih))
	case "itt":
		return u(p.itt)
	}
	v, ok := p.Vars[name]
	return v, ok
}

// set is `set NAME=EXPR`; cmdsn, statsn and the digests are the connection's.
func (p *Player) set(s *step) error {
	for _, w := range s.words {
		k, expr, _ := strings.Cut(w, "=")
		n, err := p.number(expr)
		if err != nil {
			return err
		}
		switch k {
		case "cmdsn":
			p.cur.cmdSN = uint32(n)
		case "statsn":
			p.cur.expStatSN = uint32(n)
		case "headerdigest":
			p.cur.headerDigest = n != 0
		case "datadigest":
			p.cur.dataDigest = n != 0
		default:
			p.Vars[k] = strconv.FormatUint(n, 10)
		}
	}
	return nil
}

// counts tells whether a PDU has a CmdSN.
func counts(o pdu.Opcode) bool { return o != pdu.DataOut && o != pdu.SNACK }

// send builds and sends the PDU of a line.
func (p *Player) send(s *step) error {
	c := p.cur
	op, _ := findOpcode(s.words[0])
	b := make(pdu.BHS, pdu.HeaderLen)
	b.SetOpcode(op)
	p.defaults(op, b)
	data, err := p.bytes(s.data)
	if err != nil {
		return err
	}
	var ahs []byte
	cut, broken := -1, ""
	b.SetDataLen(uint32(len(data)))
	for _, w := range s.words[1:] {
		k, v, valued := strings.Cut(w, "=")
		switch {
		case w == "I":
			b.SetImmediate()
		case !valued:
			b.SetFlags(b.Flags() | flagBits[k])
		case k == "cdb":
			cdb, err := hex.DecodeString(v)
			if err != nil || len(cdb) > 260 {
				return fmt.Errorf("cdb %q", v)
			}
			if copy(b.CDB(), cdb); len(cdb) > 16 {
				ahs = pdu.AppendExtCDB(ahs, cdb)
			}
			b.SetAHSLen(uint32(len(ahs)))
		case k == "ahs":
			if ahs, err = hex.DecodeString(v); err != nil {
				return err
			}
			b.SetAHSLen(uint32(len(ahs)))
		case k == "cut":
			if cut, err = strconv.Atoi(v); err != nil {
				return err
			}
		case k == "break":
			broken = v
		default:
			n, err := p.number(v)
			if err != nil {
				return err
			}
			f, _ := findField(op, k)
			f.set(b, n)
		}
	}
	if b.ITT() != pdu.ReservedTag && op != pdu.DataOut {
		p.itt = b.ITT()
	}
	if counts(op) && !b.Immediate() && b.CmdSN() == c.cmdSN {
		c.cmdSN++
	}
	w, err := c.frame(b, ahs, data, broken)
	if err != nil {
		return err
	}
	c.last = b
	c.snacked = c.snacked || op == pdu.SNACK
	if cut >= 0 && cut < len(w) {
		w = w[:cut]
	}
	return c.write(w)
}

// defaults are what a line need not say.
func (p *Player) defaults(op pdu.Opcode, b pdu.BHS) {
	c := p.cur
	b.SetITT(p.itt + 1)
	if counts(op) {
		b.SetCmdSN(c.cmdSN)
	}
	b.SetExpStatSN(c.expStatSN)
	switch op {
	case pdu.SCSICommand:
		b.SetFlags(pdu.AttrSimple)
	case pdu.LoginRequest:
		b.SetImmediate()
		copy(b.ISID(), []byte{0x80, 1, 2, 3, 4, 5}) // RFC 7143 §11.12.5: T=2, random
		if c.last != nil && c.last.Opcode() == pdu.LoginRequest {
			b.SetITT(c.last.ITT()) // one login is one task
		}
	case pdu.NopOut, pdu.TextRequest:
		b.SetTTT(pdu.ReservedTag)
	case pdu.DataOut:
		b.SetITT(p.itt)
		b.SetTTT(pdu.ReservedTag)
	case pdu.SNACK:
		b.SetITT(pdu.ReservedTag)
		b.SetTTT(pdu.ReservedTag)
	}
}

// frame is a PDU on the wire; broken names the digest to spoil.
func (c *conn) frame(b pdu.BHS, ahs, data []byte, broken string) ([]byte, error) {
	spoil := func(which string, have bool) (uint32, error) {
		switch {
		case broken != which:
			return 0, nil
		case !have:
			return 0, errors.New("no " + which + " digest to break")
		}
		return 1, nil
	}
	w := append(append([]byte(nil), b...), ahs...)
	x, err := spoil("header", c.headerDigest)
	if err != nil {
		return nil, err
	}
	if c.headerDigest {
		w = append(w, 0, 0, 0, 0)
		pdu.PutDigest(w[len(w)-4:], pdu.Digest(w[:len(w)-4])^x)
	}
	if x, err = spoil("data", c.dataDigest && len(data) > 0); err != nil {
		return nil, err
	}
	if len(data) > 0 {
		at := len(w)
		w = append(append(w, data...), pdu.PadBytes(uint32(len(data)))...)
		if c.dataDigest {
			w = append(w, 0, 0, 0, 0)
			pdu.PutDigest(w[len(w)-4:], pdu.Digest(w[at:len(w)-4])^x)
		}
	}
	return w, nil
}

// raw sends bytes as they are.
func (p *Player) raw(s *step) error {
	b, err := p.bytes(s.data)
	if err != nil {
		return err
	}
	if len(s.words) > 0 {
		h, err := hex.DecodeString(strings.Join(s.words, ""))
		if err != nil {
			return err
		}
		b = append(h, b...)
	}
	return p.cur.write(b)
}

// login goes to full feature phase with these keys beside the usual ones.
func (p *Player) login(s *step, kv ...string) error {
	c := p.cur
	st := *s
	st.data = append([]string{"InitiatorName=" + p.Vars["initiator"]}, kv...)
	st.data = append(st.data, s.data...)
	if !slices.ContainsFunc(s.data, func(l string) bool { return strings.HasPrefix(l, pdu.KeyMaxRecvData) }) {
		st.data = append(st.data, pdu.KeyMaxRecvData+"=8192") // the default, in words: LIO knows none
	}
	st.words = append([]string{"login", "T", "csg=1", "nsg=3"}, s.words...)
	said := st.data
	var header, data bool // digests, from full feature phase on
	for range 4 {
		if err := p.send(&st); err != nil {
			return err
		}
		k, err := c.receive(true)
		switch {
		case err != nil:
			return err
		case k.bhs.Opcode() != pdu.LoginResponse || k.bhs.LoginStatus() != 0:
			return fmt.Errorf("login failed: %s", describe(k))
		}
		for t := pdu.ParseText(k.data); t.Next(); {
			switch on := string(t.Value()) == pdu.ValueCRC32C; string(t.Key()) {
			case pdu.KeyHeaderDigest:
				header = on
			case pdu.KeyDataDigest:
				data = on
			}
		}
		if k.bhs.Final() {
			c.tsih, c.headerDigest, c.dataDigest = k.bhs.TSIH(), header, data
			return nil
		}
		st.data = agree(k.data, said) // it has something to say: hear it out
		said = append(said, st.data...)
	}
	return errors.New("no end to the login")
}

// agree answers the keys that a target brings up, which may not leave the stage
// before: with what it says, where that is not more than a script expects of a
// login that is silent on it.
func agree(text []byte, said []string) (answers []string) {
	for t := pdu.ParseText(text); t.Next(); {
		key, value := string(t.Key()), string(t.Value())
		switch key {
		case pdu.KeyTargetAlias, pdu.KeyTargetAddress, pdu.KeyTargetPortalGroupTag, pdu.KeyMaxRecvData:
			continue // declared
		case pdu.KeyHeaderDigest, pdu.KeyDataDigest:
			value = pdu.ValueNone
		case pdu.KeyErrorRecoveryLevel:
			value = "0"
		case pdu.KeyMaxConnections, pdu.KeyMaxOutstandingR2T:
			value = "1"
		}
		if !slices.ContainsFunc(said, func(s string) bool { return strings.HasPrefix(s, key+"=") }) {
			answers = append(answers, key+"="+value)
		}
	}
	return answers
}

// run plays a line that is not in the script.
func (p *Player) run(line string, data ...string) error {
	w := strings.Fields(line)
	s := step{verb: w[0], words: w[1:], data: data}
	if err := p.step(&s); err != nil {
		return fmt.Errorf("%s: %w", line, err)
	}
	return nil
}

// ready takes the unit attentions that a new nexus has for $lun.
func (p *Player) ready() error {
	for range 5 {
		if err := p.run("> scsi F lun=$lun cdb=00"); err != nil {
			return err
		}
		k, err := p.cur.receive(true)
		switch {
		case err != nil:
			return err
		case k.bhs.Opcode() != pdu.SCSIResponse:
			return fmt.Errorf("came %s", describe(k))
		case k.bhs.Status() == 0:
			return nil
		}
	}
	return errors.New("the unit does not become ready")
}

// alive wants the echo of a ping as the next PDU.
func (p *Player) alive() error {
	if err := p.run("> nop-out I F", `"alive"`); err != nil {
		return err
	}
	return p.run("< nop-in F ttt=0xffffffff", `"alive"`)
}

func (p *Player) logout() error {
	for _, line := range []string{"> logout I F reason=0", "< logout-response F response=0", "expect-close silent"} {
		if err := p.run(line); err != nil {
			return err
		}
	}
	return nil
}
