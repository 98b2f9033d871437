package metamorphic

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"spindle/bdev"
	"spindle/bdev/delay"
	"spindle/bdev/file"
	"spindle/bdev/malloc"
	"spindle/bdev/null"
	"spindle/bdev/passthru"
	"spindle/internal/testbed"
	"spindle/iscsi"
	"spindle/iscsi/dialogue"
	"spindle/iscsi/dialogue/linktest"
	"spindle/iscsi/iscsitest"
	"spindle/reactor/ring/simring"
)

var (
	seeds = flag.Int("metamorphic.seeds", 1, "how many lists")
	first = flag.Uint64("metamorphic.seed", 1, "the first list's seed")
	count = flag.Int("metamorphic.ops", 120, "operations of a list")
)

// kinds are the LUNs of each target, by number.
var kinds = []string{"null", "malloc", "file, buffered", "file, O_DIRECT", "passthru on delay on malloc"}

const reference = 1 // malloc keeps what is written, at once

// rig is a target, on what terms to reach it, and how. What open gives is closed by
// the function beside it.
type rig struct {
	name  string
	terms []terms
	open  func(lun uint16, t terms) (runner, func(), error)
}

// overTCP is a rig whose links dial makes.
func overTCP(name, target string, dial func() (dialogue.Link, error)) rig {
	return rig{name, allTerms, func(lun uint16, t terms) (runner, func(), error) {
		l, err := dial()
		if err != nil {
			return nil, nil, err
		}
		i, err := login(l, target, lun, t)
		return i, l.Close, err
	}}
}

// simulated is a target in this goroutine.
func simulated(t testing.TB, seed uint64, delayed bool) rig {
	g := iscsitest.New(t, iscsitest.Options{
		Seed: seed, Delayed: delayed, LUNs: luns,
		World: simring.Config{Rand: rand.New(rand.NewPCG(seed, 3)), DiskLatency: 20 * time.Microsecond},
	})
	closeFiles(t, g)
	name := "simulated ring"
	if delayed {
		name += " with a slow network"
	}
	return overTCP(name, iscsitest.Node, func() (dialogue.Link, error) { return linktest.DialSim(g) })
}

