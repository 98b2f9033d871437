package rpc

import (
	"fmt"
	"slices"
	"syscall"
	"time"

	"spindle/bdev"
	"spindle/control"
)

// Parameters that several modules have.
var (
	uuidParam     = Param{Name: "uuid", Type: UUID, Doc: "identity; derived from the name when not given, so it survives restarts"}
	sizeParams    = []Param{{Name: "num_blocks", Type: Uint64, Required: true, Doc: "size in blocks"}, {Name: "block_size", Type: Uint32, Required: true, Doc: "bytes: 512 or 4096"}}
	physicalParam = Param{Name: "physical_block_size", Type: Uint32, Doc: "bytes; block_size when not given"}
	// Protection information is malloc's: the other bdevs know the parameters so that
	// their "off" values are accepted, and the refusal of others says why.
	metadataParams = []Param{
		{Name: "md_size", Type: Uint32, Doc: "bytes of metadata a block: 0, or 8 with dif_type 1, of a malloc bdev"},
		{Name: "dif_type", Type: Int32, Doc: "protection information: 0 is none, 1 is type 1, which its LUNs then have"},
		{Name: "dif_is_head_of_md", Type: Bool, Doc: "accepted"},
		{Name: "dif_pi_format", Type: Uint32, Doc: "accepted"},
	}
	noMetadata = [2]Param{
		{Name: "md_size", Type: Uint32, Doc: "0: a file keeps no metadata"},
		{Name: "dif_type", Type: Int32, Doc: "0: no protection information, which a crash could part from its data"},
	}
)

func one(p ...Param) []Param { return p }

// deleteMethod is the row that deletes the bdevs of a module.
func deleteMethod(module string, bad answer, alias ...string) Method {
	return Method{
		Name: "bdev_" + module + "_delete", Aliases: alias, State: Runtime, Params: one(bdevName("bdev")), Result: "true",
		Doc: "Delete a bdev: it leaves its LUNs, its I/O drains, and what is stacked on it goes first.", Hint: listBdevs, bad: bad,
		run: func(r *request) (any, error) { return true, r.ctl.DeleteBdev(r.String("name"), module) },
	}
}

func rescanMethod(module string) Method {
	return Method{
		Name: "bdev_" + module + "_rescan", State: Runtime, Params: one(bdevName("bdev")), Result: "true",
		Doc: "Look whether the file has grown.", Hint: listBdevs, bad: decodeInternal,
		run: func(r *request) (any, error) { return true, r.ctl.Rescan(r.String("name"), module) },
	}
}

func moduleMethods() []Method {
	return slices.Concat(memoryMethods(), fileMethods(), stackedMethods())
}

func memoryMethods() []Method {
	auto := Param{Name: "name", Type: String, Doc: "the next free number when not given"}
	return []Method{
		{
			Name: "bdev_malloc_create", Aliases: []string{"construct_malloc_bdev"}, State: Runtime,
			Params: slices.Concat(one(auto), sizeParams, one(uuidParam, physicalParam), metadataParams, one(
				Param{Name: "md_interleave", Type: Bool, Doc: "accepted"},
				Param{Name: "optimal_io_boundary", Type: Uint32, Doc: "accepted"},
				Param{Name: "numa_id", Type: Int32, Doc: "node to take memory from; -1 is any"},
			)),
			Result: "the bdev's name", Doc: "Make a disk in memory.",
			Hint: "choose another name, a block size of 512 or 4096, or a smaller size", bad: decodeInternal, run: createMalloc,
		},
		deleteMethod("malloc", decodeInternal, "delete_malloc_bdev"),
		{
			Name: "bdev_null_create", Aliases: []string{"construct_null_bdev"}, State: Runtime,
			Params: slices.Concat(one(Param{Name: "name", Type: String, Required: true, Doc: "name"}), sizeParams, one(uuidParam, physicalParam), metadataParams, one(
				Param{Name: "preferred_write_granularity", Type: Uint32, Doc: "accepted"},
				Param{Name: "preferred_write_alignment", Type: Uint32, Doc: "accepted"},
				Param{Name: "optimal_write_size", Type: Uint32, Doc: "accepted"},
				Param{Name: "preferred_unmap_granularity", Type: Uint32, Doc: "accepted"},
				Param{Name: "preferred_unmap_alignment", Type: Uint32, Doc: "accepted"},
			)),
			Result: "the bdev's name", Doc: "Make a disk that forgets what is written and reads as zeroes.",
			Hint: "choose another name, or a block size of 512 or 4096", bad: decodeInternal, run: createNull,
		},
		deleteMethod("null", decodeInternal, "delete_null_bdev"),
		{
			Name: "bdev_null_resize", State: Runtime,
			Params: one(bdevName("null bdev"), Param{Name: "new_size", Type: Uint64, Required: true, Doc: "MiB"}),
			Result: "true", Doc: "Give a null bdev another size, live.", Hint: listBdevs, bad: decodeInternal,
			run: func(r *request) (any, error) { return true, r.ctl.Resize(r.String("name"), r.Uint("new_size")) },
		},
	}
}

