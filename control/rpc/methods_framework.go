package rpc

import (
	"fmt"
	"os"
	"runtime"
	"time"

	"spindle/control"
)

// TickRate is the unit of every "ticks" member: nanoseconds.
const TickRate = 1_000_000_000

// obj is an ordered JSON object of this package's making.
type obj []member

type member struct {
	Name  string
	Value any
}

// MarshalJSON implements json.Marshaler.
func (o obj) MarshalJSON() ([]byte, error) {
	c := make(control.Obj, len(o))
	for i, m := range o {
		c[i] = control.Member(m)
	}
	return c.MarshalJSON()
}

func frameworkMethods() []Method {
	return []Method{
		{
			Name: "rpc_get_methods", Aliases: []string{"get_rpc_methods"}, State: Always,
			Params: []Param{
				{Name: "current", Type: Bool, Doc: "only methods that may be called now"},
				{Name: "include_aliases", Type: Bool, Doc: "older names too"},
			},
			Result: "array of names", Doc: "List the methods there are.",
			bad: invalidParams, run: getMethods,
		},
		{
			Name: "spdk_get_version", Aliases: []string{"get_spdk_version"}, State: Always,
			Result: "{version, fields: {major, minor, patch, suffix}}",
			Doc:    "Tell the version of this program, which is not SPDK.",
			bad:    answer{codeInvalidParams, "spdk_get_version method requires no parameters"},
			run:    getVersion,
		},
		{
			Name: "framework_start_init", Aliases: []string{"start_subsystem_init"}, State: Startup, Result: "true",
			Doc: "End the start-up phase that --wait-for-rpc asked for.",
			run: func(r *request) (any, error) { r.ctl.Start(); return true, nil },
		},
		{
			Name: "framework_wait_init", Aliases: []string{"wait_subsystem_init"}, State: Always, Result: "true",
			Doc:   "Return once the start-up phase has ended.",
			waits: func(running bool, _ *value) bool { return !running },
			run:   waitInit,
		},
		{
			Name: "framework_get_subsystems", Aliases: []string{"get_subsystems"}, State: Runtime,
			Result: "array of {subsystem, depends_on}", Doc: "List the parts of the configuration, in the order they load.",
			bad: answer{codeInvalidParams, "'framework_get_subsystems' requires no arguments"},
			run: func(*request) (any, error) { return control.Subsystems, nil },
		},
		{
			Name: "framework_get_config", Aliases: []string{"get_subsystem_config"}, State: Runtime,
			Params: []Param{
				{Name: "name", Type: String, Required: true, Doc: "subsystem"},
				{Name: "with_batches", Type: Bool, Doc: "accepted; no call here needs a batch"},
				withSecrets,
			},
			Result: "array of {method, params}; null when there are none", Doc: "Tell the calls that make one subsystem's configuration again.",
			bad: answer{codeInvalidParams, "Invalid arguments"}, run: getConfig,
		},
	}
}

