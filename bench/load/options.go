package load

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"spindle/verbs"
)

const (
	// DefaultPort is iSCSI's (RFC 7143 §15).
	DefaultPort = "3260"
	// MaxDepth and MaxConnections bound what one thread is asked to hold.
	MaxDepth       = 4096
	MaxConnections = 4096
	// MaxBlock is the largest I/O, in bytes.
	MaxBlock = 4 << 20
)

// ErrOption: an option makes no sense, alone or beside another.
var ErrOption = errors.New("bad option")

func badOption(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrOption, fmt.Sprintf(format, args...))
}

// Address is a logical unit on the network.
type Address struct {
	Host   string // host:port
	Target string // target node name
	LUN    uint16
	ISER   bool // over RDMA, not TCP
}

// ParseURL reads iscsi://host[:port]/target/lun, libiscsi's notation, and iser://
// for the same over RDMA.
func ParseURL(text string) (Address, error) {
	want := func() (Address, error) {
		return Address{}, badOption("%q is no LUN; write iscsi://host[:port]/target-name/lun, or iser:// for RDMA", text)
	}
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok || scheme != "iscsi" && scheme != "iser" {
		return want()
	}
	host, rest, ok := strings.Cut(rest, "/")
	slash := strings.LastIndexByte(rest, '/')
	if !ok || host == "" || slash <= 0 {
		return want()
	}
	name, err := url.PathUnescape(rest[:slash])
	if err != nil {
		return want()
	}
	lun, err := strconv.ParseUint(rest[slash+1:], 10, 14)
	if err != nil {
		return want()
	}
	if _, _, err := net.SplitHostPort(host); err != nil {
		host = net.JoinHostPort(strings.Trim(host, "[]"), DefaultPort)
	}
	return Address{ISER: scheme == "iser", Host: host, Target: name, LUN: uint16(lun)}, nil
}

func (a Address) String() string {
	scheme := "iscsi"
	if a.ISER {
		scheme = "iser"
	}
	return fmt.Sprintf("%s://%s/%s/%d", scheme, a.Host, a.Target, a.LUN)
}

// Pattern is what is read and written where.
type Pattern struct {
	Name   string // fio's word
	Random bool
	Reads  int // percent
}

// ParsePattern reads fio's words for --rw; mix is the percentage of reads of the
// mixed ones.
func ParsePattern(word string, mix int) (Pattern, error) {
	p := Pattern{Name: word, Random: strings.HasPrefix(word, "rand")}
	switch word {
	case "read", "randread":
		p.Reads = 100
	case "write", "randwrite":
	case "rw", "readwrite", "randrw":
		p.Reads = mix
	default:
		return p, badOption("--rw %q: want read, write, randread, randwrite, rw or randrw", word)
	}
	if mix < 0 || mix > 100 {
		return p, badOption("--rwmixread %d: want a percentage", mix)
	}
	return p, nil
}

// Size is a block size and how many of a hundred I/Os have it.
type Size struct {
	Bytes   uint32
	Percent int
}

// ParseSizes reads "4k", or fio's split "4k/70:64k/30".
func ParseSizes(text string) ([]Size, error) {
	var list []Size
	total := 0
	for part := range strings.SplitSeq(text, ":") {
		size, percent, split := strings.Cut(part, "/")
		n, err := ParseBytes(size)
		if err != nil {
			return nil, err
		}
		if n > MaxBlock {
			return nil, badOption("block size %s is above %d KiB", size, MaxBlock>>10)
		}
		s := Size{Bytes: uint32(n), Percent: 100}
		if split {
			if s.Percent, err = strconv.Atoi(percent); err != nil || s.Percent < 1 {
				return nil, badOption("block size %q: want SIZE/PERCENT", part)
			}
		}
		total += s.Percent
		list = append(list, s)
	}
	if total != 100 {
		return nil, badOption("the percentages of %q add up to %d", text, total)
	}
	return list, nil
}

