package iscsi

import (
	"log/slog"
	"sync/atomic"
	"time"

	"spindle/reactor/clock"
	"spindle/scsi"
)

// limit is a bound on what peers may have or do. Each has a setting or a
// constant, a counter and a log line.
type limit uint8

const (
	limitPendingLogins limit = iota // Options.MaxPendingLogins
	limitPendingAddress
	limitSlowLogin // Options.LoginTimeout
	limitLoginRate
	limitCHAPBackoff
	limitConnections
	limitSessions
	limitNodeSessions
	limitReserved
	limitTasks // the command window, MaxManagement and ImmediateTasks
	limitTextRounds
	limitUnread
	limitMemory // data buffers
	limitSessionConns
	limitRetained
	limitSNACK
	limitRegistrants
	numLimits
)

// limitNames are the limits as counters and log lines name them.
var limitNames = [numLimits]string{
	"pending_logins", "pending_logins_per_address", "login_timeout", "logins_per_second", "chap_backoff",
	"connections_per_address", "sessions", "sessions_per_node", "reserved_sessions", "tasks", "text_rounds", "send_timeout", "memory", "connections_per_session",
	"retained_data", "snack_replays", "registrants",
}

// limitLogEvery is how often a limit is logged at most: the log is not to be
// filled from the network.
const limitLogEvery = time.Second

// limitState counts one limit. Any thread may use it.
type limitState struct {
	hits   atomic.Uint64
	logged atomic.Uint64 // hits the log knows of
	next   atomic.Int64  // a line before this time is left out
}

// reached counts that l was reached, and logs it unless it did so just now.
func (e *Engine) reached(l limit, now clock.Time, args ...any) {
	s := &e.limits[l]
	n := s.hits.Add(1)
	next := s.next.Load()
	if int64(now) < next || !s.next.CompareAndSwap(next, int64(now.Add(limitLogEvery))) {
		return
	}
	args = append([]any{slog.String("limit", limitNames[l]), slog.Uint64("times", n-s.logged.Swap(n))}, args...)
	e.log.Warn("limit reached", args...)
}

// chatLines is how many lines a second the log has of what peers may have as often
// as they like: logins, refusals, ends of connections.
const chatLines = 100

// chatter counts those lines. Any thread may use it.
type chatter struct {
	second  atomic.Int64
	lines   atomic.Int64 // in that second
	leftOut atomic.Int64 // and not told of
}

// chat logs what a peer did, unless there are too many such lines.
func (e *Engine) chat(now clock.Time, msg string, args ...any) {
	q := &e.chatter
	second := int64(now) / int64(time.Second)
	if old := q.second.Load(); old != second && q.second.CompareAndSwap(old, second) {
		q.lines.Store(0)
		if n := q.leftOut.Swap(0); n > 0 {
			e.log.Warn("lines left out", "of", "logins, refusals and ends of connections", "lines", n, "most", chatLines)
		}
	}
	if q.lines.Add(1) > chatLines {
		q.leftOut.Add(1)
		return
	}
	e.log.Info(msg, args...)
}

// Registrants implements scsi.Limits.
func (e *Engine) Registrants() int { return int(e.inventory.Load().opt.MaxRegistrants) }

// TooManyRegistrants implements scsi.Limits.
func (e *Engine) TooManyRegistrants(id scsi.NexusID, now clock.Time) {
	e.reached(limitRegistrants, now, "initiator", id.InitiatorName, "node", id.TargetName)
}

// Counter is a number of events since the engine was made.
type Counter struct {
	Name  string
	Value uint64
}

// Counters returns what the engine has counted, limits that were reached among
// it. Any goroutine may call it.
func (e *Engine) Counters() []Counter {
	s := &e.Stats
	list := []Counter{
		{"logins", s.Logins.Load()},
		{"login_failures", s.LoginFailures.Load()},
		{"login_timeouts", s.LoginTimeouts.Load()},
		{"logins_evicted", s.LoginsEvicted.Load()},
		{"chap_failures", s.CHAPFailures.Load()},
		{"redirects", s.Redirects.Load()},
		{"rejects", s.Rejects.Load()},
		{"commands_dropped", s.Dropped.Load()},
		{"task_set_full", s.TaskSetFull.Load()},
		{"buffer_waits", s.BufferWaits.Load()},
		{"nop_timeouts", s.NopTimeouts.Load()},
		{"reinstatements", s.Reinstatements.Load()},
		{"snacks", s.SNACKs.Load()},
		{"recovery_r2ts", s.RecoveryR2Ts.Load()},
		{"tasks_reassigned", s.Reassigned.Load()},
		{"sessions_moved", s.Moves.Load()},
		{"session_moves_given_up", s.MovesGivenUp.Load()},
	}
	for l := range e.limits {
		list = append(list, Counter{"limit_" + limitNames[l], e.limits[l].hits.Load()})
	}
	return list
}