func geometry(r *request) (control.Geometry, error) {
	g := control.Geometry{BlockSize: uint32(r.Uint("block_size")), NumBlocks: r.Uint("num_blocks"), PhysicalBlockSize: uint32(r.Uint("physical_block_size"))}
	var err error
	g.Protected, err = protected(r)
	return g, err
}

// protected tells whether protection information is asked for.
func protected(r *request) (bool, error) {
	switch size, kind := r.Uint("md_size"), r.Int("dif_type"); {
	case size == bdev.TupleLen && kind == 1:
		return true, nil
	case size != 0 || kind != 0:
		return false, fmt.Errorf("metadata of %d bytes with protection information of type %d: only 8 with 1 is possible: %w", size, kind, syscall.EINVAL)
	}
	return false, nil
}

func createMalloc(r *request) (any, error) {
	g, err := geometry(r)
	if err != nil {
		return nil, err
	}
	node := int32(-1)
	if r.Has("numa_id") {
		node = int32(r.Int("numa_id"))
	}
	return r.ctl.CreateMalloc(control.MallocSpec{Name: r.String("name"), UUID: r.UUID("uuid"), Geometry: g, NUMA: node})
}

func createNull(r *request) (any, error) {
	g, err := geometry(r)
	if err != nil {
		return nil, err
	}
	if g.Protected {
		return nil, fmt.Errorf("a null bdev keeps no protection information: %w", syscall.EINVAL)
	}
	return r.ctl.CreateNull(control.NullSpec{Name: r.String("name"), UUID: r.UUID("uuid"), Geometry: g})
}

func fileMethods() []Method {
	name := Param{Name: "name", Type: String, Required: true, Doc: "name"}
	file := Param{Name: "filename", Type: String, Required: true, Doc: "path of a regular file or a block device"}
	size := Param{Name: "block_size", Type: Uint32, Doc: "bytes; the device's own, or 512, when not given"}
	const hint = "the path is the daemon's, and its user must be able to open it"
	return []Method{
		{
			Name: "bdev_aio_create", Aliases: []string{"construct_aio_bdev"}, State: Runtime,
			Params: one(name, file, size,
				Param{Name: "readonly", Type: Bool, Doc: "open for reading only"},
				Param{Name: "fallocate", Type: Bool, Doc: "accepted; unmap punches holes wherever the file system can"},
				uuidParam,
				Param{Name: "nowait", Type: Bool, Doc: "accepted; I/O never blocks a reactor"},
				noMetadata[0], noMetadata[1]),
			Result: "the bdev's name", Doc: "Serve a file or block device, through io_uring.", Hint: hint,
			bad: decodeInternal, run: func(r *request) (any, error) { return createFile(r, false) },
		},
		rescanMethod("aio"),
		deleteMethod("aio", decodeInternal, "delete_aio_bdev"),
		{
			Name: "bdev_uring_create", State: Runtime, Params: one(file, name, size, uuidParam, noMetadata[0], noMetadata[1]),
			Result: "the bdev's name", Doc: "The same module under SPDK's other name for it.", Hint: hint,
			bad: decodeInternal, fails: answer{codeInternal, "Cannot create the uring bdev"},
			run: func(r *request) (any, error) { return createFile(r, true) },
		},
		rescanMethod("uring"),
		deleteMethod("uring", decodeInternal),
	}
}

