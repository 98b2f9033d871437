package iser

import (
	"sync/atomic"
	"time"

	"spindle/reactor"
	"spindle/reactor/clock"
	"spindle/reactor/ring"
	"spindle/verbs"
)

// watch has a reactor told when a source has something: by its ring when the
// source is a descriptor, by a message when it is in process. Owner: the reactor.
type watch struct {
	r     *reactor.Reactor
	from  verbs.Source
	ready func() // on r; arms again
	src   reactor.Source

	on      bool
	armed   bool // a poll is in flight
	cancels int  // cancellations in flight
	stopped func()
	retry   reactor.Timer

	msg    reactor.Msg
	posted atomic.Bool
}

const (
	watchPoll = iota
	watchCancel
)

// retryWatch is how long a full submission queue is given.
const retryWatch = time.Millisecond

func newWatch(r *reactor.Reactor, from verbs.Source, ready func()) *watch {
	w := &watch{r: r, from: from, ready: ready}
	w.retry.Fire = w.again
	w.msg.Run = w.woken
	return w
}

// start begins to watch.
func (w *watch) start() {
	w.on = true
	if w.from.FD() < 0 {
		w.from.OnReady(w.wake)
		return
	}
	w.src = w.r.Register(w)
	w.arm()
}

// arm asks for the next announcement of a descriptor.
func (w *watch) arm() {
	fd := w.from.FD()
	if fd < 0 || w.armed || !w.on {
		return
	}
	if w.r.Ring.PollFD(w.src.Tag(watchPoll), fd) {
		w.armed = true
		return
	}
	w.r.Arm(&w.retry, w.r.Now().Add(retryWatch))
}

func (w *watch) again(clock.Time) {
	if w.on {
		w.arm()
		return
	}
	w.cancel()
}

// Complete implements reactor.Completer.
func (w *watch) Complete(arg uint32, _ ring.CQE) {
	if arg == watchCancel {
		w.cancels--
	} else {
		w.armed = false
	}
	if w.on {
		w.ready()
		return
	}
	w.finish()
}

// wake is called by an in-process source, from wherever it is.
func (w *watch) wake() {
	if w.posted.CompareAndSwap(false, true) {
		w.r.Post(&w.msg)
	}
}

func (w *watch) woken(*reactor.Reactor) {
	w.posted.Store(false)
	if w.on {
		w.ready()
	}
}

// stop ends the watch and then calls done: the ring holds the descriptor's file
// while it polls it, and a removed device waits until nobody does.
func (w *watch) stop(done func()) {
	w.on, w.stopped = false, done
	w.r.Disarm(&w.retry)
	if w.from.FD() < 0 {
		w.from.OnReady(nil)
		w.stopped = nil
		done()
		return
	}
	w.cancel()
}

func (w *watch) cancel() {
	if !w.armed {
		w.finish()
		return
	}
	if w.r.Ring.Cancel(w.src.Tag(watchCancel), w.src.Tag(watchPoll)) {
		w.cancels++
		return
	}
	w.r.Arm(&w.retry, w.r.Now().Add(retryWatch))
}

func (w *watch) finish() {
	if w.armed || w.cancels > 0 || w.stopped == nil {
		return
	}
	done := w.stopped
	w.stopped = nil
	w.r.Unregister(w.src)
	done()
}
