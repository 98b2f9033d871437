package iscsi_test

import (
	"errors"
	"testing"
	"time"

	"spindle/bdev"
	"spindle/iscsi"
	"spindle/iscsi/iscsitest"
	"spindle/reactor"
)

// silentMeter is a thin device on a file system that does not answer.
type silentMeter struct {
	bdev.Device
	asked, answer chan struct{}
}

func (d *silentMeter) Info() *bdev.Info {
	i := *d.Device.Info()
	i.Metered = true
	return &i
}

func (d *silentMeter) Usage() (bdev.Usage, error) {
	close(d.asked)
	<-d.answer
	return bdev.Usage{}, errors.New("too late")
}

// TestUsageHangs: a device that does not tell how much it uses holds up no call about
// something else.
func TestUsageHangs(t *testing.T) {
	d := &silentMeter{asked: make(chan struct{}), answer: make(chan struct{})}
	g := iscsitest.New(t, iscsitest.Options{Wrap: func(_ *iscsitest.Target, base bdev.Device) bdev.Device {
		d.Device = base
		return d
	}})
	polled, changed := make(chan struct{}), make(chan struct{})
	go func() {
		g.Engine.PollUsage(reactor.Blocking{})
		close(polled)
	}()
	<-d.asked
	go func() {
		g.Engine.SetOptions(iscsi.Defaults())
		close(changed)
	}()
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		t.Error("a change of the options waits for the device")
	}
	close(d.answer)
	<-polled
	<-changed
}