func createFile(r *request, uring bool) (any, error) {
	switch kept, err := protected(r); {
	case err != nil:
		return nil, err
	case kept:
		// A block and its eight bytes would not reach the disk as one: after a crash a
		// write that nobody was promised would be an error of the medium.
		return nil, fmt.Errorf("a file keeps no protection information, which a crash could part from its data: %w", syscall.EINVAL)
	}
	return r.ctl.CreateFile(control.FileSpec{
		Name: r.String("name"), UUID: r.UUID("uuid"), Path: r.String("filename"), BlockSize: uint32(r.Uint("block_size")),
		ReadOnly: r.Bool("readonly"), Fallocate: r.Bool("fallocate"), Uring: uring,
	})
}

func stackedMethods() []Method {
	name := Param{Name: "name", Type: String, Required: true, Doc: "name"}
	base := Param{Name: "base_bdev_name", Type: String, Required: true, Doc: "bdev to stand on; it is claimed"}
	us := func(name, doc string) Param { return Param{Name: name, Type: Uint64, Required: true, Doc: doc} }
	return []Method{
		{
			Name: "bdev_delay_create", State: Runtime,
			Params: one(name, base, us("avg_read_latency", "microseconds"), us("p99_read_latency", "microseconds, of one in a hundred"),
				us("avg_write_latency", "microseconds"), us("p99_write_latency", "microseconds, of one in a hundred"), uuidParam),
			Result: "the bdev's name", Doc: "Stack a bdev that delays I/O.", Hint: listBdevs, bad: decodeInternal, run: createDelay,
		},
		{
			Name: "bdev_delay_update_latency", State: Runtime,
			Params: one(
				Param{Name: "delay_bdev_name", Type: String, Required: true, Doc: "delay bdev"},
				Param{Name: "latency_type", Type: String, Required: true, Enum: []string{"avg_read", "p99_read", "avg_write", "p99_write"}, Doc: "which latency"},
				us("latency_us", "microseconds")),
			Result: "true", Doc: "Change a delay, live.", Hint: listBdevs, bad: decodeInternal, run: updateLatency,
		},
		deleteMethod("delay", decodeInternal),
		{
			Name: "bdev_error_create", Aliases: []string{"construct_error_bdev"}, State: Runtime,
			Params: one(Param{Name: "base_name", Type: String, Required: true, Doc: "bdev to stand on; it is claimed"}, uuidParam),
			Result: "true", Doc: `Stack a bdev that makes faults on request; its name is its base's after "EE_".`, Hint: listBdevs, bad: decodeInvalid,
			run: func(r *request) (any, error) {
				_, err := r.ctl.CreateError(r.String("base_name"), r.UUID("uuid"))
				return true, err
			},
		},
		{
			Name: "bdev_error_inject_error", State: Runtime,
			Params: one(
				bdevName("error bdev"),
				Param{Name: "io_type", Type: String, Required: true, Enum: []string{"clear", "read", "write", "unmap", "flush", "all"}, Doc: "what fails; clear ends every fault"},
				Param{Name: "error_type", Type: String, Required: true, Enum: []string{"failure", "pending", "corrupt_data", "nomem", "nvme_failure"}, Doc: "how; nvme_failure is a failure"},
				Param{Name: "nvme_sct", Type: Uint32, Doc: "accepted"},
				Param{Name: "nvme_sc", Type: Uint32, Doc: "accepted"},
				Param{Name: "num", Type: Uint32, Doc: "how many I/Os; 1 when not given, 0 ends it"},
				Param{Name: "queue_depth", Type: Uint64, Doc: "only when so many I/Os are outstanding"},
				Param{Name: "corrupt_offset", Type: Uint64, Doc: "byte of the data"},
				Param{Name: "corrupt_value", Type: Uint8, Doc: "1 to 255, XORed to it"}),
			Result: "true", Doc: "Make faults, live.", Hint: listBdevs, bad: decodeInvalid, run: injectError,
		},
		{
			Name: "bdev_error_resume_pending", State: Runtime, Params: one(bdevName("error bdev")), Result: "true",
			Doc: "Let the I/Os go that were held back as pending.", Hint: listBdevs, bad: decodeInvalid,
			run: func(r *request) (any, error) { return true, r.ctl.ResumePending(r.String("name")) },
		},
		deleteMethod("error", decodeInvalid, "delete_error_bdev"),
		{
			Name: "bdev_passthru_create", Aliases: []string{"construct_passthru_bdev"}, State: Runtime, Params: one(name, base, uuidParam),
			Result: "the bdev's name", Doc: "Stack a bdev that passes everything on.", Hint: listBdevs, bad: decodeInternal,
			run: func(r *request) (any, error) {
				return r.ctl.CreatePassthru(r.String("name"), r.String("base_bdev_name"), r.UUID("uuid"))
			},
		},
		deleteMethod("passthru", decodeInternal, "delete_passthru_bdev"),
	}
}

