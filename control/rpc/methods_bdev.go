package rpc

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"slices"
	"syscall"
	"time"

	"spindle/bdev"
	"spindle/control"
)

var resetModes = []string{"all", "maxmin", "error", "none"}

func resetMode(name string) bdev.ResetMode {
	switch name {
	case "all":
		return bdev.ResetAll
	case "maxmin":
		return bdev.ResetMaxMin
	case "error":
		return bdev.ResetError
	}
	return bdev.ResetNone
}

// bdevName is the parameter that names a bdev.
func bdevName(doc string) Param {
	return Param{Name: "name", Type: String, Required: true, Doc: doc}
}

const listBdevs = `"spindle rpc bdev_get_bdevs" lists the bdevs there are`

func bdevMethods() []Method {
	return []Method{
		{
			Name: "bdev_get_bdevs", Aliases: []string{"get_bdevs"}, State: Runtime,
			Params: []Param{
				{Name: "name", Type: String, Doc: "only this one, by name, alias or UUID"},
				{Name: "timeout", Type: Uint64, Doc: "milliseconds to wait until it exists"},
			},
			Result: "array of bdevs", Doc: "List the bdevs.", Hint: listBdevs,
			waits: func(_ bool, params *value) bool { return params != nil && params.get("timeout") != nil },
			bad:   decodeInternal, run: getBdevs,
		},
		{
			Name: "bdev_get_iostat", Aliases: []string{"get_bdevs_iostat"}, State: Runtime,
			Params: []Param{
				{Name: "names", Type: Strings, MaxItems: 1024, Doc: "only these"},
				{Name: "name", Type: String, Doc: "only this one"},
				{Name: "per_channel", Type: Bool, Doc: "one reactor at a time; needs exactly one name"},
				{Name: "reset_mode", Type: String, Enum: resetModes, Doc: "what to clear after reading"},
			},
			Result: "{tick_rate, ticks, bdevs: [{name, bytes_read, num_read_ops, ...}]}",
			Doc:    "Tell how much I/O there was and how long it took, in nanoseconds.", Hint: listBdevs,
			bad: decodeInternal, run: getIostat,
		},
		{
			Name: "bdev_reset_iostat", State: Runtime,
			Params: []Param{
				{Name: "name", Type: String, Doc: "only this one"},
				{Name: "mode", Type: String, Enum: resetModes, Doc: "what to clear; all when not given"},
			},
			Result: "true", Doc: "Clear I/O statistics.", Hint: listBdevs,
			bad: decodeInternal, run: resetIostat,
		},
		{
			Name: "bdev_enable_histogram", Aliases: []string{"enable_bdev_histogram"}, State: Runtime,
			Params: []Param{
				bdevName("bdev"),
				{Name: "enable", Type: Bool, Required: true, Doc: "start from zero, or stop"},
				{Name: "opc", Type: String, Doc: "count only this operation: read, write, flush, unmap or write_zeroes"},
				{Name: "granularity", Type: Uint8, Doc: "log2 of the buckets a power of two; 7 when not given"},
				{Name: "min_nsec", Type: Uint64, Doc: "shortest latency told apart"},
				{Name: "max_nsec", Type: Uint64, Doc: "longest latency told apart"},
			},
			Result: "true", Doc: "Count latencies in a histogram.", Hint: listBdevs,
			bad: decodeInternal, run: enableHistogram,
		},
		{
			Name: "bdev_get_histogram", Aliases: []string{"get_bdev_histogram"}, State: Runtime,
			Params: []Param{bdevName("bdev")},
			Result: "{histogram, granularity, min_range, max_range, tsc_rate}; histogram is base64 of little-endian uint64 counts",
			Doc:    "Tell the latency histogram.", Hint: "start it with bdev_enable_histogram",
			bad: decodeInternal, run: getHistogram,
		},
		{
			Name: "bdev_set_qos_limit", Aliases: []string{"set_bdev_qos_limit"}, State: Runtime,
			Params: []Param{
				bdevName("bdev"),
				{Name: "rw_ios_per_sec", Type: Uint64, Doc: "I/Os a second; 0 lifts the limit"},
				{Name: "rw_mbytes_per_sec", Type: Uint64, Doc: "MiB a second; 0 lifts the limit"},
				{Name: "r_mbytes_per_sec", Type: Uint64, Doc: "MiB read a second; 0 lifts the limit"},
				{Name: "w_mbytes_per_sec", Type: Uint64, Doc: "MiB written a second; 0 lifts the limit"},
			},
			Result: "true", Doc: "Limit the I/O of a bdev; limits not given stay as they are.", Hint: listBdevs,
			bad: decodeInternal, run: setQoS,
		},
		{
			Name: "bdev_set_options", Aliases: []string{"set_bdev_options"}, State: Startup,
			Params: []Param{
				{Name: "bdev_io_pool_size", Type: Uint32, Doc: "accepted"},
				{Name: "bdev_io_cache_size", Type: Uint32, Doc: "accepted"},
				{Name: "bdev_auto_examine", Type: Bool, Doc: "accepted"},
				{Name: "iobuf_small_cache_size", Type: Uint32, Doc: "accepted"},
				{Name: "iobuf_large_cache_size", Type: Uint32, Doc: "accepted"},
			},
			Result: "true", Doc: "Accepted for SPDK's configurations; there are no pools to size, see serve --mem.",
			bad: invalidParams, run: func(*request) (any, error) { return true, nil },
		},
		{
			Name: "bdev_examine", State: Runtime, Params: []Param{bdevName("bdev")},
			Result: "true", Doc: "Accepted: nothing is examined, so everything has been.", Hint: listBdevs,
			bad: decodeInvalid, run: func(*request) (any, error) { return true, nil },
		},
		{
			Name: "bdev_wait_for_examine", State: Runtime, Result: "true", Doc: "Return at once, for the same reason.",
			run: func(*request) (any, error) { return true, nil },
		},
	}
}

