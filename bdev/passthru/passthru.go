// Package passthru is a stacked device that changes nothing: the smallest
// example of one, and a measure of what a layer costs.
//
// Threading: a Device is safe from any thread. Memory: none of its own.
package passthru

import (
	"fmt"

	"spindle/bdev"
	"spindle/reactor"
)

// Device passes every I/O on to its base.
type Device struct{ bdev.Stacked }

// New stacks a device on base.
func New(base bdev.Device) (*Device, error) {
	d := &Device{}
	if err := d.Stack(base, func(i *bdev.Info) { i.Product = "passthru" }); err != nil {
		return nil, fmt.Errorf("passthru: %w", err)
	}
	return d, nil
}

// Open implements bdev.Device.
func (d *Device) Open(r *reactor.Reactor) (bdev.Channel, error) {
	base, err := d.Base().Open(r)
	if err != nil {
		return nil, fmt.Errorf("passthru: %w", err)
	}
	return &channel{base}, nil
}

// channel forwards Abort, Release and Close as they are.
type channel struct{ bdev.Channel }

// Inline implements bdev.Inliner: the base knows.
func (c *channel) Inline() bool {
	base, ok := c.Channel.(bdev.Inliner)
	return ok && base.Inline()
}

// Submit implements bdev.Channel.
//
//spindle:hot
func (c *channel) Submit(io *bdev.IO) bdev.Status {
	io.Push(c, 0)
	s := c.Channel.Submit(io)
	if s != bdev.Pending {
		io.Pop()
	}
	return s
}

// IODone implements bdev.Completer.
//
//spindle:hot
func (c *channel) IODone(io *bdev.IO) {
	io.Pop()
	io.Complete(io.Status)
}