// ParseBytes reads a number of bytes with a binary unit, as fio does: 512, 4k, 1g.
func ParseBytes(text string) (uint64, error) {
	s := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(text), "b"), "i")
	shift := 0
	if n := len(s); n > 0 {
		if i := strings.IndexByte("kmgt", s[n-1]); i >= 0 {
			shift, s = 10*(i+1), s[:n-1]
		}
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n == 0 || n > math.MaxInt64>>shift {
		return 0, badOption("%q is no size; write 512, 4k or 1g", text)
	}
	return n << shift, nil
}

// Options of a run. The zero value of most is a sensible default; see Check.
type Options struct {
	Address     Address
	Pattern     Pattern
	Sizes       []Size
	Depth       int // commands in flight on each connection
	Connections int
	Runtime     time.Duration // measured
	Ramp        time.Duration // before that, not measured
	Rate        int           // I/Os a second of all connections together; 0 is as many as possible
	Span        uint64        // bytes from the start of the LUN to touch; 0 is all of it
	Verify      bool
	CPU         int // to pin the thread to; -1 leaves it
	Header      bool
	Data        bool   // digests (RFC 7143 §13.1)
	Congestion  string // TCP congestion control; "" leaves the system's
	Seed        uint64
	Once        bool // end when a sequential pattern has gone through the span
	Idle        bool // log in and send nothing
	// Sleep gives the CPU away until a command is due or answered, instead of
	// spinning: for targets that share the CPU. It wants a Rate.
	Sleep bool
	// Opcode sends this command instead of READ(16) and WRITE(16); see Opcodes.
	// Its data is the same in every block, so that what compares finds it.
	Opcode string

	// RDMA opens the provider that an iSER address needs.
	RDMA func() (verbs.Provider, error)
	// Window, if set, is called on the loading thread right before the measured
	// time begins (true) and right after it ends (false).
	Window func(begins bool)
	// Progress, if set, is filled while the run goes on.
	Progress *Progress
}

// Check completes the options and refuses nonsense.
func (o *Options) Check() error {
	if o.Depth == 0 {
		o.Depth = 1
	}
	if o.Connections == 0 {
		o.Connections = 1
	}
	if len(o.Sizes) == 0 {
		o.Sizes = []Size{{4096, 100}}
	}
	switch {
	case o.Depth < 1 || o.Depth > MaxDepth:
		return badOption("--iodepth %d: want 1 to %d", o.Depth, MaxDepth)
	case o.Connections < 1 || o.Connections > MaxConnections:
		return badOption("--connections %d: want 1 to %d", o.Connections, MaxConnections)
	case o.Runtime <= 0:
		return badOption("--runtime %v: want a time", o.Runtime)
	case o.Ramp < 0 || o.Rate < 0:
		return badOption("negative ramp time or rate")
	case o.Sleep && o.Rate == 0:
		return badOption("--sleep wants --rate: without one there is always something to do")
	case o.Verify && len(o.Sizes) > 1:
		return badOption("--verify wants one block size, not a split")
	case o.Once && (o.Pattern.Random || o.Connections > 1 || o.Ramp > 0):
		return badOption("once through a LUN wants one connection, a sequential pattern and no ramp")
	case o.Pattern.Name == "" && o.Opcode == "":
		return badOption("no pattern")
	case o.Address.ISER && (o.Header || o.Data):
		return badOption("over iSER there are no digests: the network has its own")
	case o.Opcode != "" && (o.Verify || len(o.Sizes) > 1):
		return badOption("--opcode wants one block size and no verification")
	}
	if o.Address.ISER && o.RDMA == nil {
		return fmt.Errorf("%v: %w: this program brings none", o.Address, ErrRDMA)
	}
	for _, s := range o.Sizes {
		if s.Bytes%512 != 0 {
			return badOption("block size %d is not a multiple of 512", s.Bytes)
		}
	}
	if o.Opcode != "" {
		op, err := findOpcode(o.Opcode)
		if err != nil {
			return err
		}
		o.Pattern = Pattern{Name: o.Opcode, Random: true, Reads: 100}
		if op.out() {
			o.Pattern.Reads = 0
		}
	}
	if o.Seed == 0 {
		o.Seed = 88172645463325252
	}
	return nil
}

// largest is the largest block size.
func (o *Options) largest() uint32 {
	return slices.MaxFunc(o.Sizes, func(a, b Size) int { return int(a.Bytes) - int(b.Bytes) }).Bytes
}