func getBdevs(r *request) (any, error) {
	if !r.Has("name") {
		list := []obj{}
		for _, b := range r.ctl.Bdevs() {
			list = append(list, describe(r.ctl, b))
		}
		return list, nil
	}
	ctx, cancel := context.WithTimeout(r.ctx, time.Duration(min(r.Uint("timeout"), 1<<40))*time.Millisecond)
	defer cancel()
	b, err := r.ctl.AwaitBdev(ctx, r.String("name"))
	if err != nil {
		return nil, err
	}
	return []obj{describe(r.ctl, b)}, nil
}

// describe is a bdev as bdev_get_bdevs shows it.
func describe(ctl *control.Control, b *control.Bdev) obj {
	info := b.Info()
	can := func(c bdev.Caps) bool { return info.Caps&c != 0 }
	write := !can(bdev.CapReadOnly)
	// Alignments and granularities of no preference are those of a physical block.
	physical := max(info.PhysicalBlockSize/info.BlockSize, 1)
	aliases := b.Aliases()
	if aliases == nil {
		aliases = []string{}
	}
	use := ctl.Users(b)
	o := obj{
		{"name", b.Name()}, {"aliases", aliases}, {"product_name", info.Product},
		{"block_size", info.BlockSize}, {"num_blocks", info.Blocks},
		{"preferred_write_alignment", physical}, {"preferred_write_granularity", physical},
		{"optimal_write_size", info.MaxTransfer},
		{"preferred_unmap_alignment", 1}, {"preferred_unmap_granularity", max(info.UnmapGranularity, 1)},
		{"uuid", b.UUID().String()},
		{"assigned_rate_limits", control.LimitParams(b.Limits())},
		{"claimed", use != ""},
	}
	if use != "" {
		o = append(o, member{"claim_type", use})
	}
	types := obj{
		{"read", true}, {"write", write}, {"unmap", write && can(bdev.CapUnmap)}, {"flush", true}, {"reset", true},
		{"nvme_admin", false}, {"nvme_io", false}, {"nvme_io_md", false},
		{"write_zeroes", write && can(bdev.CapWriteZeroes)}, {"zcopy", can(bdev.CapLend)},
		{"get_zone_info", false}, {"zone_management", false}, {"zone_append", false},
		{"compare", false}, {"compare_and_write", false}, {"abort", true},
		{"seek_hole", false}, {"seek_data", false}, {"copy", false},
		{"nvme_iov_md", false}, {"nvme_nssr", false}, {"write_uncorrectable", false},
	}
	return append(o, obj{{"zoned", false}, {"supported_io_types", types}, {"driver_specific", ctl.Driver(b)}}...)
}

// named resolves the bdevs of a statistics call.
func named(r *request) ([]*control.Bdev, error) {
	names := r.Strings("names")
	if r.Has("name") {
		names = append(slices.Clone(names), r.String("name"))
	}
	if names == nil {
		return r.ctl.Bdevs(), nil
	}
	var list []*control.Bdev
	for _, n := range names {
		b, err := r.ctl.Bdev(n)
		if err != nil {
			return nil, err
		}
		list = append(list, b)
	}
	return list, nil
}

func getIostat(r *request) (any, error) {
	list, err := named(r)
	if err != nil {
		return nil, err
	}
	mode := resetMode(r.String("reset_mode"))
	head := obj{{"tick_rate", TickRate}, {"ticks", ticks()}}
	if r.Bool("per_channel") {
		if len(list) != 1 || !r.Has("name") && !r.Has("names") {
			return nil, fmt.Errorf("per_channel needs exactly one name: %w", syscall.EINVAL)
		}
		channels := []obj{}
		for _, c := range list[0].PerChannel() {
			channels = append(channels, append(obj{{"thread_id", c.Reactor + 1}}, iostat(c.Stats)...))
		}
		list[0].Stats(mode)
		return append(head, obj{{"name", list[0].Name()}, {"channels", channels}}...), nil
	}
	bdevs := []obj{}
	for _, b := range list {
		bdevs = append(bdevs, append(obj{{"name", b.Name()}}, iostat(b.Stats(mode))...))
	}
	return append(head, member{"bdevs", bdevs}), nil
}

