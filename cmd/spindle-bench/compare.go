package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"spindle/bench/compare"
	"spindle/bench/load"
	"spindle/bench/peer"
	"spindle/bench/report"
	"spindle/internal/sys"
	"spindle/verbs/ibverbs"
)

func compareCommand() command {
	return command{
		name: "compare", args: "", short: "measure targets side by side, with ratios that can be trusted",
		long: `Start targets, each on one CPU with an equal null LUN and an equal LUN in memory,
and load them in turn with the same initiator on another CPU. Ratios are of rounds
next to each other in time, with the interval they lie in; one whose interval is too
wide is refused. What is not installed is left out, with how to get it.

A workload is LUN:RW:BS:QD[:CONNECTIONS[:digests]], + separates alternatives:
null:randread:512+4k:1+32 are four. The sets: ` + strings.ReplaceAll(compare.SetsHelp(), "\n", " ") + `.

--workloads standard is everything that has a goal: rows of workloads against the
limit, the other targets, and Spindle itself under other conditions. It prints each
goal with what was reached. --only repeats some rows: what they measure takes the
place of what is in --out.`,
		flags: func(fs *flag.FlagSet) func(context.Context, streams, []string) error {
			f := declareCompare(fs)
			return func(ctx context.Context, s streams, args []string) error {
				if len(args) > 0 {
					return usagef("compare takes flags only, not %q", args[0])
				}
				p, err := f.plan(s)
				if err != nil {
					return err
				}
				if f.workloads == compare.Standard {
					return f.standard(ctx, s, p)
				}
				return runCompare(ctx, s, p, f.out)
			}
		},
	}
}

type compareFlags struct {
	m                                    compare.Method
	peers, workloads, size, out          string
	spindle, spdk, spindleArgs, spdkArgs string
	only, limit                          string
	chosen                               []compare.Row
	programs                             texts
	runtime, ramp, budget                seconds
}

// texts is a flag that may be given several times.
type texts []string

func (t *texts) String() string     { return strings.Join(*t, " ") }
func (t *texts) Set(s string) error { *t = append(*t, s); return nil }

func declareCompare(fs *flag.FlagSet) *compareFlags {
	f := &compareFlags{runtime: seconds(time.Second), ramp: seconds(300 * time.Millisecond), budget: seconds(13 * time.Minute)}
	fs.StringVar(&f.peers, "peers", "spindle,stgt,spdk,lio,limit", "`LIST` of spindle, spindle-poll, stgt, spdk, lio, limit, or\nname=iscsi://host/target/lun for one that runs already")
	fs.StringVar(&f.m.Transport, "transport", compare.TCP, "`LIST` of tcp and iser, each for every workload. iSER wants an RDMA\ndevice at --host, and --initiator own or fio")
	fs.StringVar(&f.m.Host, "host", "", "`ADDRESS` that the targets listen on (default 127.0.0.1)")
	fs.StringVar(&f.workloads, "workloads", "quick", "`LIST` of sets and workloads, see above")
	fs.StringVar(&f.only, "only", "", "`ROWS` of the standard workloads, such as limit-4k,idle; a wrong\none lists all")
	fs.StringVar(&f.limit, "limit", "limit", "`PEER` that is the machine's limit for standard rows on null LUNs")
	fs.Var(&f.programs, "program", "`NAME=COMMAND` URL of a target more, started with {port}, {cpu}\nand {size} replaced; may be repeated")
	fs.IntVar(&f.m.Rounds, "rounds", 5, "`N` rounds through all peers, for each workload")
	fs.IntVar(&f.m.MaxRounds, "max-rounds", 0, "`N` rounds at most, while ratios spread too wide (default twice as\nmany as --rounds)")
	fs.Var(&f.budget, "budget", "`TIME` after which no more rounds than --rounds are made")
	fs.Var(&f.runtime, "runtime", "`TIME` that is measured in each run")
	fs.Var(&f.ramp, "ramp", "`TIME` of load before that")
	fs.StringVar(&f.m.Initiator, "initiator", compare.Own, "`NAME` of the initiator: own; iscsi-perf for a look with\nlibiscsi's, which reads only and ends at 100k IOPS; fio on the disks of the\nkernel's initiator, which needs root and a running iscsid")
	fs.IntVar(&f.m.InitiatorCPU, "cpu", -1, "`CPU` of the initiator (default the first)")
	fs.IntVar(&f.m.TargetCPU, "target-cpu", -1, "`CPU` of the targets (default the last)")
	fs.StringVar(&f.size, "lun-size", "256m", "`SIZE` of every LUN")
	fs.Float64Var(&f.m.MaxSpread, "max-spread", 1.5, "`FACTOR` between the ends of an interval from which on a\nratio is refused")
	fs.StringVar(&f.m.Congestion, "congestion", "cubic", "`NAME` of the initiator's TCP congestion control")
	fs.StringVar(&f.out, "out", "bench-result", "`DIR` for result.json, report.html, report.md and pictures")
	fs.StringVar(&f.spindle, "spindle", "", "`PATH` of spindle")
	fs.StringVar(&f.spdk, "spdk", "", "`PATH` of SPDK's iscsi_tgt")
	fs.StringVar(&f.spindleArgs, "spindle-args", "", "`FLAGS` more for spindle serve")
	fs.StringVar(&f.spdkArgs, "spdk-args", "", "`FLAGS` more for iscsi_tgt")
	return f
}

