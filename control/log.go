package control

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
)

// LevelNotice lies between warnings and information; it is the default.
const LevelNotice = slog.Level(2)

// levels are SPDK's names of log levels, from the quietest.
var levels = []struct {
	name  string
	level slog.Level
}{
	{"ERROR", slog.LevelError},
	{"WARNING", slog.LevelWarn},
	{"NOTICE", LevelNotice},
	{"INFO", slog.LevelInfo},
	{"DEBUG", slog.LevelDebug},
}

// LevelNames lists the log levels.
func LevelNames() []string {
	var names []string
	for _, l := range levels {
		names = append(names, l.name)
	}
	return names
}

// flagNames are the parts of the program whose debug lines can be switched on
// one by one, whatever the level is.
var flagNames = []string{"bdev", "control", "iscsi", "reactor", "rpc", "scsi", "tcp"}

// Log is the process's log: a text handler with a level that can be changed,
// and flags that let the debug lines of single rooms through.
type Log struct {
	level slog.LevelVar
	flags [16]atomic.Bool // indexed as flagNames
	text  slog.Handler
}

// NewLog makes a log that writes to w.
func NewLog(w io.Writer) *Log {
	l := &Log{}
	l.level.Set(LevelNotice)
	l.text = slog.NewTextHandler(w, &slog.HandlerOptions{
		Level: slog.LevelDebug, // what passes is decided by handler.Enabled
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.LevelKey && a.Value.Any() == LevelNotice {
				a.Value = slog.StringValue("NOTICE")
			}
			return a
		},
	})
	return l
}

// Logger returns the logger of a room.
func (l *Log) Logger(room string) *slog.Logger {
	return slog.New(&handler{log: l, text: l.text, flag: slices.Index(flagNames, room)}).With("room", room)
}

// Level is the name of the level.
func (l *Log) Level() string {
	for _, v := range levels {
		if v.level == l.level.Level() {
			return v.name
		}
	}
	return l.level.Level().String()
}

// SetLevel changes the level; the name may be in lower case.
func (l *Log) SetLevel(name string) error {
	for _, v := range levels {
		if strings.EqualFold(v.name, name) {
			l.level.Set(v.level)
			return nil
		}
	}
	return refuse(syscall.EINVAL, "unknown log level %q; known are %s", name, strings.Join(LevelNames(), ", "))
}

// Flags lists the flags with their state.
func (l *Log) Flags() Obj {
	var o Obj
	for i, name := range flagNames {
		o = append(o, Member{name, l.flags[i].Load()})
	}
	return o
}

// SetFlag switches a flag; "all" means every one.
func (l *Log) SetFlag(name string, on bool) error {
	known := false
	for i, f := range flagNames {
		if name == f || name == "all" {
			l.flags[i].Store(on)
			known = true
		}
	}
	if !known {
		return refuse(syscall.EINVAL, "unknown log flag %q; known are all, %s", name, strings.Join(flagNames, ", "))
	}
	return nil
}

// handler lets a record through by the level, or by its room's flag.
type handler struct {
	log  *Log
	text slog.Handler
	flag int // index of the room in flagNames, -1 for none
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool {
	return l >= h.log.level.Level() || h.flag >= 0 && h.log.flags[h.flag].Load()
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error { return h.text.Handle(ctx, r) }

func (h *handler) WithAttrs(a []slog.Attr) slog.Handler {
	return &handler{h.log, h.text.WithAttrs(a), h.flag}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.log, h.text.WithGroup(name), h.flag}
}