// iostat is statistics under SPDK's names. Write-zeroes counts as a write.
func iostat(s bdev.Stats) obj {
	read, write, unmap := s.Ops[bdev.Read], s.Ops[bdev.Write], s.Ops[bdev.Unmap]
	if z := s.Ops[bdev.WriteZeroes]; z.Ops > 0 {
		if write.Ops == 0 || z.LatencyMin < write.LatencyMin {
			write.LatencyMin = z.LatencyMin
		}
		write.Ops += z.Ops
		write.Bytes += z.Bytes
		write.LatencySum += z.LatencySum
		write.LatencyMax = max(write.LatencyMax, z.LatencyMax)
	}
	var o, latency obj
	for _, k := range []struct {
		name, plural string
		c            bdev.Counters
	}{{"read", "read", read}, {"write", "written", write}, {"unmap", "unmapped", unmap}, {"copy", "copied", bdev.Counters{}}} {
		o = append(o, obj{{"bytes_" + k.plural, k.c.Bytes}, {"num_" + k.name + "_ops", k.c.Ops}}...)
		latency = append(latency, obj{
			{k.name + "_latency_ticks", k.c.LatencySum},
			{"max_" + k.name + "_latency_ticks", k.c.LatencyMax},
			{"min_" + k.name + "_latency_ticks", k.c.LatencyMin},
		}...)
	}
	errs := obj{}
	for i, n := range s.Errors {
		if n != 0 {
			errs = append(errs, member{bdev.Status(i).String(), n})
		}
	}
	return append(append(o, latency...), member{"io_error", errs})
}

func resetIostat(r *request) (any, error) {
	list, err := named(r)
	if err != nil {
		return nil, err
	}
	mode := bdev.ResetAll
	if r.Has("mode") {
		mode = resetMode(r.String("mode"))
	}
	for _, b := range list {
		b.Stats(mode)
	}
	return true, nil
}

func enableHistogram(r *request) (any, error) {
	b, err := r.ctl.Bdev(r.String("name"))
	if err != nil {
		return nil, err
	}
	if !r.Bool("enable") {
		b.DisableHistogram()
		return true, nil
	}
	o := bdev.HistogramOptions{Op: bdev.AllOps, Granularity: uint8(r.Uint("granularity")), MinNS: r.Uint("min_nsec"), MaxNS: r.Uint("max_nsec")}
	if name := r.String("opc"); r.Has("opc") {
		for o.Op = 0; o.Op < bdev.NumOps && o.Op.String() != name; o.Op++ {
		}
		if o.Op == bdev.NumOps {
			return nil, &Error{codeInternal, "Invalid I/O type", fmt.Sprintf("there is no operation %q", name)}
		}
	}
	return true, b.EnableHistogram(o)
}

func getHistogram(r *request) (any, error) {
	b, err := r.ctl.Bdev(r.String("name"))
	if err != nil {
		return nil, err
	}
	h := b.Histogram()
	if h == nil {
		return nil, fmt.Errorf("the histogram of %q is not enabled: %w", b.Name(), syscall.EFAULT)
	}
	return histogramOf(h), nil
}

// histogramOf is a histogram as SPDK's clients decode it.
func histogramOf(h *bdev.Histogram) obj {
	raw := make([]byte, 0, 8*len(h.Buckets))
	for _, n := range h.Buckets {
		raw = binary.LittleEndian.AppendUint64(raw, n)
	}
	return obj{
		{"histogram", base64.StdEncoding.EncodeToString(raw)}, {"granularity", h.Granularity},
		{"min_range", h.MinRange}, {"max_range", h.MaxRange}, {"tsc_rate", TickRate},
	}
}

func setQoS(r *request) (any, error) {
	if len(r.m) == 1 {
		return nil, &Error{-int(syscall.EINVAL), "No rate limits specified", "give at least one limit"}
	}
	return true, r.ctl.SetLimits(r.String("name"), func(l *bdev.Limits) {
		for name, field := range map[string]*uint64{
			"rw_ios_per_sec": &l.RWIOsPerSec, "rw_mbytes_per_sec": &l.RWMBPerSec,
			"r_mbytes_per_sec": &l.RMBPerSec, "w_mbytes_per_sec": &l.WMBPerSec,
		} {
			if r.Has(name) {
				*field = r.Uint(name)
			}
		}
	})
}