func (f *compareFlags) plan(s streams) (*compare.Plan, error) {
	p := &compare.Plan{Method: f.m, Tool: version, RDMA: ibverbs.Open}
	m := &p.Method
	var err error
	if p.Peers, err = f.rivals(); err != nil {
		return nil, usageError{err}
	}
	if f.workloads == compare.Standard {
		if err := f.rows(p); err != nil {
			return nil, usageError{err}
		}
	} else if p.Workloads, err = compare.ParseWorkloads(f.workloads); err != nil {
		return nil, usageError{err}
	}
	if p.Workloads, err = over(m.Transport, p.Workloads); err != nil {
		return nil, err
	}
	if devices, _ := os.ReadDir("/sys/class/infiniband"); strings.Contains(m.Transport, compare.ISER) && len(devices) == 0 {
		return nil, usagef("--transport %s: there is no RDMA device here; make bench-rig brings some, in a guest", m.Transport)
	}
	if err := compare.CheckInitiator(m.Initiator, p.Workloads); err != nil {
		return nil, usageError{err}
	}
	if m.LUNSize, err = load.ParseBytes(f.size); err != nil {
		return nil, err
	}
	if m.LUNSize%(2<<20) != 0 {
		return nil, usagef("--lun-size %s is not a multiple of 2m", f.size)
	}
	if m.Rounds < 1 || f.runtime <= 0 || f.ramp < 0 {
		return nil, usagef("--rounds, --runtime and --ramp: want at least one round of some time")
	}
	m.Runtime, m.Ramp, p.Budget = time.Duration(f.runtime), time.Duration(f.ramp), time.Duration(f.budget)
	if m.MaxRounds == 0 {
		m.MaxRounds = 2 * m.Rounds
	}
	set, err := sys.Affinity()
	if err != nil {
		return nil, err
	}
	cpus := sys.CPUs(set)
	if m.InitiatorCPU < 0 {
		m.InitiatorCPU = cpus[0]
	}
	if m.TargetCPU < 0 {
		m.TargetCPU = cpus[len(cpus)-1]
	}
	if m.InitiatorCPU == m.TargetCPU {
		return nil, usagef("initiator and target would share CPU %d and measure each other", m.TargetCPU)
	}
	if f.workloads == compare.Standard {
		p.Peers = compare.Rivals(p.Tests, p.Peers, m.TargetCPU, m.InitiatorCPU)
	}
	p.Args = map[string][]string{"spindle": strings.Fields(f.spindleArgs), peer.Spinning: strings.Fields(f.spindleArgs), "spdk": strings.Fields(f.spdkArgs)}
	p.Log = func(format string, args ...any) { fmt.Fprintf(s.err, format+"\n", args...) }
	return p, nil
}

