package rpc_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"spindle/control/controltest"
	"spindle/control/rpc"
)

// FuzzMethod calls any method with any parameters: the framing that FuzzRPC has
// to find its way through first is given. Nothing panics; there is one answer and
// it is a result or an error of the table's; an error that concerns parameters
// has changed nothing; what results saves as a file that loads to the same.
func FuzzMethod(f *testing.F) {
	methods := rpc.Methods()
	for i, m := range methods {
		good := sample(m.Params)
		f.Add(uint16(i), []byte(good))
		f.Add(uint16(i), []byte("null"))
		f.Add(uint16(i), []byte(strings.Replace(good, ":", `:{"a":[`, 1)))
		if len(m.Params) == 0 {
			continue
		}
		for _, v := range []string{"null", "-1", "1e400", `""`, `"%s%n"`, "[]", "{}", "true", "18446744073709551616", `"` + strings.Repeat("n", 300) + `"`} {
			f.Add(uint16(i), fmt.Appendf(nil, `{%q:%s}`, m.Params[len(m.Params)-1].Name, v))
		}
	}
	f.Fuzz(func(t *testing.T, which uint16, params []byte) {
		m := methods[int(which)%len(methods)]
		if !json.Valid(params) || !utf8.Valid(params) || strings.Contains(m.Usage(), "filename=") {
			return // framing is FuzzRPC's; what names a file would write it
		}
		ctl, _ := controltest.New()
		server := rpc.NewServer(ctl)
		if err := server.Load(t.Context(), []byte(spdkConfig), rpc.LoadOptions{SkipUnknown: true}); err != nil {
			t.Fatal(err)
		}
		before := save(t, ctl)
		s := &stream{in: bytes.NewReader(fmt.Appendf(nil, `{"jsonrpc":"2.0","id":7,"method":%q,"params":%s}`, m.Name, params))}
		server.ServeStream(s)
		var a struct {
			ID     *int
			Result json.RawMessage
			Error  *struct {
				Code    int
				Message string
			}
		}
		if out := s.out.Bytes(); json.Unmarshal(out, &a) != nil || a.ID == nil || *a.ID != 7 || (a.Error == nil) == (a.Result == nil) {
			t.Fatalf("%s %s: answer %q", m.Name, params, out)
		}
		if a.Error != nil && (a.Error.Message == "" || len(a.Error.Message) > 4096+2*len(params)) {
			t.Fatalf("%s: a message of %d bytes", m.Name, len(a.Error.Message))
		}
		if a.Error != nil && a.Error.Code == -32602 && !bytes.Equal(before, save(t, ctl)) {
			t.Fatalf("%s %s: refused, and something changed", m.Name, params)
		}
		reload(t, ctl)
	})
}
