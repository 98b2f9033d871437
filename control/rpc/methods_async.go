package rpc

import (
	"slices"

	"spindle/control"
	"spindle/iscsi"
	"spindle/iscsi/pdu"
)

// asyncEvents are the events of iscsi_target_node_send_async_message.
// iscsi_target_node_request_logout is event 1, and event 5 is the engine's own.
var asyncEvents = []struct {
	name  string
	event pdu.AsyncEvent
}{
	{"scsi", pdu.AsyncSCSI}, {"drop_connection", pdu.AsyncDropConnection},
	{"drop_session", pdu.AsyncDropSession}, {"renegotiate", pdu.AsyncRenegotiate},
}

// asyncMethod sends Asynchronous Messages.
func asyncMethod(name Param, hint string) Method {
	var events []string
	for _, e := range asyncEvents {
		events = append(events, e.name)
	}
	number := func(name string, most int64, doc string) Param {
		return Param{Name: name, Type: Uint32, Max: most, Doc: doc}
	}
	return Method{
		Name: "iscsi_target_node_send_async_message", State: Runtime,
		Params: one(name, Param{Name: "event", Type: String, Required: true, Enum: events, Doc: "what to tell; a connection or session that is said to be dropped is"},
			number("lun_id", control.MaxLUN, "scsi: the LUN"), number("sense_key", 15, "scsi: sense data"), number("asc", 255, "scsi: sense data"),
			number("ascq", 255, "scsi: sense data"), number("cid", 65535, "drop_connection: its CID"),
			number("seconds", 65535, "renegotiate: how long the initiator has")),
		Result: "true", Doc: "Send a node's initiators an Asynchronous Message (RFC 7143, 11.9). SPDK has no such method.",
		Hint: hint, bad: invalidParams, fails: invalidParams,
		run: func(r *request) (any, error) {
			i := slices.Index(events, r.String("event"))
			return true, r.ctl.SendAsync(r.String("name"), iscsi.AsyncMessage{
				Event: asyncEvents[i].event, LUN: uint16(r.Uint("lun_id")), Key: uint8(r.Uint("sense_key")), ASC: uint8(r.Uint("asc")),
				ASCQ: uint8(r.Uint("ascq")), CID: uint16(r.Uint("cid")), Seconds: uint16(r.Uint("seconds")),
			})
		},
	}
}