// rivals are the peers asked for and the programs.
func (f *compareFlags) rivals() ([]peer.Driver, error) {
	list, err := peer.Find(peer.Drivers(peer.Paths{Spindle: f.spindle, SPDK: f.spdk}), f.peers)
	for _, text := range f.programs {
		d, e := peer.Program(text)
		list, err = append(list, d), errors.Join(err, e)
	}
	return list, err
}

// rows chooses the standard tests.
func (f *compareFlags) rows(p *compare.Plan) error {
	rows, tests := compare.TheStandard(f.limit)
	var err error
	f.chosen, p.Tests, err = compare.Choose(rows, tests, f.only)
	return err
}

// standard measures what has a goal, and judges it with what was measured before
// if only some rows were asked for.
func (f *compareFlags) standard(ctx context.Context, s streams, p *compare.Plan) error {
	if err := os.MkdirAll(f.out, 0o755); err != nil {
		return err
	}
	path := filepath.Join(f.out, "result.json")
	var before *compare.Result
	if f.only != "" {
		var err error
		if before, err = compare.Load(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	r, err := compare.Run(ctx, *p)
	if err != nil {
		return err
	}
	rows := f.chosen
	if before != nil {
		rows, _ = compare.TheStandard(f.limit)
		rows = slices.DeleteFunc(rows, func(row compare.Row) bool {
			was := func(g compare.Goal) bool { return g.Row == row.ID }
			now := func(c compare.Row) bool { return c.ID == row.ID }
			return !slices.ContainsFunc(before.Goals, was) && !slices.ContainsFunc(f.chosen, now)
		})
		before.Merge(r)
		r = before
	}
	r.Goals = compare.Judge(rows, r)
	if err := r.Save(path); err != nil {
		return err
	}
	return show(s, r, f.out, path)
}

// over repeats the workloads for each transport of the list. TCP alone is what
// nobody has to be told.
func over(list string, workloads []compare.Workload) (all []compare.Workload, err error) {
	if list == compare.TCP {
		return workloads, nil
	}
	for t := range strings.SplitSeq(list, ",") {
		if t != compare.TCP && t != compare.ISER {
			return nil, usagef("--transport %q: there are %s and %s", t, compare.TCP, compare.ISER)
		}
		for _, w := range workloads {
			if w.Transport == "" {
				w.Transport = t
			}
			all = append(all, w)
		}
	}
	// What has goals comes first, should the time not be enough for all.
	slices.SortStableFunc(all, func(a, b compare.Workload) int { return cmp.Compare(a.LUN, b.LUN) })
	return all, nil
}

func runCompare(ctx context.Context, s streams, p *compare.Plan, out string) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	r, err := compare.Run(ctx, *p)
	if err != nil {
		return err
	}
	if p.Method.Initiator == compare.FIO {
		r.Goals = compare.JudgeRig(r)
	}
	path := filepath.Join(out, "result.json")
	if err := r.Save(path); err != nil {
		return err
	}
	return show(s, r, out, path)
}

// show writes the report and names its files.
func show(s streams, r *compare.Result, out string, more ...string) error {
	files, err := report.Write(r, out)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.out, "%s\nwritten: %s\n", report.Text(r), strings.Join(append(more, files...), ", "))
	return err
}

func reportCommand() command {
	return command{
		name: "report", args: "result.json", short: "write the report of a comparison again",
		long: "Write report.html, report.md and the pictures from a stored result.",
		flags: func(fs *flag.FlagSet) func(context.Context, streams, []string) error {
			out := fs.String("out", ".", "`DIR` to write to")
			into := fs.String("into", "", "`FILE.md` to put the result into as well, between its marks")
			section := fs.String("section", report.Result, "`NAME` of the marks: <!-- NAME: made by ... -->")
			return func(_ context.Context, s streams, args []string) error {
				if len(args) != 1 {
					return usagef("report: name one result.json")
				}
				r, err := compare.Load(args[0])
				if err != nil {
					return err
				}
				if err := os.MkdirAll(*out, 0o755); err != nil {
					return err
				}
				if *into != "" {
					if err := report.Insert(r, *into, *section, *out); err != nil {
						return err
					}
				}
				return show(s, r, *out)
			}
		},
	}
}
