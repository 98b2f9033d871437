package flame

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrProfile: the bytes are no CPU profile.
var ErrProfile = errors.New("no profile that pprof would read")

// maxProfile bounds an unpacked profile.
const maxProfile = 256 << 20

// Stack is functions from the outermost inwards, and how often they were seen.
type Stack struct {
	Functions []string
	Count     int64
}

// Fields of profile.proto (github.com/google/pprof/proto), as far as stacks and
// their first value need them.
const (
	profileSample   = 2
	profileLocation = 4
	profileFunction = 5
	profileString   = 6
	sampleLocation  = 1
	sampleValue     = 2
	locationID      = 1
	locationLine    = 4
	lineFunction    = 1
	functionID      = 1
	functionName    = 2
)

// Parse reads what runtime/pprof writes.
func Parse(file []byte) ([]Stack, error) {
	z, err := gzip.NewReader(bytes.NewReader(file))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProfile, err)
	}
	raw, err := io.ReadAll(io.LimitReader(z, maxProfile))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProfile, err)
	}
	p := profile{locations: map[uint64][]uint64{}, functions: map[uint64]uint64{}}
	if err := fields(raw, p.field); err != nil {
		return nil, err
	}
	return p.stacks()
}

// profile is a parsed profile: everything by number.
type profile struct {
	samples   []sample
	locations map[uint64][]uint64 // functions, the innermost of inlined ones first
	functions map[uint64]uint64   // names
	names     []string
}

type sample struct {
	locations, values []uint64
}

func (p *profile) field(n int, v uint64, b []byte) error {
	switch n {
	case profileSample:
		var s sample
		err := fields(b, func(n int, v uint64, b []byte) error {
			switch n {
			case sampleLocation:
				return numbers(&s.locations, v, b)
			case sampleValue:
				return numbers(&s.values, v, b)
			}
			return nil
		})
		p.samples = append(p.samples, s)
		return err
	case profileLocation:
		var id uint64
		var lines []uint64
		err := fields(b, func(n int, v uint64, b []byte) error {
			switch n {
			case locationID:
				id = v
			case locationLine:
				return fields(b, func(n int, v uint64, _ []byte) error {
					if n == lineFunction {
						lines = append(lines, v)
					}
					return nil
				})
			}
			return nil
		})
		p.locations[id] = lines
		return err
	case profileFunction:
		var id, name uint64
		err := fields(b, func(n int, v uint64, _ []byte) error {
			switch n {
			case functionID:
				id = v
			case functionName:
				name = v
			}
			return nil
		})
		p.functions[id] = name
		return err
	case profileString:
		p.names = append(p.names, string(b))
	}
	return nil
}

// stacks names the functions of the samples.
func (p *profile) stacks() (all []Stack, err error) {
	for _, s := range p.samples {
		if len(s.values) == 0 {
			return nil, fmt.Errorf("%w: a sample without a value", ErrProfile)
		}
		stack := Stack{Count: int64(s.values[0])}
		for i := len(s.locations) - 1; i >= 0; i-- {
			lines := p.locations[s.locations[i]]
			for j := len(lines) - 1; j >= 0; j-- {
				name := p.functions[lines[j]]
				if name >= uint64(len(p.names)) {
					return nil, fmt.Errorf("%w: a function without a name", ErrProfile)
				}
				stack.Functions = append(stack.Functions, p.names[name])
			}
		}
		all = append(all, stack)
	}
	return all, nil
}

// fields calls f for each field of a message of protocol buffers: with its
// number, or with its bytes.
func fields(b []byte, f func(n int, v uint64, b []byte) error) error {
	for len(b) > 0 {
		key, n := binary.Uvarint(b)
		if n <= 0 {
			return ErrProfile
		}
		b = b[n:]
		v, n := binary.Uvarint(b)
		var data []byte
		switch key & 7 {
		case 0:
			if n <= 0 {
				return ErrProfile
			}
			b = b[n:]
		case 2:
			if n <= 0 || v > uint64(len(b)-n) {
				return ErrProfile
			}
			data = b[n : n+int(v)]
			b = b[n+int(v):]
		default:
			return fmt.Errorf("%w: wire type %d", ErrProfile, key&7)
		}
		if err := f(int(key>>3), v, data); err != nil {
			return err
		}
	}
	return nil
}

// numbers appends a repeated field: packed in bytes, or one number.
func numbers(list *[]uint64, v uint64, b []byte) error {
	if b == nil {
		*list = append(*list, v)
		return nil
	}
	for len(b) > 0 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return ErrProfile
		}
		*list = append(*list, v)
		b = b[n:]
	}
	return nil
}
