package dialogue

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"spindle/iscsi/pdu"
)

// bytes are what lines of data stand for.
func (p *Player) bytes(lines []string) (out []byte, err error) {
	for _, line := range lines {
		w := strings.Fields(line)
		switch {
		case line[0] == '"':
			s, err := strconv.Unquote(line)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", line, err)
			}
			out = append(out, s...)
		case w[0] == "x":
			b, err := hex.DecodeString(strings.Join(w[1:], ""))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", line, err)
			}
			out = append(out, b...)
		case w[0] == "crc":
			out = append(out, 0, 0, 0, 0)
			pdu.PutDigest(out[len(out)-4:], pdu.Digest(out[:len(out)-4]))
		case w[0] == "fill", w[0] == "count", w[0] == "repeat":
			if out, err = generate(out, w); err != nil {
				return nil, fmt.Errorf("%s: %w", line, err)
			}
		default:
			pair, err := p.pair(line)
			if err != nil {
				return nil, err
			}
			out = append(append(out, pair...), 0)
		}
	}
	return out, nil
}

// generate is `fill BYTE LEN`, `count FIRST LEN` and `repeat LEN TEXT`.
func generate(out []byte, w []string) ([]byte, error) {
	if len(w) != 3 {
		return nil, errors.New("two operands")
	}
	if w[0] == "repeat" {
		n, err := strconv.Atoi(w[1])
		s, qerr := strconv.Unquote(w[2])
		if err = errors.Join(err, qerr); err != nil || s == "" {
			return nil, fmt.Errorf("repeat LEN \"TEXT\": %w", err)
		}
		return append(out, strings.Repeat(s, n/len(s)+1)[:n]...), nil
	}
	first, err := strconv.ParseUint(w[1], 0, 8)
	n, nerr := strconv.ParseUint(w[2], 0, 24)
	if err = errors.Join(err, nerr); err != nil {
		return nil, err
	}
	for i := range n {
		v := byte(first)
		if w[0] == "count" {
			v += byte(i)
		}
		out = append(out, v)
	}
	return out, nil
}

// pair is a key=value line with its variables put in: $name for the whole value,
// or ${name} inside it; chap(user) computes CHAP_R.
func (p *Player) pair(line string) (string, error) {
	k, v, ok := strings.Cut(line, "=")
	if !ok {
		return "", fmt.Errorf("data %q: neither key=value nor a word known", line)
	}
	if secret, ok := strings.CutPrefix(v, "chap("); ok {
		r, err := p.chap(strings.TrimSuffix(secret, ")"))
		return k + "=" + r, err
	}
	if name, ok := strings.CutPrefix(v, "$"); ok && !strings.HasPrefix(v, "${") {
		v = "${" + name + "}"
	}
	for {
		a := strings.Index(v, "${")
		if a < 0 {
			return k + "=" + v, nil
		}
		end := strings.IndexByte(v[a:], '}')
		if end < 0 {
			return "", fmt.Errorf("data %q: no end of the variable", line)
		}
		s, ok := p.lookup(v[a+2 : a+end])
		if !ok {
			return "", fmt.Errorf("no variable %s", v[a:a+end+1])
		}
		v = v[:a] + s + v[a+end+1:]
	}
}

// chap is the answer to the challenge in $chap_c with the identifier in $chap_i,
// algorithm 5 (RFC 1994 §4.1).
func (p *Player) chap(secret string) (string, error) {
	if name, ok := strings.CutPrefix(secret, "$"); ok {
		secret = p.Vars[name]
	}
	id, err := p.number("$chap_i")
	if err != nil {
		return "", err
	}
	c, err := hex.DecodeString(strings.TrimPrefix(p.Vars["chap_c"], "0x"))
	if err != nil {
		return "", err
	}
	sum := md5.Sum(append(append([]byte{byte(id)}, secret...), c...))
	return "0x" + hex.EncodeToString(sum[:]), nil
}

// expect receives a PDU and compares it with a line.
func (p *Player) expect(s *step) error {
	k, err := p.cur.receive(true)
	if err != nil {
		return err
	}
	if err := p.match(s, k); err != nil {
		return fmt.Errorf("%w\n\tcame %s", err, describe(k))
	}
	return nil
}

func (p *Player) match(s *step, k packet) error {
	op, _ := findOpcode(s.words[0])
	if k.bhs.Opcode() != op {
		return fmt.Errorf("%s, want %s", opcodeName(k.bhs.Opcode()), s.words[0])
	}
	flags, flagged, tagged := byte(0), false, false
	for _, w := range s.words[1:] {
		name, want, valued := strings.Cut(w, "=")
		if !valued {
			flags, flagged = flags|flagBits[name], true
			continue
		}
		f, _ := findField(op, name)
		got := f.get(k.bhs)
		switch name {
		case "itt":
			tagged = true
		case "csg", "nsg": // part of byte 1
			n, err := p.number(want)
			if err != nil {
				return err
			}
			flags |= byte(n << f.shift)
		}
		if ok, err := p.matches(got, want); err != nil || !ok {
			return errors.Join(fmt.Errorf("%s is %#x, want %s", name, got, want), err)
		}
	}
	if flagged && k.bhs.Flags() != flags {
		return fmt.Errorf("flags %#02x, want %#02x", k.bhs.Flags(), flags)
	}
	if op == pdu.LoginResponse {
		p.cur.tsih = k.bhs.TSIH()
	}
	if want := p.tag(op); !tagged && k.bhs.ITT() != want {
		return fmt.Errorf("ITT %#x, want %#x", k.bhs.ITT(), want)
	}
	return p.matchData(s.data, k)
}