func reactorMethods() []Method {
	return []Method{
		{
			Name: "framework_get_reactors", State: Runtime,
			Result: "{tick_rate, pid, reactors: [{lcore, numa_id, tid, busy, idle, in_interrupt, irq, sys, usr, memory_in_use, lw_threads}]}",
			Doc:    "Tell what each reactor did with its time, in nanoseconds.",
			bad:    answer{codeInvalidParams, "`framework_get_reactors` requires no arguments"},
			run:    getReactors,
		},
		{
			Name: "framework_get_heap", State: Runtime,
			Result: "{tick_rate, objects, bytes, collections, paused}",
			Doc: "Tell what this process has allocated on its heap since it started, to the object, how often it has collected that, and for how long altogether everything stood still for it. " +
				"The answer stops everything for some microseconds more, and allocates itself: ask twice to know how much. I/O allocates nothing. SPDK has no such method.",
			bad: invalidParams, run: getHeap,
		},
		{
			Name: "framework_set_scheduler", State: Always,
			Params: []Param{
				{Name: "name", Type: String, Required: true, Doc: `"static" is the only one there is`},
				{Name: "period", Type: Uint64, Doc: "accepted"},
				{Name: "load_limit", Type: Uint8, Doc: "accepted"},
				{Name: "core_limit", Type: Uint8, Doc: "accepted"},
				{Name: "core_busy", Type: Uint8, Doc: "accepted"},
				{Name: "mappings", Type: String, Doc: "accepted"},
			},
			Result: "true", Doc: "Choose how connections move between reactors.",
			Hint: "connections are placed by load when they log in and stay where they are: scheduler \"static\"",
			bad:  invalidParams, run: setScheduler,
		},
		{
			Name: "framework_get_scheduler", State: Always,
			Result: "{scheduler_name, scheduler_period, isolated_core_mask, scheduling_core}", Doc: "Tell the scheduler.",
			bad: answer{codeInvalidParams, "'rpc_get_scheduler' requires no arguments"},
			run: func(r *request) (any, error) {
				core := 0
				if w := r.watch(); len(w) > 0 {
					core = max(w[0].Core, 0)
				}
				return obj{{"scheduler_name", "static"}, {"scheduler_period", 0}, {"isolated_core_mask", "0x0"}, {"scheduling_core", core}}, nil
			},
		},
		{
			Name: "thread_get_stats", State: Runtime,
			Result: "{tick_rate, threads: [{name, id, cpumask, busy, idle, active_pollers_count, timed_pollers_count, paused_pollers_count}]}",
			Doc:    "Tell the same by thread; there is one on each reactor.",
			bad:    answer{codeInvalidParams, "'thread_get_stats' requires no arguments"},
			run:    threadStats,
		},
		{
			Name: "spdk_kill_instance", Aliases: []string{"kill_instance"}, State: Runtime,
			Params: []Param{{Name: "sig_name", Type: String, Required: true, Enum: []string{"SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGKILL", "SIGUSR1"}, Doc: "SIGINT and SIGTERM drain first"}},
			Result: "true", Doc: "Send the process a signal.",
			bad: invalidParams,
			run: func(r *request) (any, error) {
				if r.ctl.Stop == nil {
					return nil, fmt.Errorf("this process cannot be stopped by RPC")
				}
				return true, r.ctl.Stop(r.String("sig_name"))
			},
		},
		{
			Name: "notify_get_types", State: Runtime, Result: "array of names", Doc: "List the types of notifications.",
			bad: answer{codeInvalidParams, "No parameters required"},
			run: func(*request) (any, error) { return control.EventTypes, nil },
		},
		{
			Name: "notify_get_notifications", State: Runtime,
			Params: []Param{
				{Name: "id", Type: Uint64, Doc: "the first wanted"},
				{Name: "max", Type: Uint64, Doc: "at most so many"},
			},
			Result: "array of {type, ctx, id}", Doc: "List the latest notifications.",
			bad: answer{codeInvalidParams, "Invalid argument"},
			run: func(r *request) (any, error) {
				limit := uint64(control.MaxEvents)
				if r.Has("max") {
					limit = r.Uint("max")
				}
				return r.ctl.Events(r.Uint("id"), limit), nil
			},
		},
		{
			Name: "rpc_set_error_detail", State: Always,
			Params: []Param{{Name: "enable", Type: Bool, Required: true, Doc: "whether errors carry \"data\""}},
			Result: "true", Doc: "Have this connection's errors say in words what is wrong, in the member \"data\".",
			bad: invalidParams,
			run: func(r *request) (any, error) { r.conn.detail.Store(r.Bool("enable")); return true, nil },
		},
	}
}

func logMethods() []Method {
	level := []Param{{Name: "level", Type: String, Required: true, Enum: control.LevelNames(), Doc: "level"}}
	flag := []Param{{Name: "flag", Type: String, Required: true, Doc: "a name of log_get_flags, or \"all\""}}
	set := func(r *request) (any, error) { return true, r.ctl.Log.SetLevel(r.String("level")) }
	get := func(r *request) (any, error) { return r.ctl.Log.Level(), nil }
	setFlag := func(on bool) func(*request) (any, error) {
		return func(r *request) (any, error) { return true, r.ctl.Log.SetFlag(r.String("flag"), on) }
	}
	badFlag := answer{codeInvalidParams, "invalid log flag"}
	return []Method{
		{Name: "log_set_level", Aliases: []string{"set_log_level"}, State: Always, Params: level, Result: "true", Doc: "Choose what is logged.", bad: decodeInternal, run: set},
		{Name: "log_get_level", Aliases: []string{"get_log_level"}, State: Always, Result: "string", Doc: "Tell the log level.", run: get},
		{Name: "log_set_print_level", State: Always, Params: level, Result: "true", Doc: "The same as log_set_level: there is one log.", bad: decodeInternal, run: set},
		{Name: "log_get_print_level", State: Always, Result: "string", Doc: "The same as log_get_level.", run: get},
		{Name: "log_set_flag", State: Always, Params: flag, Result: "true", Doc: "Log one room's debug lines, whatever the level is.", bad: decodeInternal, fails: badFlag, run: setFlag(true)},
		{Name: "log_clear_flag", State: Always, Params: flag, Result: "true", Doc: "Stop doing so.", bad: decodeInternal, fails: badFlag, run: setFlag(false)},
		{Name: "log_get_flags", State: Always, Result: "{flag: boolean}", Doc: "Tell the flags.", run: func(r *request) (any, error) { return r.ctl.Log.Flags(), nil }},
	}
}

