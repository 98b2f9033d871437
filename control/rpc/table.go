package rpc

import (
	"context"
	"fmt"
	"strings"

	"spindle/control"
)

// State is a set of phases of the process's life.
type State uint8

const (
	Startup State = 1 << iota // before framework_start_init
	Runtime                   // after it
	Always  = Startup | Runtime
)

func (s State) String() string {
	switch s {
	case Startup:
		return "start-up"
	case Runtime:
		return "run time"
	}
	return "any time"
}

// Method is one row of the table.
type Method struct {
	Name    string
	Aliases []string // older names, answered but not listed
	State   State
	Params  []Param
	Result  string // what a success returns
	Doc     string // one line
	Hint    string // what to do after an error, for "spindle rpc"
	// waits tells whether a call may wait for something; it then runs beside its
	// connection's other requests. Nil never waits.
	waits func(running bool, params *value) bool
	group string

	bad   answer // parameters do not decode; for a method without any, the text
	fails answer // what every error of run becomes; zero: a raw errno
	run   func(*request) (any, error)
}

// request is a call in progress.
type request struct {
	Args
	ctx  context.Context
	ctl  *control.Control
	srv  *Server
	conn *session
}

// Methods is the table.
func Methods() []Method {
	var all []Method
	for _, g := range []struct {
		name string
		rows []Method
	}{
		{"Framework", frameworkMethods()},
		{"Reactors", reactorMethods()},
		{"Logging", logMethods()},
		{"Configuration", configMethods()},
		{"Block devices", bdevMethods()},
		{"Block device modules", moduleMethods()},
		{"iSCSI", iscsiMethods()},
		{"iSCSI target nodes", append(nodeMethods(), pathMethods()...)},
	} {
		for _, m := range g.rows {
			m.group = g.name
			if len(m.Params) == 0 && m.bad == (answer{}) {
				m.bad = answer{codeInvalidParams, m.Name + " requires no parameters"}
			}
			all = append(all, m)
		}
	}
	return all
}

// Lookup finds a method by its name or an alias.
func Lookup(name string) (*Method, error) {
	rows := Methods()
	names := make([]string, 0, len(rows))
	for i := range rows {
		if rows[i].has(name) {
			return &rows[i], nil
		}
		names = append(names, rows[i].Name)
	}
	hint := `"spindle rpc --help" lists the methods`
	if s := closest(name, names); s != "" {
		hint = fmt.Sprintf("did you mean %q?", s)
	}
	return nil, fmt.Errorf("there is no method %q; %s", name, hint)
}

func (m *Method) has(name string) bool {
	if m.Name == name {
		return true
	}
	for _, a := range m.Aliases {
		if a == name {
			return true
		}
	}
	return false
}

// The texts for a method in the wrong phase are part of SPDK's interface.
const (
	tooEarly = "Method may only be called after framework is initialized using framework_start_init RPC."
	tooLate  = "Method may only be called before framework is initialized. Use --wait-for-rpc command line parameter and then issue this RPC before the framework_start_init RPC."
)

// call runs a method.
func (s *Server) call(ctx context.Context, conn *session, name string, params *value) (any, *Error) {
	m, ok := s.methods[name]
	if !ok {
		return nil, &Error{codeNoMethod, "Method not found", fmt.Sprintf("there is no method %q; rpc_get_methods lists them", name)}
	}
	state := Startup
	if s.ctl.Running() {
		state = Runtime
	}
	if m.State&state == 0 {
		text := tooEarly
		if state == Runtime {
			text = tooLate
		}
		return nil, &Error{codeWrongState, text, text}
	}
	if params != nil && params.kind == kindNull {
		params = nil
	}
	if params != nil && len(m.Params) == 0 {
		return nil, m.bad.because(fmt.Errorf("%s takes no parameters; leave \"params\" out", m.Name))
	}
	args, err := decode(params, m.Params)
	if err != nil {
		return nil, m.bad.because(err)
	}
	result, err := m.run(&request{args, ctx, s.ctl, s, conn})
	if err != nil {
		e := asErrno(err)
		if m.fails != (answer{}) && e.Code != codeInvalidParams && e.Code != codeInternal {
			e = m.fails.because(err)
		}
		s.log.Info("request failed", "method", m.Name, "code", e.Code, "reason", e.Error())
		return nil, e
	}
	return result, nil
}

// Usage is a method's parameters on one line.
func (m *Method) Usage() string {
	var b strings.Builder
	for _, p := range m.Params {
		if p.Required {
			fmt.Fprintf(&b, " %s=%s", p.Name, p.placeholder())
		} else {
			fmt.Fprintf(&b, " [%s=%s]", p.Name, p.placeholder())
		}
	}
	return m.Name + b.String()
}

func (p *Param) placeholder() string {
	switch {
	case p.Enum != nil:
		return strings.Join(p.Enum, "|")
	case p.Type == Bool:
		return "true|false"
	case p.Type == String, p.Type == UUID:
		return strings.ToUpper(p.Type.String())
	case p.Type == Strings:
		return "[STRING,...]"
	case p.Type == Objects:
		var names []string
		for _, f := range p.Fields {
			names = append(names, `"`+f.Name+`":`+f.placeholder())
		}
		return "[{" + strings.Join(names, ",") + "},...]"
	case p.Type == Calls:
		return "JSON"
	}
	return "N"
}
