package rpc

import (
	"errors"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// kind is the type of a JSON value.
type kind uint8

const (
	kindNull kind = iota
	kindBool
	kindNumber
	kindString
	kindArray
	kindObject
)

// value is one JSON value. Numbers keep their text, so that no integer loses
// digits; objects keep the order and the duplicates of their members, because
// a duplicate is an error that each method answers in its own way.
type value struct {
	kind  kind
	text  string   // of a string (decoded) or a number (as written)
	bool  bool     // of a boolean
	keys  []string // of an object, one for each of items
	items []value  // of an array or an object
}

// get returns the member of an object, or nil.
func (v *value) get(name string) *value {
	for i, k := range v.keys {
		if k == name {
			return &v.items[i]
		}
	}
	return nil
}

// What parse finds wrong. errIncomplete is not an error of the peer's: the
// value has not arrived whole.
var (
	errIncomplete = errors.New("incomplete JSON value")
	errSyntax     = errors.New("malformed JSON")
	errDepth      = errors.New("JSON nested too deeply")
	errValues     = errors.New("too many JSON values")
)

// parser reads one value from the front of in. JSON texts on the socket follow
// each other without a delimiter, so the parser itself finds where one ends.
type parser struct {
	in        []byte
	at        int
	values    int
	unlimited bool // any number of values
}

// parse reads the first value of in and returns it with the number of bytes it
// and the white space before it take. A number at the very end of in is
// incomplete: its next digit may be on its way.
func parse(in []byte) (value, int, error) {
	p := parser{in: in}
	v, err := p.value(0)
	return v, p.at, err
}

func (p *parser) space() {
	for p.at < len(p.in) {
		switch p.in[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

// peek returns the next byte that is not white space.
func (p *parser) peek() (byte, error) {
	p.space()
	if p.at == len(p.in) {
		return 0, errIncomplete
	}
	return p.in[p.at], nil
}

func (p *parser) value(depth int) (value, error) {
	c, err := p.peek()
	if err != nil {
		return value{}, err
	}
	if p.values++; p.values > MaxValues && !p.unlimited {
		return value{}, errValues
	}
	switch {
	case c == '{' || c == '[':
		if depth == MaxDepth {
			return value{}, errDepth
		}
		p.at++
		if c == '{' {
			return p.object(depth + 1)
		}
		return p.array(depth + 1)
	case c == '"':
		s, err := p.string()
		return value{kind: kindString, text: s}, err
	case c == '-' || c >= '0' && c <= '9':
		s, err := p.number()
		return value{kind: kindNumber, text: s}, err
	case c == 't':
		return value{kind: kindBool, bool: true}, p.word("true")
	case c == 'f':
		return value{kind: kindBool}, p.word("false")
	case c == 'n':
		return value{}, p.word("null")
	}
	return value{}, errSyntax
}

// word consumes a literal name.
func (p *parser) word(w string) error {
	for i := 0; i < len(w); i++ {
		if p.at+i == len(p.in) {
			return errIncomplete
		}
		if p.in[p.at+i] != w[i] {
			return errSyntax
		}
	}
	p.at += len(w)
	return nil
}

func (p *parser) array(depth int) (value, error) {
	v := value{kind: kindArray}
	for first := true; ; first = false {
		done, err := p.next(']', first)
		if done || err != nil {
			return v, err
		}
		item, err := p.value(depth)
		if err != nil {
			return value{}, err
		}
		v.items = append(v.items, item)
	}
}

func (p *parser) object(depth int) (value, error) {
	v := value{kind: kindObject}
	for first := true; ; first = false {
		done, err := p.next('}', first)
		if done || err != nil {
			return v, err
		}
		c, err := p.peek()
		if err != nil {
			return value{}, err
		}
		if c != '"' {
			return value{}, errSyntax
		}
		if p.values++; p.values > MaxValues && !p.unlimited {
			return value{}, errValues
		}
		key, err := p.string()
		if err != nil {
			return value{}, err
		}
		if c, err = p.peek(); err != nil {
			return value{}, err
		}
		if c != ':' {
			return value{}, errSyntax
		}
		p.at++
		item, err := p.value(depth)
		if err != nil {
			return value{}, err
		}
		v.keys = append(v.keys, key)
		v.items = append(v.items, item)
	}
}

// next consumes what stands before the next element: the closing byte, or the
// comma that every element but the first needs.
func (p *parser) next(end byte, first bool) (done bool, err error) {
	c, err := p.peek()
	if err != nil {
		return false, err
	}
	if c == end {
		p.at++
		p.values++ // the end counts as a value, as it does in SPDK's limit
		return true, nil
	}
	if first {
		return false, nil
	}
	if c != ',' {
		return false, errSyntax
	}
	p.at++
	if c, err = p.peek(); err != nil {
		return false, err
	}
	if c == end {
		return false, errSyntax
	}
	return false, nil
}

// number consumes a number (RFC 8259 §6) and returns its text.
func (p *parser) number() (string, error) {
	start, i := p.at, p.at
	digits := func() bool {
		from := i
		for i < len(p.in) && p.in[i] >= '0' && p.in[i] <= '9' {
			i++
		}
		return i > from
	}
	fail := func() (string, error) {
		if i == len(p.in) {
			return "", errIncomplete
		}
		return "", errSyntax
	}
	if p.in[i] == '-' {
		i++
	}
	zero := i < len(p.in) && p.in[i] == '0'
	first := i
	if !digits() || zero && i > first+1 {
		return fail()
	}
	if i < len(p.in) && p.in[i] == '.' {
		i++
		if !digits() {
			return fail()
		}
	}
	if i < len(p.in) && (p.in[i] == 'e' || p.in[i] == 'E') {
		i++
		if i < len(p.in) && (p.in[i] == '+' || p.in[i] == '-') {
			i++
		}
		if !digits() {
			return fail()
		}
	}
	if i == len(p.in) {
		return "", errIncomplete
	}
	p.at = i
	return string(p.in[start:i]), nil
}

// string consumes a string and returns what it stands for. Bytes that are not
// UTF-8 and half surrogate pairs are malformed.
func (p *parser) string() (string, error) {
	out := []byte{}
	for i := p.at + 1; i < len(p.in); {
		c := p.in[i]
		switch {
		case c == '"':
			p.at = i + 1
			return string(out), nil
		case c < 0x20:
			return "", errSyntax
		case c == '\\':
			n, err := unescape(p.in[i:], &out)
			if err != nil {
				return "", err
			}
			i += n
		case c < utf8.RuneSelf:
			out = append(out, c)
			i++
		default:
			if !utf8.FullRune(p.in[i:]) {
				return "", errIncomplete
			}
			r, n := utf8.DecodeRune(p.in[i:])
			if r == utf8.RuneError && n == 1 {
				return "", errSyntax
			}
			out = append(out, p.in[i:i+n]...)
			i += n
		}
	}
	return "", errIncomplete
}

// unescape decodes the escape at the front of in and returns its length.
func unescape(in []byte, out *[]byte) (int, error) {
	if len(in) < 2 {
		return 0, errIncomplete
	}
	const plain, meant = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
	for i := range len(plain) {
		if in[1] == plain[i] {
			*out = append(*out, meant[i])
			return 2, nil
		}
	}
	r, err := unit(in)
	if err != nil {
		return 0, err
	}
	if !utf16.IsSurrogate(r) {
		*out = utf8.AppendRune(*out, r)
		return 6, nil
	}
	low, err := unit(in[6:])
	if err != nil {
		return 0, err
	}
	if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
		return 0, errSyntax
	}
	*out = utf8.AppendRune(*out, r)
	return 12, nil
}

// unit reads \uXXXX.
func unit(in []byte) (rune, error) {
	if len(in) < 1 {
		return 0, errIncomplete
	}
	if in[0] != '\\' || len(in) > 1 && in[1] != 'u' {
		return 0, errSyntax
	}
	if len(in) < 6 {
		return 0, errIncomplete
	}
	n, err := strconv.ParseUint(string(in[2:6]), 16, 16)
	if err != nil || in[2] == '+' || in[2] == '-' {
		return 0, errSyntax
	}
	return rune(n), nil
}

// parseInteger reads a number's text as an integer: rpc.py sends sizes that it
// computed as floats, so 16.0 and 1e3 are integers too.
func parseInteger(text string) (neg bool, mag uint64, ok bool) {
	i := 0
	if text != "" && text[0] == '-' {
		neg, i = true, 1
	}
	var digits []byte
	point := 0 // decimal places that digits has more than the number
	frac := false
	exp := 0
	for ; i < len(text); i++ {
		switch c := text[i]; {
		case c == '.':
			frac = true
		case c == 'e' || c == 'E':
			e, err := strconv.Atoi(text[i+1:])
			if err != nil {
				return false, 0, false
			}
			exp, i = e, len(text)
		default:
			digits = append(digits, c)
			if frac {
				point++
			}
		}
	}
	for len(digits) > 0 && digits[len(digits)-1] == '0' {
		digits, point = digits[:len(digits)-1], point-1
	}
	for len(digits) > 0 && digits[0] == '0' {
		digits = digits[1:]
	}
	if len(digits) == 0 {
		return false, 0, true
	}
	const maxDigits = 20 // of a uint64
	zeros := exp - point
	if exp > maxDigits*2 && exp > point+maxDigits || zeros < 0 || zeros > maxDigits {
		return false, 0, false
	}
	for range zeros {
		digits = append(digits, '0')
	}
	mag, err := strconv.ParseUint(string(digits), 10, 64)
	return neg, mag, err == nil
}
