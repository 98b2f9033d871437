package rpc

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"spindle/bdev"
)

// Type is what a parameter must be.
type Type uint8

const (
	Bool Type = iota
	String
	UUID
	Int32
	Uint8
	Uint32
	Uint64
	Strings // array of strings
	Objects // array of objects with Fields
	Number  // a boundary in any unit: any number
	Calls   // configuration: any JSON
)

var typeNames = [...]string{"boolean", "string", "uuid", "int32", "uint8", "uint32", "uint64", "array of strings", "array of objects", "number", "json"}

func (t Type) String() string { return typeNames[t] }

// Param describes one parameter: what decode accepts, and what help and
// documentation say about it.
type Param struct {
	Name     string
	Type     Type
	Required bool
	Enum     []string // of a string
	Min, Max int64    // of a number, when Max is not 0
	MaxItems int      // of an array
	Fields   []Param  // of Objects
	Doc      string
}

// Args are the decoded parameters of a call. Accessors return the zero value
// of a parameter that was not given.
type Args struct{ m map[string]any }

// Has tells whether the parameter was given.
func (a Args) Has(name string) bool { _, ok := a.m[name]; return ok }

// Bool returns a boolean.
func (a Args) Bool(name string) bool { b, _ := a.m[name].(bool); return b }

// String returns a string.
func (a Args) String(name string) string { s, _ := a.m[name].(string); return s }

// Uint returns an unsigned number.
func (a Args) Uint(name string) uint64 { u, _ := a.m[name].(uint64); return u }

// Int returns a signed number.
func (a Args) Int(name string) int64 { i, _ := a.m[name].(int64); return i }

// UUID returns a UUID.
func (a Args) UUID(name string) bdev.UUID { u, _ := a.m[name].(bdev.UUID); return u }

// Strings returns an array of strings.
func (a Args) Strings(name string) []string { s, _ := a.m[name].([]string); return s }

// Objects returns an array of objects.
func (a Args) Objects(name string) []Args { o, _ := a.m[name].([]Args); return o }

func (a Args) json(name string) *value { v, _ := a.m[name].(*value); return v }

// decode checks params, an object, against specs. The error says what is wrong
// in words; the method chooses the code.
func decode(params *value, specs []Param) (Args, error) {
	a := Args{m: make(map[string]any, len(specs))}
	if params != nil {
		if params.kind != kindObject {
			return a, fmt.Errorf("parameters must be an object")
		}
		for i, name := range params.keys {
			k := slices.IndexFunc(specs, func(p Param) bool { return p.Name == name })
			if k < 0 {
				return a, fmt.Errorf("unknown parameter %q%s", name, nearest(name, specs))
			}
			if a.Has(name) {
				return a, fmt.Errorf("parameter %q given twice", name)
			}
			v, err := specs[k].decode(&params.items[i])
			if err != nil {
				return a, fmt.Errorf("parameter %q: %w", name, err)
			}
			a.m[name] = v
		}
	}
	for _, p := range specs {
		if p.Required && !a.Has(p.Name) {
			return a, fmt.Errorf("parameter %q (%s) is required", p.Name, p.Type)
		}
	}
	return a, nil
}

func (p *Param) decode(v *value) (any, error) {
	want := func(k kind) error {
		if v.kind != k {
			return fmt.Errorf("must be %s", article(p.Type.String()))
		}
		return nil
	}
	switch p.Type {
	case Bool:
		return v.bool, want(kindBool)
	case String:
		if err := want(kindString); err != nil {
			return nil, err
		}
		if strings.IndexByte(v.text, 0) >= 0 {
			return nil, fmt.Errorf("must not contain a NUL byte")
		}
		if p.Enum != nil && !slices.Contains(p.Enum, v.text) {
			return nil, fmt.Errorf("must be one of %s", strings.Join(p.Enum, ", "))
		}
		return v.text, nil
	case UUID:
		if err := want(kindString); err != nil {
			return nil, err
		}
		return bdev.ParseUUID(v.text)
	case Strings:
		return p.decodeStrings(v)
	case Objects:
		return p.decodeObjects(v)
	case Calls:
		return v, nil
	case Number:
		return v.text, want(kindNumber)
	}
	if err := want(kindNumber); err != nil {
		return nil, err
	}
	return p.integer(v.text)
}

// bounds are the smallest and the largest value of a numeric type.
func (p *Param) bounds() (lo int64, hi uint64) {
	switch p.Type {
	case Int32:
		lo, hi = math.MinInt32, math.MaxInt32
	case Uint8:
		hi = math.MaxUint8
	case Uint32:
		hi = math.MaxUint32
	default:
		hi = math.MaxUint64
	}
	if p.Max != 0 {
		lo, hi = p.Min, uint64(p.Max)
	}
	return lo, hi
}

func (p *Param) integer(text string) (any, error) {
	lo, hi := p.bounds()
	neg, mag, ok := parseInteger(text)
	switch {
	case !ok:
		return nil, fmt.Errorf("%s is not an integer of 64 bits", text)
	case neg && mag != 0 && (lo >= 0 || mag > uint64(-lo)), !neg && mag > hi, !neg && lo > 0 && mag < uint64(lo):
		return nil, fmt.Errorf("%s is outside %d..%d", text, lo, hi)
	case p.Type != Int32:
		return mag, nil
	case neg:
		return -int64(mag), nil
	}
	return int64(mag), nil
}

func (p *Param) list(v *value) error {
	if v.kind != kindArray {
		return fmt.Errorf("must be %s", article(p.Type.String()))
	}
	if p.MaxItems != 0 && len(v.items) > p.MaxItems {
		return fmt.Errorf("has %d elements, at most %d are allowed", len(v.items), p.MaxItems)
	}
	return nil
}

func (p *Param) decodeStrings(v *value) (any, error) {
	if err := p.list(v); err != nil {
		return nil, err
	}
	element := Param{Type: String, Enum: p.Enum}
	out := make([]string, 0, len(v.items))
	for i := range v.items {
		s, err := element.decode(&v.items[i])
		if err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
		out = append(out, s.(string))
	}
	return out, nil
}

func (p *Param) decodeObjects(v *value) (any, error) {
	if err := p.list(v); err != nil {
		return nil, err
	}
	out := make([]Args, 0, len(v.items))
	for i := range v.items {
		if v.items[i].kind != kindObject {
			return nil, fmt.Errorf("element %d: must be an object", i)
		}
		a, err := decode(&v.items[i], p.Fields)
		if err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
		out = append(out, a)
	}
	return out, nil
}

func article(noun string) string {
	if strings.ContainsRune("aeiou", rune(noun[0])) && !strings.HasPrefix(noun, "u") {
		return "an " + noun
	}
	return "a " + noun
}

// nearest proposes the parameter that was probably meant.
func nearest(name string, specs []Param) string {
	names := make([]string, len(specs))
	for i, p := range specs {
		names[i] = p.Name
	}
	if s := closest(name, names); s != "" {
		return fmt.Sprintf("; did you mean %q?", s)
	}
	if len(names) == 0 {
		return "; the method takes none"
	}
	return "; known are " + strings.Join(names, ", ")
}

// closest returns the candidate at the smallest edit distance from name when
// that is small enough to be a slip.
func closest(name string, candidates []string) string {
	best, at := len(name)/3+2, ""
	for _, c := range candidates {
		if d := distance(name, c); d < best {
			best, at = d, c
		}
	}
	return at
}

// distance is the Levenshtein distance of two short names.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j]+1, row[j+1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
