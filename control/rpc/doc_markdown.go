package rpc

import (
	"fmt"
	"strings"
)

// Markdown is docs/rpc.md: every method, from the table.
func Markdown() string {
	var b strings.Builder
	b.WriteString(`# RPC methods

<!-- Made from the table in control/rpc by "go generate ./control/rpc"; a test checks that it is current. -->

Spindle is configured and watched over a Unix socket (default ` + "`/var/tmp/spindle.sock`" + `, mode 0600) in JSON-RPC 2.0, with SPDK's method
names, parameters and error codes, so that SPDK's ` + "`rpc.py`" + ` and ` + "`spdkcli`" + ` work unmodified. The bundled client is
` + "`spindle rpc METHOD [key=value ...]`" + `; ` + "`spindle rpc METHOD --help`" + ` says what is written here.

## Framing

* Requests are JSON values one after the other, with no delimiter; each answer is one line. A batch is an array.
* A malformed value, or one beyond a limit, closes the connection without an answer.
* A request without an id, or with a null one, is a notification: a success is not answered, an error is, with a null id.
* An unknown member beside ` + "`jsonrpc`, `id`, `method` and `params`" + ` is an invalid request. Unknown, missing, repeated or mistyped parameters fail the whole call.
* A method without parameters refuses even ` + "`{}`" + `; leave ` + "`params`" + ` out. Numbers such as ` + "`16.0`" + ` are integers; a portal's port is a string.
`)
	fmt.Fprintf(&b, `* Limits: a request %d KiB, nesting %d, %d values a request, %d connections; %d requests of a connection that wait, %d MiB for the answers of a batch, %d seconds for a client to take an answer. Only root and the daemon's own user are let in.

## Errors

`, MaxRequest>>10, MaxDepth, MaxValues, MaxConnections, MaxWaiting, MaxBatchAnswer>>20, int(SendTimeout.Seconds()))
	b.WriteString(`| code | meaning |
|---|---|
| -32600 | invalid request |
| -32601 | no such method |
| -32602, -32603 | the parameters do not decode; which of the two is a fact of the method, as in SPDK |
| -1 | the method belongs to the other phase: before or after ` + "`framework_start_init`" + ` |
| -2, -16, -17, -19, -22, ... | a negative errno: no such object, in use, exists, no such bdev, invalid argument, ... |

After ` + "`rpc_set_error_detail`" + ` a connection's errors carry a member ` + "`data`" + ` that says in words what is wrong.

`)
	group := ""
	for _, m := range Methods() {
		if m.group != group {
			group = m.group
			fmt.Fprintf(&b, "## %s\n\n", group)
		}
		m.markdown(&b)
	}
	return b.String()
}

