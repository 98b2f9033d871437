package dialogue

import (
	"fmt"
	"slices"
	"strings"

	"spindle/iscsi/pdu"
)

// Script is a parsed dialogue.
type Script struct {
	Name string
	// MalformedReply is why a dissector may find fault with what is answered.
	MalformedReply string
	// Needs are the variables that must be set for the script to make sense.
	Needs []string
	steps []step
}

// step is a line of a script and the indented lines under it.
type step struct {
	line  int
	verb  string
	words []string
	data  []string
	// malformed is why a dissector may find fault with what is sent; "" where the
	// PDU is well formed.
	malformed string
}

// verbs and whether lines of data may follow.
var verbs = map[string]bool{
	">": true, "<": true, "raw": true, "login": true, "discover": true,
	"conn": false, "ready": false, "alive": false, "logout": false, "silence": false,
	"close": false, "expect-close": false, "wait": false, "set": false,
}

// Parse reads a script.
func Parse(name, text string) (*Script, error) {
	s := &Script{Name: name}
	malformed := ""
	for i, line := range strings.Split(text, "\n") {
		bad := func(format string, args ...any) error {
			return fmt.Errorf("%s:%d: %s", name, i+1, fmt.Sprintf(format, args...))
		}
		bare := strings.TrimSpace(line)
		switch {
		case bare == "" || bare[0] == '#':
			continue
		case line[0] == '\t' || line[0] == ' ':
			if len(s.steps) == 0 || !verbs[s.steps[len(s.steps)-1].verb] {
				return nil, bad("data under nothing that takes data")
			}
			last := &s.steps[len(s.steps)-1]
			last.data = append(last.data, bare)
			continue
		}
		words := strings.Fields(line)
		switch verb := words[0]; verb {
		case "malformed:":
			malformed = strings.Join(words[1:], " ")
		case "malformed-reply:":
			s.MalformedReply = strings.Join(words[1:], " ")
		case "needs:":
			s.Needs = append(s.Needs, words[1:]...)
		default:
			if _, ok := verbs[verb]; !ok {
				return nil, bad("unknown verb %q", verb)
			}
			st := step{line: i + 1, verb: verb, words: words[1:], malformed: malformed}
			malformed = ""
			if err := st.check(); err != nil {
				return nil, bad("%v", err)
			}
			s.steps = append(s.steps, st)
		}
	}
	if len(s.steps) == 0 {
		return nil, fmt.Errorf("%s: no steps", name)
	}
	return s, nil
}

// check finds the mistakes that need no variables.
func (s *step) check() error {
	if s.malformed != "" && s.verb != ">" && s.verb != "raw" {
		return fmt.Errorf("malformed: above a step that sends no PDU of its own")
	}
	if s.verb != ">" && s.verb != "<" {
		return nil
	}
	if len(s.words) == 0 {
		return fmt.Errorf("%s what?", s.verb)
	}
	op, ok := findOpcode(s.words[0])
	if !ok {
		return fmt.Errorf("unknown PDU %q", s.words[0])
	}
	for _, w := range s.words[1:] {
		k, _, valued := strings.Cut(w, "=")
		_, field := findField(op, k)
		switch {
		case valued && (field || slices.Contains(framing, k)):
		case !valued && flagBits[k] != 0, w == "I":
		default:
			return fmt.Errorf("PDU %s has no %q", s.words[0], w)
		}
	}
	return nil
}

// framing are the words of a sent PDU that are no field of its header.
var framing = []string{"cdb", "ahs", "cut", "break"}

// opcodes by the names of RFC 7143 §11.
var opcodes = []struct {
	name string
	op   pdu.Opcode
}{
	{"nop-out", pdu.NopOut}, {"scsi", pdu.SCSICommand}, {"tmf", pdu.TMFRequest}, {"login", pdu.LoginRequest},
	{"text", pdu.TextRequest}, {"data-out", pdu.DataOut}, {"logout", pdu.LogoutReq}, {"snack", pdu.SNACK},
	{"nop-in", pdu.NopIn}, {"scsi-response", pdu.SCSIResponse}, {"tmf-response", pdu.TMFResponse},
	{"login-response", pdu.LoginResponse}, {"text-response", pdu.TextResponse}, {"data-in", pdu.DataIn},
	{"logout-response", pdu.LogoutResp}, {"r2t", pdu.R2T}, {"async", pdu.AsyncMessage}, {"reject", pdu.Reject},
}

