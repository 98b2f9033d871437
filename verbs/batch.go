package verbs

import "spindle/reactor/mem"

// Batch gathers the requests of a turn, for any queue pairs of one provider.
// Owner: one reactor.
type Batch struct {
	Sends []SendWR
	Recvs []RecvWR
	SGEs  []SGE
}

// BatchSize is the memory that NewBatch needs, in bytes.
func BatchSize(sends, recvs, sges int) uint32 {
	return uint32(sends*sendSize + recvs*recvSize + sges*sgeSize)
}

// NewBatch lays a batch of so many sends, receives and SGEs out in m, which is
// the batch's from now on.
// Preconditions: m has BatchSize bytes and an address that 8 divides.
func NewBatch(m mem.Ref, sends, recvs, sges int) *Batch {
	s, r := uint32(sends*sendSize), uint32(recvs*recvSize)
	return &Batch{
		Sends: sendWRs(m.Slice(0, s), sends)[:0],
		Recvs: recvWRs(m.Slice(s, r), recvs)[:0],
		SGEs:  sgList(m.Slice(s+r, uint32(sges*sgeSize)), sges)[:0],
	}
}

// CompletionsSize is the memory that NewCompletions needs, in bytes.
func CompletionsSize(n int) uint32 { return uint32(n * wcSize) }

// NewCompletions makes room for n completions in m.
// Preconditions: m has CompletionsSize bytes and an address that 8 divides.
func NewCompletions(m mem.Ref, n int) []WC { return completions(m, n) }

// Room tells whether so many more requests fit.
//
//spindle:hot
func (b *Batch) Room(sends, recvs, sges int) bool {
	return cap(b.Sends)-len(b.Sends) >= sends && cap(b.Recvs)-len(b.Recvs) >= recvs && cap(b.SGEs)-len(b.SGEs) >= sges
}

// Empty tells whether there is nothing to post.
//
//spindle:hot
func (b *Batch) Empty() bool { return len(b.Sends) == 0 && len(b.Recvs) == 0 }

// Send adds a send request with its SGEs.
// Preconditions: Room.
//
//spindle:hot
func (b *Batch) Send(w SendWR, sges ...SGE) {
	w.First, w.NumSGE, w.Err = uint32(len(b.SGEs)), uint16(len(sges)), 0
	i := len(b.SGEs)
	b.SGEs = b.SGEs[:i+len(sges)] // within the capacity: else it panics
	copy(b.SGEs[i:], sges)
	j := len(b.Sends)
	b.Sends = b.Sends[:j+1]
	b.Sends[j] = w
}

// Recv adds a receive request with one SGE.
// Preconditions: Room.
//
//spindle:hot
func (b *Batch) Recv(qp QPHandle, id WRID, sge SGE) {
	i, j := len(b.SGEs), len(b.Recvs)
	b.SGEs = b.SGEs[:i+1]
	b.SGEs[i] = sge
	b.Recvs = b.Recvs[:j+1]
	b.Recvs[j] = RecvWR{ID: id, QP: qp, First: uint32(i), NumSGE: 1}
}

// Reset empties the batch.
//
//spindle:hot
func (b *Batch) Reset() { b.Sends, b.Recvs, b.SGEs = b.Sends[:0], b.Recvs[:0], b.SGEs[:0] }

// SGEsOf are the SGEs of a request; for providers.
//
//spindle:hot
func (b *Batch) SGEsOf(first uint32, n uint16) []SGE { return b.SGEs[first : first+uint32(n)] }