func getMethods(r *request) (any, error) {
	state := Startup
	if r.ctl.Running() {
		state = Runtime
	}
	names := []string{}
	for _, m := range r.srv.order {
		if r.Bool("current") && m.State&state == 0 {
			continue
		}
		names = append(names, m.Name)
		if r.Bool("include_aliases") {
			names = append(names, m.Aliases...)
		}
	}
	return names, nil
}

func getVersion(r *request) (any, error) {
	v := r.ctl.Version
	return obj{
		{"version", v.String()},
		{"fields", obj{{"major", v.Major}, {"minor", v.Minor}, {"patch", v.Patch}, {"suffix", v.Suffix}}},
	}, nil
}

func waitInit(r *request) (any, error) {
	select {
	case <-r.ctl.Started():
		return true, nil
	case <-r.ctx.Done():
		return nil, r.ctx.Err()
	}
}

func getConfig(r *request) (any, error) {
	calls, err := r.ctl.SaveSubsystem(r.String("name"), saveOptions(r.Args))
	if err != nil {
		return nil, &Error{codeInvalidParams, err.Error(), err.Error()}
	}
	if calls == nil {
		return nil, nil
	}
	return calls, nil
}

func (r *request) watch() []control.ReactorStats {
	if r.ctl.Watch == nil {
		return nil
	}
	return r.ctl.Watch()
}

// cpumask is a core as SPDK writes sets of cores.
func cpumask(core int) string {
	if core < 0 || core > 63 {
		return "0"
	}
	return fmt.Sprintf("%x", uint64(1)<<core)
}

func threadName(reactor int) string { return fmt.Sprintf("reactor_%d", reactor) }

func getReactors(r *request) (any, error) {
	list := []obj{}
	for _, w := range r.watch() {
		list = append(list, obj{
			{"lcore", max(w.Core, 0)}, {"numa_id", w.NUMA}, {"tid", w.TID},
			{"busy", w.Busy.Nanoseconds()}, {"idle", w.Idle.Nanoseconds()},
			{"in_interrupt", w.Interrupt}, {"irq", 0}, {"sys", w.Sys.Milliseconds() / 10}, {"usr", w.User.Milliseconds() / 10},
			{"memory_in_use", w.MemoryInUse},
			{"lw_threads", []obj{{
				{"name", threadName(w.ID)}, {"id", w.ID + 1}, {"cpumask", cpumask(w.Core)},
				{"elapsed", (w.Busy + w.Idle).Nanoseconds()},
			}}},
		})
	}
	return obj{{"tick_rate", TickRate}, {"pid", os.Getpid()}, {"reactors", list}}, nil
}

func getHeap(*request) (any, error) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m) // runtime/metrics is cheaper and lags by a span of each size
	return obj{
		{"tick_rate", TickRate}, {"objects", m.Mallocs}, {"bytes", m.TotalAlloc},
		{"collections", m.NumGC}, {"paused", m.PauseTotalNs},
	}, nil
}

func threadStats(r *request) (any, error) {
	list := []obj{}
	for _, w := range r.watch() {
		list = append(list, obj{
			{"name", threadName(w.ID)}, {"id", w.ID + 1}, {"cpumask", cpumask(w.Core)},
			{"busy", w.Busy.Nanoseconds()}, {"idle", w.Idle.Nanoseconds()},
			{"active_pollers_count", 1}, {"timed_pollers_count", 0}, {"paused_pollers_count", 0},
		})
	}
	return obj{{"tick_rate", TickRate}, {"threads", list}}, nil
}

func setScheduler(r *request) (any, error) {
	if name := r.String("name"); name != "static" {
		// The text is SPDK's, down to its sign.
		return nil, &Error{codeInternal, "Unknown error -22", fmt.Sprintf("there is no scheduler %q; \"static\" is the only one", name)}
	}
	return true, nil
}

var start = time.Now()

// ticks is a monotonic clock in units of TickRate.
func ticks() int64 { return time.Since(start).Nanoseconds() }
