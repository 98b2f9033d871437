package counters

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

// GCTrace makes a Go program report its collections on standard error, in the
// form that Collections reads.
const GCTrace = "GODEBUG=gctrace=1"

// GC is what a Go program's collector did.
type GC struct {
	Cycles  int           `json:"cycles"`
	Pauses  time.Duration `json:"pauses_ns"`  // the world was stopped, altogether
	Longest time.Duration `json:"longest_ns"` // of them
	Garbage uint64        `json:"garbage"`    // bytes allocated between the first collection and the last
}

// gc 3 @0.5s 2%: 0.026+0.39+0.002 ms clock, ... ms cpu, 4->4->1 MB, ... (runtime, "gctrace").
var gcLine = regexp.MustCompile(`(?m)^gc (\d+) @.*?: ([\d.]+)\+[\d.]+\+([\d.]+) ms clock.* (\d+)->\d+->(\d+) MB`)

// Collections reads what a program with GCTrace said. after is the number of a
// collection; only later ones count. last is the number of the last.
func Collections(text string, after int) (g GC, last int) {
	last = after
	live := int64(-1)
	for _, m := range gcLine.FindAllStringSubmatch(text, -1) {
		n, _ := strconv.Atoi(m[1])
		from, _ := strconv.ParseInt(m[4], 10, 64)
		left, _ := strconv.ParseInt(m[5], 10, 64)
		if n > last {
			last = n
			g.Cycles++
			for _, pause := range []string{m[2], m[3]} { // both ends of a cycle stop the world
				d := milliseconds(pause)
				g.Pauses += d
				g.Longest = max(g.Longest, d)
			}
			if live >= 0 {
				g.Garbage += uint64(max(0, from-live)) << 20
			}
		}
		live = left
	}
	return g, last
}

func milliseconds(text string) time.Duration {
	ms, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil {
		return 0
	}
	return time.Duration(ms * float64(time.Millisecond))
}