func findOpcode(name string) (pdu.Opcode, bool) {
	for _, o := range opcodes {
		if o.name == name {
			return o.op, true
		}
	}
	return 0, false
}

// opcodeName is the name of o.
func opcodeName(o pdu.Opcode) string {
	for _, k := range opcodes {
		if k.op == o {
			return k.name
		}
	}
	return fmt.Sprintf("opcode %#02x", uint8(o))
}

// flagBits of byte 1; I, of byte 0, is apart.
var flagBits = map[string]byte{
	"F": pdu.FlagFinal, "T": pdu.FlagTransit, "C": pdu.FlagContinue, "R": pdu.FlagRead, "W": pdu.FlagWrite,
	"A": pdu.FlagAck, "O": pdu.FlagOverflow, "U": pdu.FlagUnderfl, "S": pdu.FlagStatus,
	"o": pdu.FlagBidiOver, "u": pdu.FlagBidiUnd,
}

// field is a part of the header: size bytes at off, of which mask<<shift counts.
type field struct {
	off, size, shift int
	mask             uint64
}

func whole(off, size int) field { return field{off, size, 0, 1<<(8*size-1)<<1 - 1} }

// fields common to all PDUs that have them.
var fields = map[string]field{
	"opcode": {0, 1, 0, 0x3f}, "flags": whole(1, 1), "b2": whole(2, 1), "b3": whole(3, 1),
	"ahslen": whole(4, 1), "datalen": whole(5, 3), "lun": whole(8, 2), "lun8": whole(8, 8),
	"itt": whole(16, 4), "ttt": whole(20, 4), "cmdsn": whole(24, 4), "statsn": whole(24, 4),
	"expstatsn": whole(28, 4), "expcmdsn": whole(28, 4), "maxcmdsn": whole(32, 4),
	"datasn": whole(36, 4), "offset": whole(40, 4), "length": whole(44, 4), "residual": whole(44, 4),
	"status": whole(3, 1), "response": whole(2, 1), "cid": whole(20, 2),
}

// special fields of a PDU come before the common ones.
var special = map[pdu.Opcode]map[string]field{
	pdu.SCSICommand:   {"edtl": whole(20, 4), "attr": {1, 1, 0, pdu.AttrMask}},
	pdu.TMFRequest:    {"function": {1, 1, 0, 0x7f}, "ref": whole(20, 4), "refcmdsn": whole(32, 4)},
	pdu.LoginRequest:  loginFields,
	pdu.LoginResponse: loginFields,
	pdu.LogoutReq:     {"reason": {1, 1, 0, 0x7f}},
	pdu.LogoutResp:    {"wait": whole(40, 2), "retain": whole(42, 2)},
	pdu.Reject:        {"reason": whole(2, 1)},
	pdu.R2T:           {"r2tsn": whole(36, 4)},
	pdu.AsyncMessage:  {"event": whole(36, 1)},
	pdu.SCSIResponse:  {"expdatasn": whole(36, 4)},
	pdu.SNACK:         {"type": {1, 1, 0, 15}, "begrun": whole(40, 4), "runlength": whole(44, 4)},
}

var loginFields = map[string]field{
	"csg": {1, 1, 2, 3}, "nsg": {1, 1, 0, 3}, "max": whole(2, 1), "min": whole(3, 1),
	"isid": whole(8, 6), "tsih": whole(14, 2), "status": whole(36, 2), "class": whole(36, 1),
}

func findField(op pdu.Opcode, name string) (field, bool) {
	if f, ok := special[op][name]; ok {
		return f, true
	}
	f, ok := fields[name]
	return f, ok
}

func (f field) get(b pdu.BHS) (v uint64) {
	for _, c := range b[f.off : f.off+f.size] {
		v = v<<8 | uint64(c)
	}
	return v >> f.shift & f.mask
}

func (f field) set(b pdu.BHS, v uint64) {
	w := field{f.off, f.size, 0, 1<<63<<1 - 1}
	all := w.get(b)&^(f.mask<<f.shift) | (v & f.mask << f.shift)
	for i := f.size - 1; i >= 0; i-- {
		b[f.off+i] = byte(all)
		all >>= 8
	}
}
