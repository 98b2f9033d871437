package report

import (
	"fmt"
	"io"
	"strings"

	"spindle/bench/compare"
	"spindle/bench/load"
	"spindle/bench/peer"
)

// switchRow is a line of the table of context switches, with the kernel's
// initiator.
type switchRow struct {
	Cell, Peer                                        string
	First                                             bool
	Voluntary, Net, Involuntary, Own, Workers, System string
}

// Switches are the lines of that table; none with another initiator.
func (v *view) Switches() (list []switchRow) {
	if v.R.Method.Initiator != compare.FIO {
		return nil
	}
	for i := range v.R.Cells {
		c := &v.R.Cells[i]
		for j, f := range c.Figures {
			if f.IOPS.N == 0 {
				continue
			}
			list = append(list, switchRow{
				Cell: c.Title, Peer: title(v.R, f.Peer), First: j == 0,
				Voluntary: number(f.Voluntary), Net: number(f.Net), Involuntary: number(f.Involuntary),
				Workers: number(f.Workers), System: number(f.System),
			})
		}
	}
	return list
}

// headline is a cell of the experiment that LIO's iSER was announced with in 2013, one
// NULLIO LUN, IOPS and context switches against STGT's, and Spindle beside them.
type headline struct {
	Workload            string
	IOPS                [3]string // LIO, STGT, Spindle
	Switches            [3]string // of the whole machine, an I/O
	Speed, SwitchesOver string    // LIO over STGT
}

var headliners = [3]string{"lio", "stgt", "spindle"}

// Headlines are the cells of the experiment; none when a target is missing.
func (v *view) Headlines() (list []headline) {
	for i := range v.R.Cells {
		c := &v.R.Cells[i]
		if c.Workload.Transport != compare.ISER || c.Workload.LUN != peer.Null {
			continue
		}
		h := headline{Workload: fmt.Sprintf("%s %s, QD %d", strings.ToUpper(load.FormatBytes(uint64(c.Workload.Size))), c.Workload.RW, c.Workload.Depth)}
		var iops, switches [3]float64
		for j, name := range headliners {
			f := c.Figure(name)
			if f == nil || f.IOPS.N == 0 {
				return nil
			}
			iops[j], switches[j] = f.IOPS.Median, f.System
			h.IOPS[j], h.Switches[j] = load.SI(iops[j]), number(switches[j])
		}
		h.Speed = fmt.Sprintf("%.2f", iops[0]/iops[1])
		h.SwitchesOver = fmt.Sprintf("%.2f", switches[0]/max(switches[1], 1e-9))
		list = append(list, h)
	}
	return list
}

func kernelMarkdown(w io.Writer, v *view) {
	if rows := v.Headlines(); len(rows) > 0 {
		fmt.Fprint(w, "**The experiment of 2013**: one NULLIO LUN over iSER, IOPS and context switches of the whole machine for an I/O.\n\n")
		fmt.Fprint(w, "| workload | LIO IOPS | STGT IOPS | Spindle IOPS | LIO / STGT | LIO switches | STGT switches | Spindle switches | LIO / STGT |\n|---|---|---|---|---|---|---|---|---|\n")
		for _, h := range rows {
			fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", h.Workload, h.IOPS[0], h.IOPS[1], h.IOPS[2], h.Speed,
				h.Switches[0], h.Switches[1], h.Switches[2], h.SwitchesOver)
		}
		fmt.Fprintln(w)
	}
	if rows := v.Switches(); len(rows) > 0 {
		fmt.Fprintf(w, "**Context switches for an I/O.** Spinning without work, Spindle is switched out of its own accord %.0f times a second: *less idle* is without those.\n\n", v.R.IdleSpin)
		fmt.Fprint(w, "| workload | target | own, voluntary | less idle | own, involuntary | kernel workers | whole machine |\n|---|---|---|---|---|---|---|\n")
		for _, x := range rows {
			cell := ""
			if x.First {
				cell = x.Cell
			}
			fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s |\n", cell, x.Peer, x.Voluntary, x.Net, x.Involuntary, x.Workers, x.System)
		}
		fmt.Fprintln(w)
	}
}
