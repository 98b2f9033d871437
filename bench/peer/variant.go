package peer

import (
	"context"
	"os"
	"path/filepath"
)

// Variant is a peer under another name, set up differently: more reactors, say,
// or another idle policy. It has a folder of its own for its files.
func Variant(d Driver, name, title string, change func(*Setup)) Driver {
	return variant{d, name, title, change}
}

type variant struct {
	Driver
	name, title string
	change      func(*Setup)
}

func (v variant) Name() string  { return v.name }
func (v variant) Title() string { return v.title }

func (v variant) Start(ctx context.Context, s Setup) (*Running, error) {
	s.Dir = filepath.Join(s.Dir, v.name)
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return nil, err
	}
	s.Args, s.Env = append([]string(nil), s.Args...), append([]string(nil), s.Env...)
	v.change(&s)
	return v.Driver.Start(ctx, s)
}
