package rpc_test

import (
	"bytes"
	"strings"
	"testing"

	"spindle/control/controltest"
	"spindle/control/rpc"
)

// FuzzConfig loads any bytes as a configuration file. Nothing panics; what does
// not load says so in a line of bounded length; whatever did take effect, of a
// file that loads and of one that stops half way, saves as a file that loads to
// the same and is no longer than the calls that made it allow.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(spdkConfig))
	for _, m := range rpc.Methods() {
		f.Add([]byte(`{"subsystems":[{"subsystem":"bdev","config":[{"method":"bdev_malloc_create","params":{"name":"Malloc0","num_blocks":8,"block_size":512}}]},` +
			`{"subsystem":"iscsi","config":[{"method":"` + m.Name + `","params":` + sample(m.Params) + `}]}]}`))
	}
	for _, s := range []string{
		"", "{}", "[]", "null", `{"subsystems":null}`, `{"subsystems":{}}`, `{"subsystems":[]}`,
		`{"subsystems":[{}]}`, `{"subsystems":[{"subsystem":"bdev","config":null}]}`, `{"subsystems":[{"subsystem":"bdev","config":[null]}]}`,
		`{"subsystems":[{"subsystem":"bdev","config":[{"method":1}]}]}`,
		`{"subsystems":[{"subsystem":"bdev","config":[{"method":"bdev_malloc_create","params":{"num_blocks":18446744073709551615,"block_size":4096}}]}]}`,
		`{"subsystems":[{"subsystem":"bdev","config":[{"method":"load_config","params":{"subsystems":[]}}]}]}`,
		`{"subsystems":` + strings.Repeat("[", 200) + strings.Repeat("]", 200) + `}`,
		"\xef\xbb\xbf{\"subsystems\":[]}", `{"subsystems":[]}{"subsystems":[]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, skip := range []bool{false, true} {
			ctl, _ := controltest.New()
			err := rpc.NewServer(ctl).Load(t.Context(), in, rpc.LoadOptions{SkipUnknown: skip})
			if err != nil && (err.Error() == "" || len(err.Error()) > 4096+2*len(in)) {
				t.Fatalf("an error of %d bytes about %d", len(err.Error()), len(in))
			}
			saved := save(t, ctl)
			if len(saved) > 64<<10+32*len(in) {
				t.Fatalf("%d bytes saved of %d loaded", len(saved), len(in))
			}
			if err == nil && !bytes.Contains(in, []byte("subsystems")) && !bytes.Contains(in, []byte(`\u`)) {
				t.Fatalf("loaded %q", in)
			}
			reload(t, ctl)
		}
	})
}
