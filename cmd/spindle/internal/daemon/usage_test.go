package daemon_test

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"spindle/cmd/spindle/internal/daemon"
	"spindle/control/rpc"
	"spindle/iscsi/dialogue"
	"spindle/iscsi/dialogue/linktest"
	"spindle/reactor"
)

// thresholdScript arms a threshold of 2 MiB and writes 4 MiB; a wait has the
// daemon look at what is in use.
const thresholdScript = `
login
ready
> scsi F W lun=$lun edtl=28 cdb=151000001c00
	x 00000000 5c02 0014 00000000 00000000 00000000 81020000 00000002
< scsi-response F status=0
wait 1s
> scsi F lun=$lun cdb=000000000000
< scsi-response F status=0
> scsi F W lun=$lun edtl=512 cdb=93000000000000000000000020000000
	fill 0x5a 512
< scsi-response F status=0
wait 1s
> scsi F lun=$lun cdb=000000000000
< scsi-response F status=2
	sense 6/3807
wait 1s
> scsi F lun=$lun cdb=000000000000
< scsi-response F status=0
logout
`

// TestThreshold: the daemon looks at how much thin disks use, and a threshold that
// is reached is told.
func TestThreshold(t *testing.T) {
	script, err := dialogue.Parse("threshold", thresholdScript)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	socket, disk := filepath.Join(dir, "s.sock"), filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(disk, 64<<20); err != nil {
		t.Fatal(err)
	}
	ticks := make(chan time.Time)
	d, err := start(t, daemon.Options{Socket: socket, Malloc: 1 << 20, Listen: "127.0.0.1:0", Idle: reactor.Interrupt, UsageTicks: ticks})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	}()
	c, err := rpc.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	var groups []portalGroup
	call(t, c, "iscsi_get_portal_groups", nil, &groups)
	portal := groups[0].Portals[0]
	node := "iqn.2026-11.dev.spindle:" + daemon.QuickName
	call(t, c, "bdev_aio_create", map[string]any{"name": "F", "filename": disk}, nil)
	call(t, c, "iscsi_target_node_add_lun", map[string]any{"name": node, "bdev_name": "F"}, nil)
	p := &dialogue.Player{
		Dial: func() (dialogue.Link, error) {
			return linktest.DialSocket(net.JoinHostPort(portal.Host, portal.Port), 5*time.Second)
		},
		Wait: func(time.Duration) {
			// The second tick is taken when the first look has ended; what that
			// has posted to the home reactor, and home to the others, comes
			// before what the calls post.
			for range 2 {
				ticks <- time.Time{}
			}
			for range 2 {
				call(t, c, "iscsi_get_connections", nil, nil)
			}
		},
		Vars: map[string]string{"target": node, "initiator": "iqn.2026-11.dev.spindle:initiator", "lun": "1"},
	}
	if err := p.Play(script); err != nil {
		t.Fatal(err)
	}
}
