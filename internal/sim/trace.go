package sim

import (
	"context"
	"log/slog"
	"strings"
)

// logger makes the engine's log a part of the trace, when it is kept.
func (s *run) logger() *slog.Logger {
	if !s.cfg.Trace {
		return nil
	}
	return slog.New(lines{s: s})
}

// lines is a log handler that writes trace lines.
type lines struct {
	s     *run
	attrs string
}

// Enabled implements slog.Handler.
func (l lines) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (l lines) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	r.Attrs(func(a slog.Attr) bool {
		b.WriteString(" " + a.String())
		return true
	})
	l.s.line("target: %s%s%s", r.Message, l.attrs, b.String())
	return nil
}

// WithAttrs implements slog.Handler.
func (l lines) WithAttrs(list []slog.Attr) slog.Handler {
	for _, a := range list {
		l.attrs += " " + a.String()
	}
	return l
}

// WithGroup implements slog.Handler.
func (l lines) WithGroup(string) slog.Handler { return l }
