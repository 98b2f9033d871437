package rpc_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"strings"
	"testing"

	"spindle/control"
	"spindle/control/controltest"
	"spindle/control/rpc"
)

// stream is one end of a connection without the connection: what is read was
// given, what is written is kept.
type stream struct {
	in  *bytes.Reader
	out bytes.Buffer
}

func (s *stream) Read(p []byte) (int, error)  { return s.in.Read(p) }
func (s *stream) Write(p []byte) (int, error) { return s.out.Write(p) }

// FuzzRPC feeds bytes to the socket's side of a server with some objects to hit.
// Whatever comes in: nothing panics, every answer is a line of JSON-RPC, and the
// configuration that results saves as one that loads to the same.
func FuzzRPC(f *testing.F) {
	text, err := os.ReadFile("testdata/transcript.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, line := range strings.Split(string(text), "\n") {
		if send, ok := strings.CutPrefix(line, ">> "); ok {
			f.Add([]byte(send))
		}
	}
	for _, m := range rpc.Methods() {
		f.Add(fmt.Appendf(nil, `{"id":1,"method":%q,"params":%s}`, m.Name, sample(m.Params)))
	}
	f.Add([]byte(spdkConfig))
	f.Fuzz(func(t *testing.T, in []byte) {
		ctl, _ := controltest.New()
		server := rpc.NewServer(ctl)
		if err := server.Load(t.Context(), []byte(spdkConfig), rpc.LoadOptions{SkipUnknown: true}); err != nil {
			t.Fatal(err)
		}
		s := &stream{in: bytes.NewReader(in)}
		server.ServeStream(s)
		for line := range strings.Lines(s.out.String()) {
			if !strings.HasSuffix(line, "\n") || !json.Valid([]byte(line)) || !strings.Contains(line, `"jsonrpc":"2.0"`) {
				t.Fatalf("answer %q", line)
			}
		}
		if n, ok := rpc.ParsedLen(in); ok && !json.Valid(in[:n]) {
			t.Fatalf("accepted %q", in[:n])
		}
		reload(t, ctl)
	})
}

func reload(t *testing.T, ctl *control.Control) {
	t.Helper()
	saved := save(t, ctl)
	again, _ := controltest.New()
	if err := rpc.NewServer(again).Load(t.Context(), saved, rpc.LoadOptions{}); err != nil {
		t.Fatalf("load of %s: %v", saved, err)
	}
	if second := save(t, again); !bytes.Equal(saved, second) {
		t.Fatalf("first\n%s\nsecond\n%s", saved, second)
	}
}

// sample is a parameters object that decodes.
func sample(params []rpc.Param) string {
	if len(params) == 0 {
		return "null"
	}
	var members []string
	for _, p := range params {
		v := fmt.Sprint(max(p.Min, 1))
		switch {
		case p.Enum != nil:
			v = `"` + p.Enum[0] + `"`
		case p.Type == rpc.Bool:
			v = "true"
		case p.Type == rpc.UUID:
			v = `"8a9d8c5e-8a45-4f43-9a2e-0a6a4b7e1d11"`
		case p.Type == rpc.String && p.Name == "filename":
			continue // save_config would write it
		case p.Type == rpc.String:
			v = `"Malloc0"`
		case p.Type == rpc.Strings:
			v = `["ANY"]`
		case p.Type == rpc.Objects:
			v = "[" + sample(p.Fields) + "]"
		case p.Type == rpc.Calls:
			v = "[]"
		}
		members = append(members, fmt.Sprintf("%q:%s", p.Name, v))
	}
	return "{" + strings.Join(members, ",") + "}"
}

// TestEveryMethodDecodes calls each method with parameters of the right types:
// whatever it answers, it is not that they do not decode.
func TestEveryMethodDecodes(t *testing.T) {
	for _, m := range rpc.Methods() {
		t.Run(m.Name, func(t *testing.T) {
			ctl, _ := controltest.New()
			if m.State != rpc.Startup {
				ctl.Start()
			}
			params := sample(m.Params)
			if strings.Contains(m.Usage(), "filename=") && m.Name != "save_config" {
				params = strings.Replace(params, "{", `{"filename":"f",`, 1)
			}
			s := &stream{in: bytes.NewReader(fmt.Appendf(nil, `{"method":"rpc_set_error_detail","params":{"enable":true}}{"id":1,"method":%q,"params":%s}`, m.Name, params))}
			rpc.NewServer(ctl).ServeStream(s)
			out := s.out.String()
			for _, wrong := range []string{"parameter", "params", "Method", "Invalid request"} {
				if strings.Contains(out, `"data":"`+wrong) || strings.Contains(out, `"message":"`+wrong) {
					t.Errorf("%s\n%s", params, out)
				}
			}
			if !strings.Contains(out, `"id":1`) {
				t.Errorf("no answer to %s: %q", params, out)
			}
		})
	}
}

// FuzzInteger holds the reading of numbers against arbitrary precision.
func FuzzInteger(f *testing.F) {
	for _, s := range []string{"0", "-0", "16.0", "1e3", "1.5", "-1.50e1", "18446744073709551615", "18446744073709551616", "1e19", "1e20", "0.1e1", "123e-2", "100e-2", "0e999999999", "1e-999999999", "1e999999999", "-9223372036854775808"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !json.Valid([]byte(s)) || strings.ContainsAny(s, `"[{ntf`) || strings.TrimSpace(s) != s {
			t.Skip("not a JSON number")
		}
		neg, mag, ok := rpc.ParseInteger(s)
		if i := strings.IndexAny(s, "eE"); i >= 0 && len(s)-i > 5 || len(s) > 100 {
			return // arbitrary precision would be arbitrarily slow
		}
		r, valid := new(big.Rat).SetString(s)
		if !valid {
			t.Fatalf("%q is JSON and no number", s)
		}
		abs := new(big.Int).Abs(r.Num())
		if want := r.IsInt() && abs.IsUint64(); ok != want {
			t.Fatalf("%q: integer %v, want %v", s, ok, want)
		}
		if ok && (mag != abs.Uint64() || mag != 0 && neg != (r.Sign() < 0)) {
			t.Fatalf("%q: got %v %d", s, neg, mag)
		}
	})
}
