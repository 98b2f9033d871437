package mem

// Arena carves one region into power-of-two blocks. Owner: one reactor.
type Arena struct{ region Ref }

// MinBlock and MaxBlock bound the size classes, in bytes.
const (
	MinBlock = 4 << 10
	MaxBlock = 4 << 20
)

// Alloc returns n bytes (its Len is n, its memory the next power of two), or
// false when no block of that size can be made now.
func (a *Arena) Alloc(n uint32) (Ref, bool) { panic("unwritten") }

// Free returns a Ref that Alloc gave.
func (a *Arena) Free(r Ref) { panic("unwritten") }
