package dialogue_test

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"

	"spindle/internal/testbed"
	"spindle/iscsi/dialogue/linktest"
	"spindle/iscsi/iscsitest"
)

// TestSocketPortalGroups: the built target, configured by RPC, lets initiators in by
// the portal groups that map them to a node, shows each the LUNs of those maps, and
// tells no portal of a private group. iscsi.TestPortalGroups goes through the rest.
func TestSocketPortalGroups(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts a target")
	}
	target := linktest.Serve(t, testbed.Options{Paths: 3})
	const node, first, second = "iqn.2026-11.x:node", "iqn.2026-11.x:first", "iqn.2026-11.x:second"
	private := strconv.Itoa(target.More[1])
	for _, call := range [][]string{
		{"iscsi_delete_portal_group", "tag=3"},
		{"iscsi_create_portal_group", "tag=3", "private=true", `portals=[{"host":"127.0.0.1","port":"` + private + `"}]`},
		{"iscsi_create_initiator_group", "tag=2", `initiators=["` + first + `"]`, `netmasks=["ANY"]`},
		{"iscsi_create_initiator_group", "tag=3", `initiators=["` + second + `"]`, `netmasks=["ANY"]`},
		{"bdev_null_create", "name=one", "num_blocks=1024", "block_size=512"},
		{"bdev_null_create", "name=two", "num_blocks=1024", "block_size=512"},
		{"iscsi_create_target_node", "name=" + node, "alias_name=node", "queue_depth=16", "disable_chap=true",
			`luns=[{"lun_id":1,"bdev_name":"one"},{"lun_id":2,"bdev_name":"two"}]`,
			`pg_ig_maps=[{"pg_tag":1,"ig_tag":2,"luns":[{"lun_id":1}]},{"pg_tag":2,"ig_tag":3,"luns":[{"lun_id":2}]},{"pg_tag":3,"ig_tag":2}]`},
	} {
		if _, err := target.RPC(t.Context(), call...); err != nil {
			t.Fatal(err)
		}
	}
	portals := map[int]string{1: target.Addr()}
	for i, port := range target.More {
		portals[i+2] = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	}
	const refused = "> login T csg=1 nsg=3\n\tInitiatorName=$initiator\n\tTargetName=$target\n< login-response status=%s\n\tnone\nexpect-close silent\n"
	const shown, masked = "6/2900", "5/2500"
	luns := func(one, two string) string {
		const unit = "> scsi F lun=%d cdb=00\n< scsi-response F status=2\n\tsense %s\n"
		return "login\n" + fmt.Sprintf(unit, 1, one) + fmt.Sprintf(unit, 2, two) + "logout\n"
	}
	for _, tc := range []struct {
		portal            int
		initiator, script string
	}{
		{1, first, luns(shown, masked)},
		{1, second, fmt.Sprintf(refused, "0x0202")},
		{1, iscsitest.Initiator, fmt.Sprintf(refused, "0x0202")},
		{2, first, fmt.Sprintf(refused, "0x0202")},
		{2, second, luns(masked, shown)},
		{3, first, luns(shown, shown)},
		{3, second, fmt.Sprintf(refused, "0x0202")},
	} {
		t.Run(fmt.Sprintf("portal group %d/%s", tc.portal, tc.initiator), func(t *testing.T) {
			played(t, portals[tc.portal], node, tc.initiator, tc.script)
		})
	}
	t.Run("not by this portal group", func(t *testing.T) { // by 3 the testbed's own node has lost its map
		played(t, portals[3], testbed.IQN, first, fmt.Sprintf(refused, "0x0203"))
	})
	own := "\tTargetName=" + testbed.IQN + "\n\tTargetAddress=" + portals[1] + ",1\n\tTargetAddress=" + portals[2] + ",2\n"
	for initiator, reached := range map[string]string{
		first:               "\tTargetName=$target\n\tTargetAddress=" + portals[1] + ",1\n",
		second:              "\tTargetName=$target\n\tTargetAddress=" + portals[2] + ",2\n",
		iscsitest.Initiator: "",
	} {
		for tag, portal := range portals {
			t.Run(fmt.Sprintf("discovery by %d/%s", tag, initiator), func(t *testing.T) {
				said := string(played(t, portal, node, initiator, "discover\n> text F\n\tSendTargets=All\n< text-response F ttt=0xffffffff\n"+own+reached+"logout\n"))
				if want := 2 + strings.Count(reached, "Address"); strings.Count(said, "TargetAddress=") != want || strings.Contains(said, ":"+private+",") {
					t.Errorf("told %q, want %d addresses, none of a private group", said, want)
				}
			})
		}
	}
}
