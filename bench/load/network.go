package load

import (
	"context"

	"spindle/bench/wire"
	"spindle/iscsi/pdu"
	"spindle/reactor/clock"
)

// network is how a run's connections reach the target. It belongs to the
// loading thread.
type network interface {
	// memory is what the connections take from the arena, in bytes, and most how
	// much that may have in all.
	memory() uint64
	most() uint64
	// open takes the loop, before anything is dialled.
	open(l *wire.Loop) error
	// dial connects session number id.
	dial(ctx context.Context, id int) (path, error)
	// adopt makes the path of a session that has logged in the link of c.
	adopt(p path, c *conn) error
	// turn hands over what was sent and gives what has completed to the
	// connections, which it marks. It sets the generator's clock between the two.
	// until is as for wire.Loop.Turn.
	turn(until clock.Time) error
	// look looks for what no completion tells.
	look() error
	// leave ends the connections, when all was said on them.
	leave() error
	// close gives everything back, the loop with it.
	close()
}

// path carries one PDU at a time and waits for it: what a session logs in over,
// before a link carries many.
type path interface {
	// offer adds the keys that depend on the transport.
	offer(w *pdu.TextWriter)
	write(h pdu.BHS, data []byte) error
	// read takes a PDU's header into h and returns its data segment or, where data
	// comes apart from PDUs, what came for the command that a response ends well.
	read(h pdu.BHS) ([]byte, error)
	close()
}
