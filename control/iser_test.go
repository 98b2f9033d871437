package control_test

import (
	"encoding/json"
	"strings"
	"testing"

	"spindle/control"
)

// TestISER: which portals have iSER is set for all of a group or for one, and
// is saved.
func TestISER(t *testing.T) {
	for _, tt := range []struct {
		name   string
		portal control.Portal
		on     bool
		fails  bool
		want   string // the portals as they are saved
	}{
		{"all on", control.Portal{}, true, false, `[{"host":"10.0.0.1","port":"3260","iser":true},{"host":"::1","port":"40001","iser":true}]`},
		{"all off", control.Portal{}, false, false, `[{"host":"10.0.0.1","port":"3260"},{"host":"::1","port":"40001"}]`},
		{"one on", control.Portal{Host: "10.0.0.1", Port: "3260"}, true, false, `[{"host":"10.0.0.1","port":"3260","iser":true},{"host":"::1","port":"40001","iser":true}]`},
		{"one off, by the port it got", control.Portal{Host: "[::1]", Port: "40001"}, false, false, `[{"host":"10.0.0.1","port":"3260"},{"host":"::1","port":"40001"}]`},
		{"no address", control.Portal{Host: "tomorrow"}, true, true, `[{"host":"10.0.0.1","port":"3260"},{"host":"::1","port":"40001","iser":true}]`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := target(t)
			err := c.CreatePortalGroup(control.PortalGroup{Tag: 7, Portals: []control.Portal{{Host: "10.0.0.1"}, {Host: "::1", Port: "0", ISER: true}}})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.SetISER(7, tt.portal, tt.on); tt.fails != (err != nil) {
				t.Fatal(err)
			}
			groups := c.PortalGroups()
			got, err := json.Marshal(groups[len(groups)-1].Portals)
			if err != nil || string(got) != tt.want {
				t.Errorf("got  %s\nwant %s, %v", got, tt.want, err)
			}
			saved, err := json.Marshal(c.Save())
			if n := strings.Count(string(saved), `"iser":true`); err != nil || n != strings.Count(tt.want, "true") {
				t.Errorf("saved %s, %v", saved, err)
			}
		})
	}
	c, _ := target(t)
	if err := c.SetISER(99, control.Portal{}, true); err == nil {
		t.Error("a group that is not there")
	}
}