// tag is the ITT that goes without saying.
func (p *Player) tag(op pdu.Opcode) uint32 {
	if op == pdu.Reject || op == pdu.AsyncMessage {
		return pdu.ReservedTag
	}
	return p.itt
}

// matches compares a field: * is anything, ?name anything that is kept, !n
// anything else, a|b one of them.
func (p *Player) matches(got uint64, want string) (bool, error) {
	if want == "*" {
		return true, nil
	}
	if name, ok := strings.CutPrefix(want, "?"); ok {
		p.Vars[name] = strconv.FormatUint(got, 10)
		return true, nil
	}
	want, not := strings.CutPrefix(want, "!")
	for _, w := range strings.Split(want, "|") {
		n, err := p.number(w)
		if err != nil {
			return false, err
		}
		if n == got {
			return !not, nil
		}
	}
	return not, nil
}

// matchData compares a data segment with its lines: all of the bytes, or pairs
// in any order (all of them, unless a line says "..."), or one of the words
// none, header, sense and length.
func (p *Player) matchData(lines []string, k packet) error {
	if len(lines) == 0 {
		return nil
	}
	w := strings.Fields(lines[0])
	switch w[0] {
	case "none":
		if len(k.data) != 0 {
			return fmt.Errorf("%d bytes of data", len(k.data))
		}
		return nil
	case "header":
		if !bytes.Equal(k.data, p.cur.last) {
			return errors.New("the data is not the header of the PDU sent last")
		}
		return nil
	case "length":
		n, err := p.number(w[1])
		if err == nil && uint64(len(k.data)) != n {
			err = fmt.Errorf("%d bytes of data, want %d", len(k.data), n)
		}
		return err
	case "sense":
		return matchSense(w[1], k.data)
	case "x", "fill", "count":
		return p.matchBytes(lines, k.data)
	}
	if w[0][0] == '"' {
		return p.matchBytes(lines, k.data)
	}
	return p.matchText(lines, k.data)
}

// matchBytes compares bytes; in hex lines ? is any digit, ... any rest.
func (p *Player) matchBytes(lines []string, got []byte) error {
	at := 0
	for _, line := range lines {
		w := strings.Fields(line)
		if w[0] != "x" {
			want, err := p.bytes([]string{line})
			if err != nil {
				return err
			}
			if !bytes.HasPrefix(got[at:], want) {
				return fmt.Errorf("data from byte %d is not %s", at, line)
			}
			at += len(want)
			continue
		}
		for _, h := range w[1:] {
			if h == "..." {
				return nil
			}
			for ; len(h) >= 2; h = h[2:] {
				if at >= len(got) {
					return fmt.Errorf("data ends after %d bytes", at)
				}
				for i, have := range []byte(hex.EncodeToString(got[at : at+1])) {
					if h[i] != '?' && h[i] != have {
						return fmt.Errorf("byte %d is %02x, want %s", at, got[at], h[:2])
					}
				}
				at++
			}
		}
	}
	if at != len(got) {
		return fmt.Errorf("%d bytes of data, want %d", len(got), at)
	}
	return nil
}

func (p *Player) matchText(lines []string, data []byte) error {
	open := false
	pairs := strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
	for _, line := range lines {
		if line == "..." {
			open = true
			continue
		}
		key, want, _ := strings.Cut(line, "=")
		at := -1
		for i, pair := range pairs {
			if strings.HasPrefix(pair, key+"=") {
				at = i
				break
			}
		}
		if at < 0 {
			return fmt.Errorf("no %s in the answer", key)
		}
		got := pairs[at][len(key)+1:]
		pairs = append(pairs[:at], pairs[at+1:]...)
		if name, ok := strings.CutPrefix(want, "?"); ok {
			p.Vars[name] = got
			continue
		}
		pair, err := p.pair(line)
		if err != nil {
			return err
		}
		if want != "*" && pair != key+"="+got {
			return fmt.Errorf("%s=%s, want %s", key, got, pair)
		}
	}
	if !open && len(pairs) > 0 && (len(pairs) > 1 || pairs[0] != "") {
		return fmt.Errorf("also answered %q", pairs)
	}
	return nil
}

// matchSense compares sense data with KEY/ASCASCQ, as 5/2400, or one of several. It follows its
// length in a response (RFC 7143 §11.4.7.1), in fixed or descriptor format
// (SPC-5 §4.4).
func matchSense(want string, data []byte) error {
	if len(data) < 2+14 && (len(data) < 2+8 || data[2]&0x7e != 0x72) {
		return fmt.Errorf("%d bytes are no sense data", len(data))
	}
	s := data[2:]
	key, asc := s[2]&15, s[12:14]
	if s[0]&0x7e == 0x72 {
		key, asc = s[1]&15, s[2:4]
	}
	got := fmt.Sprintf("%x/%02x%02x", key, asc[0], asc[1])
	for _, w := range strings.Split(want, "|") {
		if w == got {
			return nil
		}
	}
	return fmt.Errorf("sense %s, want %s", got, want)
}
