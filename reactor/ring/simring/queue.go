package simring

// queue is a bounded byte queue over a circular buffer that grows on demand
// and is then reused.
type queue struct {
	buf  []byte
	head int
	n    int
	max  int
}

func (q *queue) room() int { return q.max - q.n }

// front is the longest contiguous run of bytes at the head.
func (q *queue) front() []byte {
	return q.buf[q.head:min(q.head+q.n, len(q.buf))]
}

func (q *queue) drop(n int) {
	q.n -= n
	if q.head += n; q.head >= len(q.buf) {
		q.head -= len(q.buf)
	}
	if q.n == 0 {
		q.head = 0
	}
}

// push appends as much of b as there is room for.
func (q *queue) push(b []byte) int {
	n := min(len(b), q.room())
	if q.n+n > len(q.buf) {
		q.grow(q.n + n)
	}
	tail := q.head + q.n
	if tail >= len(q.buf) {
		tail -= len(q.buf)
	}
	k := copy(q.buf[tail:], b[:n])
	copy(q.buf, b[k:n])
	q.n += n
	return n
}

// pop moves up to len(b) bytes out.
func (q *queue) pop(b []byte) int {
	done := 0
	for done < len(b) && q.n > 0 {
		k := copy(b[done:], q.front())
		q.drop(k)
		done += k
	}
	return done
}

// moveTo moves n bytes to the end of d, which has room for them.
func (q *queue) moveTo(d *queue, n int) {
	for n > 0 {
		f := q.front()
		k := d.push(f[:min(len(f), n)])
		q.drop(k)
		n -= k
	}
}

func (q *queue) clear() { q.head, q.n = 0, 0 }

func (q *queue) grow(n int) {
	size := max(len(q.buf), 2048)
	for size < n {
		size *= 2
	}
	b := make([]byte, min(size, q.max))
	k := copy(b, q.front())
	copy(b[k:], q.buf[:q.n-k])
	q.buf, q.head = b, 0
}