func (m *Method) markdown(b *strings.Builder) {
	fmt.Fprintf(b, "### %s\n\n%s Callable at %s.\n\n", m.Name, m.Doc, when(m.State))
	if len(m.Params) > 0 {
		b.WriteString("| parameter | type | | |\n|---|---|---|---|\n")
		for _, p := range m.Params {
			p.markdown(b, "")
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(b, "Result: %s.", code(m.Result))
	if len(m.Aliases) > 0 {
		fmt.Fprintf(b, " Older name: `%s`.", strings.Join(m.Aliases, "`, `"))
	}
	b.WriteString("\n\n")
}

// when says in which phase a method may be called.
func when(s State) string {
	if s == Always {
		return "any time"
	}
	return s.String() + " only"
}

// code marks what is a JSON shape.
func code(result string) string {
	if result == "true" || strings.ContainsAny(result, "{[") && !strings.Contains(result, ";") {
		return "`" + result + "`"
	}
	return result
}

func (p *Param) markdown(b *strings.Builder, prefix string) {
	need := ""
	if p.Required {
		need = "required"
	}
	fmt.Fprintf(b, "| `%s%s` | %s | %s | %s |\n", prefix, p.Name, strings.ReplaceAll(p.describe(), "|", "\\|"), need, p.Doc)
	for _, f := range p.Fields {
		f.markdown(b, prefix+p.Name+"[].")
	}
}

// describe is the type with its bounds.
func (p *Param) describe() string {
	switch {
	case p.Enum != nil:
		return strings.Join(p.Enum, " | ")
	case p.Max != 0:
		return fmt.Sprintf("%s, %d to %d", p.Type, p.Min, p.Max)
	case p.MaxItems != 0:
		return fmt.Sprintf("%s, at most %d", p.Type, p.MaxItems)
	}
	return p.Type.String()
}

// Help is what "spindle rpc METHOD --help" prints.
func (m *Method) Help() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nUsage: spindle rpc %s\n", m.Doc, m.Usage())
	if len(m.Params) > 0 {
		b.WriteString("\nParameters:\n")
		for _, p := range m.Params {
			p.help(&b, "  ")
		}
	}
	fmt.Fprintf(&b, "\nResult: %s\nCallable: %s\n", m.Result, when(m.State))
	if len(m.Aliases) > 0 {
		fmt.Fprintf(&b, "Older name: %s\n", strings.Join(m.Aliases, ", "))
	}
	return b.String()
}

func (p *Param) help(b *strings.Builder, indent string) {
	need := ""
	if p.Required {
		need = " (required)"
	}
	fmt.Fprintf(b, "%s%s%s: %s\n%s    %s\n", indent, p.Name, need, p.describe(), indent, p.Doc)
	for _, f := range p.Fields {
		f.help(b, indent+"    ")
	}
}

// HelpAll is the list of methods, by group.
func HelpAll() string {
	var b strings.Builder
	group := ""
	for _, m := range Methods() {
		if m.group != group {
			group = m.group
			fmt.Fprintf(&b, "\n%s:\n", group)
		}
		fmt.Fprintf(&b, "  %-40s %s\n", m.Name, m.Doc)
	}
	return b.String()
}

// Completion is the completion script of a shell: "bash" or "zsh". commands are
// the program's own, with their flags.
func Completion(shell string, commands map[string][]string, order []string) (string, error) {
	var b strings.Builder
	switch shell {
	case "bash":
	case "zsh":
		b.WriteString("#compdef spindle\nautoload -U +X bashcompinit && bashcompinit\n")
	default:
		return "", fmt.Errorf("no completion for shell %q; known are bash and zsh", shell)
	}
	b.WriteString(`# Completion for spindle, made by "spindle completion".
COMP_WORDBREAKS=${COMP_WORDBREAKS//=} # key=value is one word
_spindle() {
    local cur=${COMP_WORDS[COMP_CWORD]} words=""
    if ((COMP_CWORD == 1)); then
`)
	fmt.Fprintf(&b, "        words=%q\n    else\n        case ${COMP_WORDS[1]} in\n", strings.Join(order, " "))
	for _, name := range order {
		if name == "rpc" {
			continue
		}
		if flags := commands[name]; len(flags) > 0 {
			fmt.Fprintf(&b, "        %s) words=%q ;;\n", name, strings.Join(flags, " "))
		}
	}
	b.WriteString("        rpc)\n            case ${COMP_WORDS[2]} in\n")
	var names []string
	for _, m := range Methods() {
		names = append(names, m.Name)
		if len(m.Params) == 0 {
			continue
		}
		var keys []string
		for _, p := range m.Params {
			keys = append(keys, p.Name+"=")
			for _, e := range p.Enum {
				keys = append(keys, p.Name+"="+e)
			}
		}
		fmt.Fprintf(&b, "            %s) words=%q; compopt -o nospace 2>/dev/null ;;\n", m.Name, strings.Join(keys, " "))
	}
	fmt.Fprintf(&b, `            esac
            ((COMP_CWORD == 2)) && words=%q ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    if ((${#COMPREPLY[@]} == 0)); then
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -F _spindle spindle
`, strings.Join(append(names, commands["rpc"]...), " "))
	return b.String(), nil
}
