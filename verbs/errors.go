package verbs

import "errors"

// What can keep RDMA from working, in words that say what to do.
var (
	// ErrNotBuilt: the program was built without cgo.
	ErrNotBuilt = errors.New("verbs: this binary was built without RDMA (it needs cgo)")
	// ErrNoLibrary: a library is not installed.
	ErrNoLibrary = errors.New("verbs: RDMA library missing")
	// ErrNoDevice: there is no RDMA device, or its driver is not loaded.
	ErrNoDevice = errors.New("verbs: no RDMA device")
	// ErrMemlock: the limit of locked memory is too low to register a region.
	ErrMemlock = errors.New("verbs: limit of locked memory (RLIMIT_MEMLOCK) too low")
	// ErrIWARP: the sink of an RDMA READ would have to be open to remote writes.
	ErrIWARP = errors.New("verbs: iWARP devices are not supported")
	// ErrGone: the device was removed.
	ErrGone = errors.New("verbs: device removed")
	// ErrBusy: something that was made of the object still exists.
	ErrBusy = errors.New("verbs: object in use")
	// ErrInvalid: an argument or a state that does not allow the call.
	ErrInvalid = errors.New("verbs: invalid call")
)
