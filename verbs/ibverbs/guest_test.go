//go:build linux

package ibverbs

import (
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"spindle/reactor/mem"
	"spindle/verbs"
)

// firstDevice opens the first device; the test is left out if there is none.
func firstDevice(t *testing.T) verbs.Device {
	t.Helper()
	p, err := Open()
	if err != nil {
		t.Skipf("left out: %v", err)
	}
	devs, err := p.Devices()
	if err != nil {
		t.Fatal(err)
	}
	if len(devs) == 0 {
		t.Skip("left out: no RDMA device; the rig has one")
	}
	t.Cleanup(func() {
		for _, d := range devs {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return devs[0]
}

func TestAsynchronousEvents(t *testing.T) {
	if os.Getenv(removable) != "1" {
		t.Skip("left out: takes a link down, which is for the rig")
	}
	d := firstDevice(t)
	netdev := read(sysClass, d.Info().Name, "parent")
	for _, step := range []struct {
		link string
		want verbs.AsyncType
		port verbs.PortState
	}{
		{"down", verbs.AsyncPortError, verbs.PortDown},
		{"up", verbs.AsyncPortActive, verbs.PortActive},
	} {
		if out, err := exec.Command("ip", "link", "set", netdev, step.link).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var ev verbs.AsyncEvent
		for range 2000 {
			if d.NextAsync(&ev) && ev.Type == step.want {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if ev.Type != step.want || ev.Port != 1 || ev.QP != 0 || ev.CQ != 0 {
			t.Errorf("link %s: %+v", step.link, ev)
		}
		if p, err := d.Port(1); err != nil || p.State != step.port {
			t.Errorf("link %s: port %+v, %v", step.link, p, err)
		}
	}
}

// TestLockedMemory needs a process with a limit: the rig runs it in one.
func TestLockedMemory(t *testing.T) {
	limit := Memlock()
	if limit.Unlimited || limit.Bytes > 32<<20 {
		t.Skipf("left out: %v", limit)
	}
	d := firstDevice(t)
	pd, err := d.NewPD()
	if err != nil {
		t.Fatal(err)
	}
	defer pd.Close()
	r, err := mem.NewSpace().Map(64<<20, -1)
	if err != nil {
		t.Fatal(err)
	}
	if mr, err := pd.Register(r); !errors.Is(err, verbs.ErrMemlock) {
		t.Errorf("%v, %v", mr, err)
	} else {
		t.Log(err)
	}
}
