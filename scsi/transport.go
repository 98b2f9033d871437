package scsi

// Sense codes of the transport protocol (RFC 7143 §11.4.7.2, with ABORTED COMMAND).
const (
	UnexpectedUnsolicited Code = 0x0c0c // UNEXPECTED UNSOLICITED DATA
	IncorrectDataAmount   Code = 0x0c0d // NOT ENOUGH UNSOLICITED DATA and the like
	ProtocolCRC           Code = 0x4705 // PROTOCOL SERVICE CRC ERROR
)

// Refuse gives a task that is not in Execute CHECK CONDITION with this sense:
// the engine found fault with its delivery. The engine sends the status and
// calls End as for a task that Prepare ended.
// Preconditions: runs on the task's reactor, after Begin.
func (t *Task) Refuse(k Key, c Code) { t.fail(k, c) }
