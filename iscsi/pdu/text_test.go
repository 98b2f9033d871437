package pdu

import (
	"errors"
	"strings"
	"testing"
)

func walk(in string) (pairs []string, err error) {
	t := ParseText([]byte(in))
	for t.Next() {
		pairs = append(pairs, string(t.Key())+"="+string(t.Value()))
	}
	return pairs, t.Err()
}

func TestText(t *testing.T) {
	long := func(n int) string { return strings.Repeat("a", n) }
	for _, tc := range []struct {
		name string
		in   string
		want []string
		err  error
	}{
		{name: "empty"},
		{name: "one", in: "A=b\x00", want: []string{"A=b"}},
		{name: "two", in: "A=b\x00C=d\x00", want: []string{"A=b", "C=d"}},
		{name: "empty value", in: "SendTargets=\x00", want: []string{"SendTargets="}},
		{name: "equals in the value", in: "CHAP_C=0bAA==\x00", want: []string{"CHAP_C=0bAA=="}},
		{name: "vendor key", in: "X-com.example.a_b=1\x00", want: []string{"X-com.example.a_b=1"}},
		{name: "public extension", in: "X#NodeArchitecture=x\x00", want: []string{"X#NodeArchitecture=x"}},
		{name: "lower case lead", in: "iSCSIProtocolLevel=1\x00", want: []string{"iSCSIProtocolLevel=1"}},
		{name: "UTF-8 value", in: "InitiatorAlias=gr\u00fcn\x00", want: []string{"InitiatorAlias=gr\u00fcn"}},
		{name: "padding counted", in: "A=b\x00\x00\x00", want: []string{"A=b"}},
		{name: "KeyTooLong: 63", in: long(63) + "=b\x00", want: []string{long(63) + "=b"}},
		{name: "KeyTooLong: 64", in: long(64) + "=b\x00", err: ErrTextKey},
		{name: "value of 255", in: "A=" + long(255) + "\x00", want: []string{"A=" + long(255)}},
		{name: "value of 256", in: "A=" + long(256) + "\x00", err: ErrTextTooLong},
		{name: "CHAP value of 2050", in: "CHAP_C=" + long(2050) + "\x00", want: []string{"CHAP_C=" + long(2050)}},
		{name: "CHAP value of 2051", in: "CHAP_C=" + long(2051) + "\x00", err: ErrTextTooLong},
		{name: "LoginPayloadEdge: no terminator", in: "A=b\x00C=d", want: []string{"A=b"}, err: ErrTextUnterminated},
		{name: "no equals", in: "A\x00", err: ErrTextNoEquals},
		{name: "empty key", in: "=b\x00", err: ErrTextKey},
		{name: "digit leads", in: "1A=b\x00", err: ErrTextKey},
		{name: "space in key", in: "A b=c\x00", err: ErrTextKey},
		{name: "slash in key", in: "A/b=c\x00", err: ErrTextKey},
		{name: "control in value", in: "A=b\nC\x00", err: ErrTextValue},
		{name: "NUL between pairs", in: "A=b\x00\x00C=d\x00", want: []string{"A=b"}, err: ErrTextNoEquals},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := walk(tc.in)
			if !errors.Is(err, tc.err) {
				t.Errorf("err = %v, want %v", err, tc.err)
			}
			if strings.Join(got, "|") != strings.Join(tc.want, "|") {
				t.Errorf("pairs %q, want %q", got, tc.want)
			}
		})
	}
}

func TestTextDoesNotAllocate(t *testing.T) {
	data := []byte("InitiatorName=iqn.x\x00MaxBurstLength=262144\x00CHAP_C=0x00\x00")
	if n := testing.AllocsPerRun(100, func() {
		it := ParseText(data)
		for it.Next() {
			sink += uint32(len(it.Value()))
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestParseNumber(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want uint64
		ok   bool
	}{
		{"0", 0, true}, {"007", 7, true}, {"262144", 262144, true}, {"0x10", 16, true}, {"0XfF", 255, true},
		{"18446744073709551615", 1<<64 - 1, true}, {"18446744073709551616", 0, false},
		{"0xffffffffffffffff", 1<<64 - 1, true}, {"0x10000000000000000", 0, false},
		{"99999999999999999999", 0, false},
		{"", 0, false}, {"0x", 0, false}, {"-1", 0, false}, {"+1", 0, false}, {"1 ", 0, false}, {"1a", 0, false}, {"0xg", 0, false},
	} {
		if got, ok := ParseNumber([]byte(tc.in)); got != tc.want && tc.ok || ok != tc.ok {
			t.Errorf("ParseNumber(%q) = %d, %v, want %d, %v", tc.in, got, ok, tc.want, tc.ok)
		}
	}
}

func TestTextWriter(t *testing.T) {
	for _, tc := range []struct {
		name  string
		limit int
		want  string
		over  bool
	}{
		{name: "fits", limit: 9, want: "A=b\x00C=10\x00"},
		{name: "number does not fit", limit: 8, want: "A=b\x00", over: true},
		{name: "nothing fits", limit: 3, over: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := NewTextWriter(nil, tc.limit)
			w.Add("A", "b")
			w.AddNumber("C", 10)
			if string(w.Bytes()) != tc.want || w.Overflowed() != tc.over {
				t.Errorf("%q, overflowed %v", w.Bytes(), w.Overflowed())
			}
			if w.Add("D", ""); tc.over && string(w.Bytes()) != tc.want {
				t.Error("written to after an overflow")
			}
		})
	}
}

// FuzzText: a walk that succeeds can be written again and walks the same.
func FuzzText(f *testing.F) {
	f.Add([]byte("InitiatorName=iqn.1993-08.org.debian:01\x00AuthMethod=None\x00"))
	f.Add([]byte("A=b"))
	f.Add([]byte("CHAP_R=0x00ff\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		w := NewTextWriter(nil, len(in))
		it := ParseText(in)
		n := 0
		for it.Next() {
			if len(it.Key()) == 0 || len(it.Key()) > MaxKeyName || len(it.Value()) > MaxBinaryValue {
				t.Fatalf("pair out of bounds: %q=%q", it.Key(), it.Value())
			}
			w.Add(string(it.Key()), string(it.Value()))
			n++
		}
		if w.Overflowed() {
			t.Fatal("what was walked is longer than what it came from")
		}
		if it.Err() == nil {
			rest := in[len(w.Bytes()):]
			if !strings.HasPrefix(string(in), string(w.Bytes())) || !allZero(rest) {
				t.Fatalf("%q was walked as %q", in, w.Bytes())
			}
		}
		again := ParseText(w.Bytes())
		for again.Next() {
			n--
		}
		if again.Err() != nil || n != 0 {
			t.Fatalf("second walk: %v, %d pairs off", again.Err(), n)
		}
	})
}

func BenchmarkText(b *testing.B) {
	b.ReportAllocs()
	data := []byte("HeaderDigest=None\x00DataDigest=None\x00InitialR2T=No\x00ImmediateData=Yes\x00MaxBurstLength=16776192\x00")
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		it := ParseText(data)
		for it.Next() {
			sink += uint32(len(it.Key()))
		}
	}
}
