package iscsi

// Waiting is how many logins wait for the sessions that they replace to end.
// Preconditions: runs on the first reactor.
func (e *Engine) Waiting() (n int) {
	for _, en := range e.registry.entries {
		n += len(en.waiting)
	}
	return n
}
