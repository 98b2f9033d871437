package scsi

// diagnosticCode is SELF-TEST CODE of SEND DIAGNOSTIC (SPC-5 §6.42).
const diagnosticCode = 0xe0

// prepDiagnostic takes the default self-test, which finds nothing wrong, and a
// command that asks for nothing. There is no other self-test and no diagnostic page.
func prepDiagnostic(t *Task) Result {
	switch {
	case t.CDB[1]&diagnosticCode != 0:
		return t.badCDB(1, 7)
	case be.Uint16(t.CDB[3:]) != 0:
		return t.badCDB(3, wholeByte)
	}
	return Ready
}
