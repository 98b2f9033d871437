package rpc

import (
	"context"
	"fmt"

	"spindle/control"
)

func configMethods() []Method {
	return []Method{
		{
			Name: "save_config", State: Runtime,
			Params: []Param{{Name: "filename", Type: String, Doc: "write here, mode 0600, instead of answering it; never empty over something"}, withSecrets},
			Result: "{subsystems: [{subsystem, config: [{method, params}]}], omitted}; true when written to a file",
			Doc:    "Tell, or write, the whole configuration as the calls that make it again.",
			Hint:   "the file is written by the daemon, with its rights and from its directory",
			bad:    invalidParams, run: saveConfig,
		},
		{
			Name: "load_config", State: Always,
			Params: []Param{
				{Name: "subsystems", Type: Calls, Required: true, Doc: "what save_config answered"},
				{Name: "omitted", Type: String, Doc: "accepted: what save_config said it had left out"},
				{Name: "skip_unknown", Type: Bool, Doc: "pass over methods that are not in the table, for files from SPDK"},
			},
			Result: "true", Doc: "Make a saved configuration again: start-up methods first, then the rest in order.",
			Hint: "what was loaded before the error stays; nothing is undone",
			bad:  invalidParams, run: loadConfig,
		},
	}
}

func saveConfig(r *request) (any, error) {
	if r.Has("filename") {
		if o := saveOptions(r.Args); r.ctl.Omits(o) {
			r.srv.log.Warn("configuration saved without CHAP users and secrets; with_secrets=true has them saved", "file", r.String("filename"))
		}
		return true, r.ctl.SaveFile(r.String("filename"), saveOptions(r.Args))
	}
	return r.ctl.SaveObject(saveOptions(r.Args)), nil
}

// withSecrets has secrets told that are left out otherwise; SPDK has no such
// parameter and always tells them.
var withSecrets = Param{Name: "with_secrets", Type: Bool, Doc: "CHAP secrets, too; they are left out otherwise"}

func saveOptions(a Args) control.SaveOptions {
	return control.SaveOptions{Secrets: a.Bool("with_secrets")}
}

func loadConfig(r *request) (any, error) {
	return true, r.srv.load(r.ctx, r.conn, r.json("subsystems"), r.Bool("skip_unknown"))
}

// LoadOptions qualify Load.
type LoadOptions struct {
	SkipUnknown bool // pass over methods that are not in the table
}

// Load runs a saved configuration: a JSON object with the member "subsystems".
// Start-up methods run first; then the start-up phase ends, unless it had; then
// the rest runs in the order of the file. The first failure ends it, as does ctx.
func (s *Server) Load(ctx context.Context, file []byte, o LoadOptions) error {
	v, n, err := parseFile(file)
	if err != nil {
		return fmt.Errorf("configuration: byte %d: %w", n, err)
	}
	subsystems := v.get("subsystems")
	if v.kind != kindObject || subsystems == nil {
		return fmt.Errorf(`configuration: not an object with a member "subsystems"; "spindle rpc save_config" prints one`)
	}
	return s.load(ctx, &session{srv: s}, subsystems, o.SkipUnknown)
}

// parseFile parses a file that holds exactly one value. The limits of requests
// do not hold: a configuration may have any number of objects.
func parseFile(file []byte) (value, int, error) {
	p := parser{in: append(file[:len(file):len(file)], '\n'), unlimited: true}
	v, err := p.value(0)
	if err == nil {
		if p.space(); p.at < len(p.in) {
			err = fmt.Errorf("%w: more than one value", errSyntax)
		}
	}
	return v, p.at, err
}

type savedCall struct {
	where  string
	method string
	params *value
}

func (s *Server) load(ctx context.Context, conn *session, subsystems *value, skip bool) error {
	calls, err := s.savedCalls(subsystems, skip)
	if err != nil {
		return err
	}
	phase := func(startup bool) error {
		for _, c := range calls {
			if m := s.methods[c.method]; (m.State == Startup) != startup {
				continue
			}
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("%s: %s: %w", c.where, c.method, err)
			}
			if _, e := s.call(ctx, conn, c.method, c.params); e != nil {
				return &Error{e.Code, e.Message, fmt.Sprintf("%s: %s: %s", c.where, c.method, e.Error())}
			}
		}
		return nil
	}
	if !s.ctl.Running() {
		if err := phase(true); err != nil {
			return err
		}
		s.ctl.Start()
	}
	return phase(false)
}

// savedCalls flattens a configuration and checks that every method is known
// before the first is called.
func (s *Server) savedCalls(subsystems *value, skip bool) ([]savedCall, error) {
	var calls []savedCall
	bad := func(where, what string) error {
		return &Error{codeInvalidParams, invalidParams.text, where + ": " + what}
	}
	if subsystems.kind != kindArray {
		return nil, bad("subsystems", "must be an array")
	}
	for i := range subsystems.items {
		sub := &subsystems.items[i]
		name, config := sub.get("subsystem"), sub.get("config")
		where := fmt.Sprintf("subsystems[%d]", i)
		if name == nil || name.kind != kindString {
			return nil, bad(where, `has no name in "subsystem"`)
		}
		where = "subsystem " + name.text
		if config == nil || config.kind == kindNull {
			continue
		}
		if config.kind != kindArray {
			return nil, bad(where, `"config" must be an array`)
		}
		for j := range config.items {
			entries := []value{config.items[j]}
			if entries[0].kind == kindArray { // a batch: its calls in order
				entries = entries[0].items
			}
			for k := range entries {
				at := fmt.Sprintf("%s, call %d", where, j+1)
				method := entries[k].get("method")
				if method == nil || method.kind != kindString {
					return nil, bad(at, `has no name in "method"`)
				}
				if s.methods[method.text] == nil {
					if skip {
						s.log.Warn("configuration call passed over", "at", at, "method", method.text)
						continue
					}
					return nil, &Error{codeNoMethod, "Method not found", fmt.Sprintf("%s: there is no method %q", at, method.text)}
				}
				calls = append(calls, savedCall{at, method.text, entries[k].get("params")})
			}
		}
	}
	return s.inPhase(calls), nil
}

// inPhase leaves out start-up calls when the start-up phase is over, so that
// what save_config answered can be loaded into a running process.
func (s *Server) inPhase(calls []savedCall) []savedCall {
	if !s.ctl.Running() {
		return calls
	}
	var out []savedCall
	for _, c := range calls {
		if s.methods[c.method].State == Startup {
			s.log.Warn("configuration call passed over: the start-up phase is over", "at", c.where, "method", c.method)
			continue
		}
		out = append(out, c)
	}
	return out
}
