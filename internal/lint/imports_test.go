package lint

import (
	"go/ast"
	"strconv"
	"strings"
)

// chain is the one direction of imports: a room may import the rooms after it.
var chain = []string{
	"cmd", "control/rpc", "control", "iscsi", "scsi", "bdev", "reactor", "reactor/ring",
	"reactor/mem", "reactor/clock", "internal/sys",
}

// peers of the chain that do not see each other although one comes first.
var strangers = map[string]string{"reactor/mem": "reactor/clock"}

// closed rooms import these of the module and nothing else.
var closed = map[string][]string{
	"iscsi/pdu":           {"internal/crc32c"},
	"iscsi/login":         {"iscsi/pdu"},
	"verbs":               {"reactor/mem", "reactor/clock", "internal/sys", "internal/invariants"},
	"bench":               {"iscsi/pdu", "reactor/ring", "reactor/mem", "reactor/clock", "internal/sys", "verbs"}, // wire formats and the edges, nothing of the target
	"internal/invariants": {},
	"internal/plant":      {},
	"internal/crc32c":     {"internal/sys"},
}

// plugs are handed in as values: cmd alone imports them.
var plugs = []string{"iser", "iscsi/tcp", "bdev"} // of bdev, the folders below it

// tools are for developers: nothing that ships imports them.
var tools = []string{"internal/lint", "internal/clients", "internal/conformance", "internal/testbed", "internal/rig", "cmd/spindle-dev"}

// outside are the modules that are not ours, and where each may be used.
var outside = map[string][]string{
	"golang.org/x/sys":       {"internal/sys", "verbs"},
	"github.com/pkg/profile": {"cmd"},
	"github.com/cilium/ebpf": {"bench"},

	"github.com/HdrHistogram/hdrhistogram-go": {"bench"},
	"github.com/anishathalye/porcupine":       {"internal/sim"},
}

func importDirection(p *pkg) (out []finding) {
	for _, f := range p.product() {
		for _, spec := range f.ast.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			if why := mayNotImport(p.room, path); why != "" {
				out = append(out, p.at(spec, "%s imports %s: %s", p.room, path, why))
			}
		}
	}
	return out
}

// mayNotImport is why room may not import path; "" if it may.
func mayNotImport(room, path string) string {
	to, ours := strings.CutPrefix(path, module+"/")
	switch {
	case !ours && !strings.Contains(strings.SplitN(path, "/", 2)[0], "."):
		return "" // the standard library
	case !ours:
		for mod, rooms := range outside {
			if under(path, mod) && underAny(room, rooms) {
				return ""
			}
		}
		return "no such dependency there"
	case testOnly(to) && !testOnly(room):
		return "it is for tests"
	case underAny(to, tools) && !underAny(room, tools) && !testOnly(room):
		return "a developer's tool"
	case to == "internal/invariants" || to == "internal/plant" || testOnly(room) || underAny(room, tools):
		return ""
	case isPlug(to) && !under(to, plugRoot(room)) && !under(room, "cmd"):
		return "a plug is handed in by cmd as a value"
	}
	for r, may := range closed {
		if under(room, r) && !under(to, r) && !underAny(to, may) {
			return r + " may import " + strings.Join(may, ", ") + " of the module and nothing else"
		}
		if under(room, r) {
			return ""
		}
	}
	if under(to, "iscsi/pdu") || to == "internal/crc32c" {
		return "" // wire formats are for everyone else
	}
	from, dest := level(room), level(to)
	if dest < 0 || from < 0 || dest < from || strangers[room] == to {
		return "against the direction " + strings.Join(chain, " > ")
	}
	return ""
}

func under(path, room string) bool { return path == room || strings.HasPrefix(path, room+"/") }

func underAny(path string, rooms []string) bool {
	for _, r := range rooms {
		if under(path, r) {
			return true
		}
	}
	return false
}

// testOnly rooms are helpers of tests (bdevtest, iscsitest), the simulator and its ring.
func testOnly(room string) bool {
	last := room[strings.LastIndexByte(room, '/')+1:]
	return strings.HasSuffix(last, "test") && last != "test" || under(room, "reactor/ring/simring") || under(room, "internal/sim")
}

func isPlug(room string) bool {
	return under(room, "iser") || under(room, "iscsi/tcp") || strings.HasPrefix(room, "bdev/") && !testOnly(room)
}

// plugRoot is the plug that room belongs to, which sees itself; none is "-".
func plugRoot(room string) string {
	parts := strings.SplitN(room, "/", 3)
	switch {
	case !isPlug(room):
		return "-"
	case parts[0] == "iser":
		return "iser"
	}
	return parts[0] + "/" + parts[1]
}

// beside are rooms that stand next to one of the chain.
var beside = map[string]string{"iser": "iscsi", "verbs": "reactor/mem", "bench": "control"}

// level is a room's place in the chain: the longest entry it lies under. Two
// rooms on one level are one room's folders; the compiler keeps cycles out.
func level(room string) int {
	if b, ok := beside[strings.SplitN(room, "/", 2)[0]]; ok {
		room = b
	}
	best := -1
	for i, r := range chain {
		if under(room, r) && (best < 0 || len(r) > len(chain[best])) {
			best = i
		}
	}
	return best
}

// unsafeFiles holds all files, tests too.
func unsafeFiles(p *pkg) (out []finding) {
	for _, f := range p.files {
		for _, spec := range f.ast.Imports {
			if spec.Path.Value != `"unsafe"` && spec.Path.Value != `"C"` {
				continue
			}
			if !p.in("internal/sys", "verbs") {
				out = append(out, p.at(spec, "unsafe or cgo in %s: move it behind a function of internal/sys", p.room))
			} else if base := strings.TrimSuffix(strings.TrimSuffix(f.name, ".go"), "_test"); !strings.HasSuffix(base, "_unsafe") && spec.Path.Value == `"unsafe"` {
				out = append(out, p.at(spec, "%s imports unsafe: its name must end in _unsafe.go", f.name))
			}
		}
	}
	return out
}

// rawSyscalls: outside internal/sys and verbs, package syscall gives Errno and
// its E values, and signals. The developer's tools are free.
func rawSyscalls(p *pkg) (out []finding) {
	if p.in("internal/sys", "verbs") || p.in(tools...) {
		return nil
	}
	for _, f := range p.product() {
		for _, spec := range f.ast.Imports {
			if strings.HasPrefix(spec.Path.Value, `"golang.org/x/sys`) {
				out = append(out, p.at(spec, "golang.org/x/sys outside internal/sys"))
			}
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok || pkgOf(p, sel) != "syscall" {
				return true
			}
			name := sel.Sel.Name
			if name != "Errno" && name != "Signal" && name != "RawConn" && !strings.HasPrefix(name, "SIG") && !isErrno(name) {
				out = append(out, p.at(sel, "syscall.%s outside internal/sys", name))
			}
			return true
		})
	}
	return out
}

// isErrno knows the names of error numbers: E and capitals (EAGAIN, E2BIG),
// but not EPOLLIN and the like.
func isErrno(name string) bool {
	return len(name) > 2 && name[0] == 'E' && name == strings.ToUpper(name) && !strings.Contains(name, "_") && !strings.HasPrefix(name, "EPOLL")
}
