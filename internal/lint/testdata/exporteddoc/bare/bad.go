// Package bare exports without a word.
//
//lint:room scsi
package bare

type Bare struct{} // a comment on the line is one

type Naked struct { // want
	a int
}

type (
	Grouped int // said here
)

func Do() {} // want

func (n Naked) One() int { return n.a }

func (n *Naked) Several() int { // want
	return n.a
}

func (n *Naked) String() string {
	return ""
}

const Alone = 1 // said here

// One of a kind.
const (
	First = iota
	Second
)

type hidden struct{}

func (hidden) Several() {
}
