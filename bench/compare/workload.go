package compare

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"spindle/bench/load"
	"spindle/bench/peer"
)

// Workload is a cell of the comparison.
type Workload struct {
	Transport   string `json:"transport,omitempty"` // TCP, ISER; empty is TCP that nobody asks about
	LUN         string `json:"lun"`                 // peer.Null or peer.RAM
	RW          string `json:"rw"`
	Mix         int    `json:"rwmixread"`
	Size        uint32 `json:"bs"`
	Depth       int    `json:"iodepth"`
	Connections int    `json:"connections"`
	Digests     bool   `json:"digests,omitempty"`
	Rate        int    `json:"rate,omitempty"`   // I/Os a second; 0 is as many as possible
	Sleep       bool   `json:"sleep,omitempty"`  // the initiator gives its CPU away meanwhile
	Opcode      string `json:"opcode,omitempty"` // sent instead of READ(16) and WRITE(16)
	Idle        bool   `json:"idle,omitempty"`   // nothing is sent
}

// Name is how the workload is written, and read by ParseWorkloads.
func (w Workload) Name() string {
	rw := w.RW
	if w.mixed() {
		rw += strconv.Itoa(w.Mix)
	}
	s := fmt.Sprintf("%s:%s:%s:%d", w.LUN, rw, load.FormatBytes(uint64(w.Size)), w.Depth)
	if w.Transport != "" {
		s = w.Transport + "/" + s
	}
	if w.Connections != 1 || w.Digests {
		s += ":" + strconv.Itoa(w.Connections)
	}
	if w.Digests {
		s += ":digests"
	}
	return s
}

func (w Workload) transport() string {
	if w.Transport == "" {
		return TCP
	}
	return w.Transport
}

func (w Workload) mixed() bool { return strings.HasSuffix(w.RW, "rw") || w.RW == "readwrite" }

// Title is the workload in words.
func (w Workload) Title() string {
	rw := w.RW
	if w.mixed() {
		rw += fmt.Sprintf(" %d/%d", w.Mix, 100-w.Mix)
	}
	s := fmt.Sprintf("%s, %s %s, QD %d", w.LUN, strings.ToUpper(load.FormatBytes(uint64(w.Size))), rw, w.Depth)
	switch w.Transport {
	case TCP:
		s = "TCP, " + s
	case ISER:
		s = "iSER, " + s
	}
	if w.Connections != 1 {
		s += fmt.Sprintf(", %d connections", w.Connections)
	}
	if w.Digests {
		s += ", digests"
	}
	return s
}

// Sets of workloads with a name.
var sets = []struct{ Name, Text, About string }{
	{"quick", "null:randread:4k:1+32", "two cells, a first look"},
	{"broad", "null:randread:512+4k:1+32+128,ram:randread+randwrite+randrw70:4k:32,ram:read+write:128k:32", "small and large, null and memory"},
	{"depth", "null:randread:4k:1+2+4+8+16+32+64+128", "IOPS against queue depth"},
	{"rig", "null:randread+randwrite:512+4k:1+32,ram:randread+randwrite:4k:32", "what is asked of the kernel's initiator"},
	{"connections", "null:randread:4k:4:1+16+256+1024", "one to many connections"},
}

// SetsHelp lists the sets for a help text.
func SetsHelp() string {
	var lines []string
	for _, s := range sets {
		lines = append(lines, fmt.Sprintf("%s (%s)", s.Name, s.About))
	}
	return strings.Join(lines, ",\n")
}

// ParseWorkloads reads a comma-separated list of sets and of
// [TRANSPORT/]LUN:RW:BS:QD[:CONNECTIONS[:digests]], in which + separates alternatives:
// null:randread:512+4k:1+32 is four workloads.
func ParseWorkloads(text string) ([]Workload, error) {
	var all []Workload
	for item := range strings.SplitSeq(text, ",") {
		if i := slices.IndexFunc(sets, func(s struct{ Name, Text, About string }) bool { return s.Name == item }); i >= 0 {
			more, err := ParseWorkloads(sets[i].Text)
			if err != nil {
				return nil, err
			}
			all = append(all, more...)
			continue
		}
		more, err := parseItem(item)
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return all, nil
}

func parseItem(item string) (all []Workload, err error) {
	transport, rest, ok := strings.Cut(item, "/")
	if !ok {
		transport, rest = "", item
	}
	if ok && transport != TCP && transport != ISER {
		return nil, fmt.Errorf("workload %q: there is no transport %q, only %s and %s", item, transport, TCP, ISER)
	}
	parts := strings.Split(rest, ":")
	if len(parts) < 4 || len(parts) > 6 {
		return nil, fmt.Errorf("workload %q: want LUN:RW:BS:QD[:CONNECTIONS[:digests]] or one of %s", item, SetsHelp())
	}
	if len(parts) == 4 {
		parts = append(parts, "1")
	}
	w := Workload{Transport: transport, Digests: len(parts) == 6 && parts[5] == "digests"}
	if len(parts) == 6 && !w.Digests {
		return nil, fmt.Errorf("workload %q: after the connections comes nothing but digests", item)
	}
	for w.LUN = range strings.SplitSeq(parts[0], "+") {
		if w.LUN != peer.Null && w.LUN != peer.RAM {
			return nil, fmt.Errorf("workload %q: there is no LUN %q, only %s and %s", item, w.LUN, peer.Null, peer.RAM)
		}
		for rw := range strings.SplitSeq(parts[1], "+") {
			w.RW = strings.TrimRight(rw, "0123456789")
			w.Mix = 50
			if digits := rw[len(w.RW):]; digits != "" {
				w.Mix, _ = strconv.Atoi(digits)
			}
			p, err := load.ParsePattern(w.RW, w.Mix)
			if err != nil {
				return nil, fmt.Errorf("workload %q: %w", item, err)
			}
			w.Mix = p.Reads
			for bs := range strings.SplitSeq(parts[2], "+") {
				n, err := load.ParseBytes(bs)
				if err != nil || n > load.MaxBlock {
					return nil, fmt.Errorf("workload %q: block size %q", item, bs)
				}
				w.Size = uint32(n)
				for qd := range strings.SplitSeq(parts[3], "+") {
					for conns := range strings.SplitSeq(parts[4], "+") {
						var e1, e2 error
						w.Depth, e1 = strconv.Atoi(qd)
						w.Connections, e2 = strconv.Atoi(conns)
						if e1 != nil || e2 != nil || w.Depth < 1 || w.Connections < 1 {
							return nil, fmt.Errorf("workload %q: depth %q, connections %q", item, qd, conns)
						}
						all = append(all, w)
					}
				}
			}
		}
	}
	return all, nil
}
