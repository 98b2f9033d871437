package iser

import "spindle/iscsi"

// Counters returns Stats by name. Any goroutine may call it.
func (t *Transport) Counters() []iscsi.Counter {
	s := &t.Stats
	return []iscsi.Counter{
		{Name: "iser_accepted", Value: s.Accepted.Load()},
		{Name: "iser_rejected", Value: s.Rejected.Load()},
		{Name: "iser_malformed", Value: s.Malformed.Load()},
		{Name: "iser_parse_panics", Value: s.ParsePanics.Load()},
		{Name: "iser_read_waits", Value: s.ReadWaits.Load()},
		{Name: "iser_send_waits", Value: s.SendWaits.Load()},
		{Name: "iser_refused", Value: s.Refused.Load()},
		{Name: "iser_failed", Value: s.Failed.Load()},
		{Name: "iser_rnr", Value: s.RNR.Load()},
		{Name: "iser_remote_access", Value: s.RemoteAccess.Load()},
		{Name: "iser_stale", Value: s.Stale.Load()},
		{Name: "iser_copies", Value: s.Copies.Load()},
		{Name: "iser_drain_timeouts", Value: s.DrainTimeout.Load()},
		{Name: "iser_zombies", Value: s.Zombies.Load()},
		{Name: "iser_devices", Value: uint64(s.Devices.Load())},
		{Name: "iser_removals", Value: s.Removals.Load()},
	}
}
