package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"spindle/cmd/spindle/internal/daemon"
	"spindle/control/rpc"
)

func rpcCommand() command {
	return command{
		name: "rpc", args: "METHOD [key=value ...]", short: "call a method of a running target",
		long: `Call a method of a running target and print its result. A value is JSON or, where
a string is wanted, plain text; a list of strings may be written a,b,c.
"spindle rpc METHOD --help" explains a method; docs/rpc.md has all of them.

  spindle rpc bdev_malloc_create name=disk0 num_blocks=2097152 block_size=512
  spindle rpc iscsi_create_portal_group tag=1 'portals=[{"host":"0.0.0.0","port":"3260"}]'
  spindle rpc save_config > spindle.json
  spindle rpc load_config < spindle.json`,
		flags: func(fs *flag.FlagSet) func(streams, []string) error {
			socket := fs.String("rpc-socket", daemon.DefaultSocket, "`PATH` of the target's socket")
			raw := fs.Bool("raw", false, "print the result as it came, on one line")
			return func(s streams, args []string) error { return call(s, *socket, *raw, args, os.Stdin) }
		},
	}
}

func call(s streams, socket string, raw bool, args []string, in io.Reader) error {
	if len(args) == 0 {
		return usagef("rpc: name a method; \"spindle rpc --help\" lists them")
	}
	m, err := rpc.Lookup(args[0])
	if err != nil {
		return usageError{err}
	}
	for _, a := range args[1:] {
		if a == "--help" || a == "-h" || a == "-help" {
			_, err := io.WriteString(s.out, m.Help())
			return err
		}
	}
	var params any
	if m.Name == "load_config" && len(args) == 1 {
		if params, err = readConfig(in); err != nil {
			return err
		}
	} else if params, err = arguments(m, args[1:]); err != nil {
		return usageError{err}
	}
	c, err := rpc.Dial(socket)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	// SPDK does not know the method; its errors are as good as they are.
	_, _ = c.Call("rpc_set_error_detail", map[string]bool{"enable": true})
	result, err := c.Call(args[0], params)
	if err != nil {
		return explain(m, err)
	}
	if !raw {
		var b bytes.Buffer
		if err := json.Indent(&b, result, "", "  "); err != nil {
			return fmt.Errorf("result: %w", err)
		}
		result = b.Bytes()
	}
	_, err = fmt.Fprintf(s.out, "%s\n", result)
	return err
}

// arguments are a method's parameters; nil when there are none, because methods
// that take none refuse an empty object.
func arguments(m *rpc.Method, args []string) (any, error) {
	params, err := m.ParseArgs(args)
	if err != nil || len(params) == 0 {
		return nil, err
	}
	return params, nil
}

// readConfig takes the parameters of load_config from the standard input, so
// that what save_config printed can be fed to it.
func readConfig(in io.Reader) (any, error) {
	text, err := io.ReadAll(in)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if len(text) > rpc.MaxRequest/2 {
		return nil, usagef("the configuration is too large for a request (%d bytes); start the target with --config FILE", len(text))
	}
	if !json.Valid(text) {
		return nil, usagef("the standard input is not what \"spindle rpc save_config\" prints; nothing was sent")
	}
	return json.RawMessage(text), nil
}

// explain puts a method's error into words with what to do next.
func explain(m *rpc.Method, err error) error {
	var e *rpc.Error
	if !errors.As(err, &e) {
		return err
	}
	text := fmt.Sprintf("%s: %s", m.Name, e.Message)
	if e.Data != "" && e.Data != e.Message {
		text = fmt.Sprintf("%s: %s (%s)", m.Name, e.Data, e.Message)
	}
	text = strings.TrimSuffix(text, ".")
	if m.Hint != "" && !strings.Contains(e.Data, ";") { // after a semicolon it says itself what to do
		text += "; " + m.Hint
	}
	return fmt.Errorf("%s [code %d]", text, e.Code)
}
