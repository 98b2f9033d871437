package load

import (
	"fmt"
	"math"
	"strings"
)

// Percentiles that are printed, as fio prints them.
var percentiles = []float64{1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 99.5, 99.9, 99.95, 99.99}

type object = map[string]any

// FIO is the result with the names that fio gives the same things in
// --output-format=json, for tools that read those. What fio has and this
// initiator does not measure is left out.
func (r *Result) FIO(o *Options, version string) map[string]any {
	cpu := func(t float64) float64 { return 100 * t / r.Elapsed.Seconds() }
	return object{
		"fio version": version,
		"jobs": []object{{
			"jobname": o.Address.String(), "error": 0, "elapsed": math.Ceil((o.Ramp + r.Elapsed).Seconds()),
			"job options": object{
				"rw": o.Pattern.Name, "rwmixread": o.Pattern.Reads, "bssplit": splitText(o.Sizes), "iodepth": o.Depth,
				"connections": o.Connections, "runtime": o.Runtime.Seconds(), "ramp_time": o.Ramp.Seconds(), "rate_iops": o.Rate,
				"verify": o.Verify, "header_digest": o.Header, "data_digest": o.Data,
			},
			"read": r.fioSide(&r.Read), "write": r.fioSide(&r.Write),
			"usr_cpu": cpu(r.CPU.User.Seconds()), "sys_cpu": cpu(r.CPU.System.Seconds()),
			"ctx": r.CPU.Voluntary + r.CPU.Involuntary,
			// Beyond fio.
			"initiator_busy_ns_per_io": perIO(float64(r.Busy), r.IOs()), "initiator_syscalls_per_io": perIO(float64(r.Syscalls), r.IOs()),
			"retries": r.Retries, "verified": r.Verified, "unverified": r.Unverified,
		}},
	}
}

func (r *Result) fioSide(s *Side) object {
	sec := r.Elapsed.Seconds()
	lat := object{"min": s.Min(), "max": s.Max(), "mean": s.Mean(), "stddev": s.Deviation(), "N": s.IOs}
	list := object{}
	for _, p := range percentiles {
		list[fmt.Sprintf("%.6f", p)] = s.Latency.ValueAtPercentile(p)
	}
	clat := object{"percentile": list}
	for k, v := range lat {
		clat[k] = v
	}
	side := object{
		"io_bytes": s.Bytes, "io_kbytes": s.Bytes >> 10, "total_ios": s.IOs, "runtime": r.Elapsed.Milliseconds(),
		"bw_bytes": uint64(float64(s.Bytes) / sec), "bw": uint64(float64(s.Bytes) / sec / 1024), "iops": float64(s.IOs) / sec,
		"clat_ns": clat, "lat_ns": lat,
	}
	if s.IOs == r.IOs() && s.IOs > 0 { // the samples are of both sides together
		low, high, mean, dev := spread(r.Samples)
		side["iops_min"], side["iops_max"], side["iops_mean"], side["iops_stddev"] = low, high, mean, dev
		side["iops_samples"] = len(r.Samples)
	}
	return side
}

func perIO(x float64, ios uint64) float64 {
	if ios == 0 {
		return 0
	}
	return x / float64(ios)
}

func spread(v []float64) (low, high, mean, dev float64) {
	if len(v) == 0 {
		return
	}
	low, high = v[0], v[0]
	for _, x := range v {
		low, high = min(low, x), max(high, x)
		mean += x / float64(len(v))
	}
	for _, x := range v {
		dev += (x - mean) * (x - mean) / float64(len(v))
	}
	return low, high, mean, math.Sqrt(dev)
}

func splitText(sizes []Size) string {
	var parts []string
	for _, s := range sizes {
		if len(sizes) == 1 {
			return FormatBytes(uint64(s.Bytes))
		}
		parts = append(parts, fmt.Sprintf("%s/%d", FormatBytes(uint64(s.Bytes)), s.Percent))
	}
	return strings.Join(parts, ":")
}

// FormatBytes is what ParseBytes reads, in the largest unit that divides n.
func FormatBytes(n uint64) string {
	unit := ""
	for _, u := range []string{"k", "m", "g", "t"} {
		if n == 0 || n%1024 != 0 {
			break
		}
		n, unit = n/1024, u
	}
	return fmt.Sprint(n, unit)
}

// Human is the result in fio's layout.
func (r *Result) Human(o *Options) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v: rw=%s, bs=%s, iodepth=%d, connections=%d\n", o.Address, o.Pattern.Name, splitText(o.Sizes), o.Depth, o.Connections)
	for _, side := range []struct {
		name string
		s    *Side
	}{{"read", &r.Read}, {"write", &r.Write}} {
		s := side.s
		if s.IOs == 0 {
			continue
		}
		sec := r.Elapsed.Seconds()
		fmt.Fprintf(&b, "  %5s: IOPS=%s, BW=%.1fMiB/s (%.1fMiB/%dmsec)\n", side.name, SI(float64(s.IOs)/sec),
			float64(s.Bytes)/sec/(1<<20), float64(s.Bytes)/(1<<20), r.Elapsed.Milliseconds())
		fmt.Fprintf(&b, "    lat (usec): min=%.1f, max=%.1f, avg=%.2f, stdev=%.2f\n", us(s.Min()), us(s.Max()), s.Mean()/1e3, s.Deviation()/1e3)
		fmt.Fprintf(&b, "    lat percentiles (usec):\n")
		for i, p := range percentiles {
			lead, end := "     |", ","
			if i%3 != 0 {
				lead = ""
			}
			if i%3 == 2 || i == len(percentiles)-1 {
				end = "\n"
			}
			fmt.Fprintf(&b, "%s %5.2fth=[%8.1f]%s", lead, p, us(s.Latency.ValueAtPercentile(p)), end)
		}
	}
	if len(r.Samples) > 1 {
		low, high, mean, dev := spread(r.Samples)
		fmt.Fprintf(&b, "  iops: min=%s, max=%s, avg=%s, stdev=%s, samples=%d\n", SI(low), SI(high), SI(mean), SI(dev), len(r.Samples))
	}
	fmt.Fprintf(&b, "  initiator: busy %.0f ns/IO (%.0f%% of its CPU), %.3f syscalls/IO, ctx=%d\n",
		perIO(float64(r.Busy), r.IOs()), 100*r.Busy.Seconds()/r.Elapsed.Seconds(), perIO(float64(r.Syscalls), r.IOs()), r.CPU.Voluntary+r.CPU.Involuntary)
	if r.Retries > 0 {
		fmt.Fprintf(&b, "  %d commands were answered BUSY or TASK SET FULL and sent again\n", r.Retries)
	}
	if o.Verify {
		fmt.Fprintf(&b, "  verify: %d reads compared, all right; %d read what this run had not written\n", r.Verified, r.Unverified)
	}
	return b.String()
}

func us(ns int64) float64 { return float64(ns) / 1e3 }

// SI writes a number with three significant digits and k or M, as fio does.
func SI(x float64) string {
	for _, u := range []struct {
		at   float64
		unit string
	}{{1e6, "M"}, {1e3, "k"}} {
		if x >= u.at {
			x /= u.at
			return fmt.Sprintf("%.*f%s", 2-min(2, int(math.Log10(x))), x, u.unit)
		}
	}
	return fmt.Sprintf("%.*f", 2-min(2, int(math.Log10(max(x, 1)))), x)
}
