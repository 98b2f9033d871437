package flame

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"html"
	"maps"
	"slices"
	"strings"
)

// node is a function in the place where it was called.
type node struct {
	name     string
	count    int64
	children map[string]*node
}

func (n *node) child(name string) *node {
	c := n.children[name]
	if c == nil {
		c = &node{name: name, children: map[string]*node{}}
		n.children[name] = c
	}
	return c
}

// tree merges stacks; within keeps those that run through a function whose name
// holds it, from there on. "" keeps all.
func tree(stacks []Stack, within string) *node {
	root := &node{name: "all", children: map[string]*node{}}
	for _, s := range stacks {
		from := slices.IndexFunc(s.Functions, func(f string) bool { return strings.Contains(f, within) })
		if from < 0 {
			continue
		}
		root.count += s.Count
		at := root
		for _, f := range s.Functions[from:] {
			at = at.child(f)
			at.count += s.Count
		}
	}
	return root
}

func (n *node) depth() int {
	d := 0
	for _, c := range n.children {
		d = max(d, c.depth())
	}
	return d + 1
}

// The picture, in pixels.
const (
	width    = 1200.0
	rowHigh  = 17.0
	margin   = 10.0
	titleTop = 34.0
	perChar  = 6.6 // of the font
	thin     = 0.4 // narrower functions are left out
)

// SVG draws stacks. within is the function to begin with, or "".
func SVG(stacks []Stack, title, within string) string {
	root := tree(stacks, within)
	var b strings.Builder
	high := titleTop + rowHigh*float64(root.depth()) + margin
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="ui-monospace, DejaVu Sans Mono, monospace" font-size="11">`+"\n", width, high)
	fmt.Fprintf(&b, `<title>%s</title><rect width="100%%" height="100%%" fill="#fff"/>`+"\n", html.EscapeString(title))
	fmt.Fprintf(&b, `<text x="%g" y="20" font-size="14" fill="#1f2933">%s</text>`+"\n", margin, html.EscapeString(title))
	if root.count > 0 {
		root.draw(&b, root.count, margin, high-margin-rowHigh, width-2*margin)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (n *node) draw(b *strings.Builder, total int64, x, y, w float64) {
	share := 100 * float64(n.count) / float64(total)
	fmt.Fprintf(b, `<g><title>%s: %.1f %%</title><rect x="%.1f" y="%.1f" width="%.1f" height="%g" fill="%s" rx="1"/>`,
		html.EscapeString(n.name), share, x, y, max(w-0.5, 0.2), rowHigh-1, colour(n.name))
	if room := int((w - 6) / perChar); room > 2 {
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" fill="#1f2933">%s</text>`, x+3, y+12, html.EscapeString(short(n.name, room)))
	}
	b.WriteString("</g>\n")
	// The widest first, so that the picture of like profiles is alike.
	order := slices.SortedFunc(maps.Values(n.children), func(p, q *node) int {
		return cmp.Or(cmp.Compare(q.count, p.count), strings.Compare(p.name, q.name))
	})
	for _, c := range order {
		cw := w * float64(c.count) / float64(n.count)
		if cw >= thin {
			c.draw(b, total, x, y-rowHigh, cw)
		}
		x += cw
	}
}

// short is a name without its path, cut to n characters.
func short(name string, n int) string {
	name = name[strings.LastIndexByte(name, '/')+1:]
	if len(name) > n {
		name = name[:n-1] + "…"
	}
	return name
}

// colour is by package: the kernel's entries red, ours orange to green, the
// runtime grey.
func colour(name string) string {
	pkg := name[strings.LastIndexByte(name, '/')+1:]
	pkg, _, _ = strings.Cut(pkg, ".")
	switch {
	case strings.Contains(name, "Syscall") || pkg == "syscall" || pkg == "linux":
		return "#e8826b"
	case pkg == "runtime" || name == "all":
		return "#cbd2d9"
	}
	h := fnv.New32a()
	h.Write([]byte(pkg))
	return fmt.Sprintf("hsl(%d 62%% 72%%)", 35+h.Sum32()%110)
}

// Share is a function's part of the time, with all that it called.
type Share struct {
	Name  string
	Total float64 // of all stacks
	Self  float64
}

// Top lists functions by the time they took themselves, at most n of them.
func Top(stacks []Stack, n int) []Share {
	self, total := map[string]int64{}, map[string]int64{}
	all := int64(0)
	for _, s := range stacks {
		all += s.Count
		seen := map[string]bool{}
		for _, f := range s.Functions {
			if !seen[f] {
				seen[f] = true
				total[f] += s.Count
			}
		}
		if len(s.Functions) > 0 {
			self[s.Functions[len(s.Functions)-1]] += s.Count
		}
	}
	var list []Share
	for name, c := range self {
		list = append(list, Share{name, float64(total[name]) / float64(all), float64(c) / float64(all)})
	}
	slices.SortFunc(list, func(p, q Share) int {
		return cmp.Or(cmp.Compare(q.Self, p.Self), strings.Compare(p.Name, q.Name))
	})
	return list[:min(n, len(list))]
}