// maxLatency bounds a delay, so that microseconds fit a Duration.
const maxLatency = time.Hour

func latency(r *request, name string) (time.Duration, error) {
	us := r.Uint(name)
	if us > uint64(maxLatency/time.Microsecond) {
		return 0, fmt.Errorf("%s: %d microseconds is more than an hour: %w", name, us, syscall.EINVAL)
	}
	return time.Duration(us) * time.Microsecond, nil
}

func createDelay(r *request) (any, error) {
	var l control.Latencies
	for _, f := range []struct {
		name string
		to   *time.Duration
	}{{"avg_read_latency", &l.AvgRead}, {"p99_read_latency", &l.P99Read}, {"avg_write_latency", &l.AvgWrite}, {"p99_write_latency", &l.P99Write}} {
		d, err := latency(r, f.name)
		if err != nil {
			return nil, err
		}
		*f.to = d
	}
	return r.ctl.CreateDelay(r.String("name"), r.String("base_bdev_name"), r.UUID("uuid"), l)
}

func updateLatency(r *request) (any, error) {
	d, err := latency(r, "latency_us")
	if err != nil {
		return nil, err
	}
	name := r.String("delay_bdev_name")
	if _, err := r.ctl.Bdev(name); err != nil {
		return nil, &Error{codeInvalidParams, "No such delay bdev", err.Error()}
	}
	if err := r.ctl.SetLatency(name, r.String("latency_type"), d); err != nil {
		return nil, &Error{codeInvalidRequest, "Not a delay bdev", err.Error()}
	}
	return true, nil
}

func injectError(r *request) (any, error) {
	i := control.Injection{Error: r.String("error_type"), Count: 1, QueueDepth: r.Uint("queue_depth"), Offset: r.Uint("corrupt_offset"), Value: uint8(r.Uint("corrupt_value"))}
	if r.Has("num") {
		i.Count = uint32(r.Uint("num"))
	}
	if i.Error == "corrupt_data" && i.Value == 0 {
		return nil, fmt.Errorf("corrupt_value must be 1 to 255: %w", syscall.EINVAL)
	}
	switch r.String("io_type") {
	case "clear":
		i.Clear = true
		fallthrough
	case "all":
		for op := bdev.Op(0); op < bdev.NumOps; op++ {
			i.Ops = append(i.Ops, op)
		}
	case "read":
		i.Ops = []bdev.Op{bdev.Read}
	case "write":
		i.Ops = []bdev.Op{bdev.Write, bdev.WriteZeroes}
	case "unmap":
		i.Ops = []bdev.Op{bdev.Unmap}
	case "flush":
		i.Ops = []bdev.Op{bdev.Flush}
	}
	return true, r.ctl.Inject(r.String("name"), i)
}
