package sim

import (
	"errors"

	"spindle/reactor"
)

// store keeps persistent reservations over the end of the target (scsi.PRStore).
// What was saved survives a loss of power: that is what Save promises.
type store struct {
	s     *run
	files map[string][]byte
}

var errStore = errors.New("sim: the store is full")

// Load implements scsi.PRStore.
func (st *store) Load(name string) ([]byte, error) { return st.files[name], nil }

// Save implements scsi.PRStore. One that fails has changed nothing.
func (st *store) Save(name string, data []byte) error {
	s := st.s
	if s.plan.storeFails && s.chance(8) {
		s.count(StoreFaults)
		return errStore
	}
	s.count(StoreSaves)
	if data == nil {
		delete(st.files, name)
		return nil
	}
	st.files[name] = append([]byte(nil), data...)
	return nil
}

// job is work that would block a reactor.
type job struct {
	work func()
	to   *reactor.Reactor
	done *reactor.Msg
}

// offload runs blocking work as steps of the scheduler (reactor.Offload).
type offload struct{ s *run }

// Go implements reactor.Offload.
func (o offload) Go(work func(), r *reactor.Reactor, done *reactor.Msg) {
	o.s.jobs = append(o.s.jobs, job{work, r, done})
}

// stepJob does the oldest piece of blocking work.
func (s *run) stepJob() {
	j := s.jobs[0]
	s.jobs = append(s.jobs[:0], s.jobs[1:]...)
	j.work()
	j.to.Post(j.done)
}