// closeFiles takes the devices of g away at the end of a test, before the target's
// own cleanup wants every descriptor back.
func closeFiles(t testing.TB, g *iscsitest.Target) {
	t.Cleanup(func() {
		if err := g.Engine.RemoveNode(g, iscsitest.Node); err != nil {
			t.Error(err)
		}
		for _, l := range g.LUNs {
			if err := l.Bdev.Module().Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

func luns(g *iscsitest.Target) []iscsi.LUN {
	must := func(d bdev.Device, err error) bdev.Device {
		if err != nil {
			g.T.Fatal(err)
		}
		return d
	}
	ram := func() bdev.Device {
		return must(malloc.New(malloc.Config{Space: g.Space, BlockSize: blockSize, Blocks: blocks}))
	}
	disk := func(path string, buffered bool) bdev.Device {
		g.World.AddDisk(path, simring.DiskOptions{Size: blocks * blockSize, NoDirect: buffered})
		return must(file.New(file.Config{Kernel: g.World, Path: path, BlockSize: blockSize, Space: g.Space, Buffered: buffered, Reactors: 1}))
	}
	slow := must(delay.New(delay.Config{Base: ram(), Latency: [delay.NumKinds]time.Duration{30 * time.Microsecond, 50 * time.Microsecond}}))
	var list []iscsi.LUN
	for i, d := range []bdev.Device{
		must(null.New(null.Config{Space: g.Space, BlockSize: blockSize, Blocks: blocks})),
		ram(), disk("/buffered", true), disk("/direct", false), must(passthru.New(slow)),
	} {
		list = append(list, iscsi.LUN{ID: uint16(i), Bdev: bdev.New(fmt.Sprint("d", i), bdev.UUID{0: byte(i + 1)}, d)})
	}
	return list
}

// node of the built target.
const node = "iqn.2026-11.dev.spindle:metamorphic"

// served is the built target.
func served(t testing.TB) rig {
	target := linktest.Serve(t, testbed.Options{})
	// A file system in memory takes no O_DIRECT before Linux 6.6: the folder of
	// the test is on a disk wherever that is.
	image := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(image, make([]byte, blocks*blockSize), 0o600); err != nil {
		t.Fatal(err)
	}
	shm, err := os.CreateTemp("/dev/shm", "spindle-metamorphic-*.img")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(shm.Name()) })
	if err := shm.Truncate(blocks * blockSize); err != nil {
		t.Fatal(err)
	}
	n, b := fmt.Sprint("num_blocks=", blocks), fmt.Sprint("block_size=", blockSize)
	for _, call := range [][]string{
		{"bdev_null_create", "name=m0", n, b},
		{"bdev_malloc_create", "name=m1", n, b},
		{"bdev_aio_create", "name=m2", "filename=" + shm.Name(), b},
		{"bdev_aio_create", "name=m3", "filename=" + image, b},
		{"bdev_malloc_create", "name=m4a", n, b},
		{"bdev_delay_create", "name=m4b", "base_bdev_name=m4a", "avg_read_latency=30", "p99_read_latency=60", "avg_write_latency=50", "p99_write_latency=70"},
		{"bdev_passthru_create", "name=m4", "base_bdev_name=m4b"},
		{"iscsi_create_target_node", "name=" + node, "alias_name=metamorphic", "queue_depth=16", "disable_chap=true",
			`luns=[{"lun_id":0,"bdev_name":"m0"},{"lun_id":1,"bdev_name":"m1"},{"lun_id":2,"bdev_name":"m2"},{"lun_id":3,"bdev_name":"m3"},{"lun_id":4,"bdev_name":"m4"}]`,
			`pg_ig_maps=[{"pg_tag":1,"ig_tag":1}]`},
	} {
		if out, err := target.RPC(t.Context(), call...); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	return overTCP("socket", node, func() (dialogue.Link, error) { return linktest.DialSocket(target.Addr(), 10*time.Second) })
}

// trace runs a list on a LUN, on these terms.
func (r rig) trace(ops []op, lun uint16, t terms) ([]outcome, error) {
	i, done, err := r.open(lun, t)
	if done != nil {
		defer done()
	}
	if err != nil {
		return nil, err
	}
	return trace(i, ops, kinds[lun] != "null")
}

// TestSame runs each list everywhere and compares with malloc on the simulated
// ring under default terms.
func TestSame(t *testing.T) {
	rigs := []rig{simulated(t, 1, false), simulated(t, 2, true), overISER(t, 3)}
	if !testing.Short() {
		rigs = append(rigs, served(t))
	}
	for k := range *seeds {
		seed := *first + uint64(k)
		ops := list(seed, *count)
		want, err := rigs[0].trace(ops, reference, allTerms[0])
		if err != nil {
			t.Fatal(err)
		}
		worthwhile(t, ops, want)
		for _, r := range rigs {
			for lun, kind := range kinds {
				for _, terms := range r.terms {
					t.Run(fmt.Sprintf("seed %d/%s/%s/%s", seed, r.name, kind, terms.name), func(t *testing.T) {
						got, err := r.trace(ops, uint16(lun), terms)
						if err != nil {
							t.Fatal(err)
						}
						compare(t, ops, want, got, kind)
					})
				}
			}
		}
	}
}

// compare reports the first operations that came to something else.
func compare(t *testing.T, ops []op, want, got []outcome, kind string) {
	faults := 0
	for n := range ops {
		w, g := want[n], got[n]
		if kind == "null" {
			if ops[n].compares() {
				continue // whether its zeroes match is what differs by nature
			}
			if ops[n].stored {
				w.data, g.data = make([]byte, len(w.data)), make([]byte, len(g.data))
			}
		}
		if w.status != g.status || w.flags != g.flags || w.residual != g.residual || w.sense != g.sense || !bytes.Equal(w.data, g.data) {
			at := 0
			for at < min(len(w.data), len(g.data)) && w.data[at] == g.data[at] {
				at++
			}
			t.Errorf("operation %d, %v:\n\tgot  %v\n\twant %v\n\tfirst difference at byte %d", n, ops[n], g, w, at)
			if faults++; faults == 3 {
				return
			}
		}
	}
}

// compares tells whether an operation's status depends on what the medium holds.
func (o op) compares() bool { return o.cdb[0] == 0x89 || o.cdb[0] == 0x2f }

// worthwhile fails when a list does too little of anything.
func worthwhile(t *testing.T, ops []op, res []outcome) {
	good, bad, read, miscompares := 0, 0, 0, 0
	for n, o := range res {
		switch {
		case o.status == 0:
			good++
		case o.status == 2 && len(o.sense) > 2 && o.sense[2]&15 == 0xe:
			miscompares++
		default:
			bad++
		}
		if ops[n].stored && !bytes.Equal(o.data, make([]byte, len(o.data))) {
			read++
		}
	}
	if n := len(ops); good < n/2 || bad < n/20 || read < n/20 || n >= 100 && miscompares == 0 {
		t.Errorf("%d operations: %d good, %d failed, %d miscompares, %d read something", n, good, bad, miscompares, read)
	}
}
