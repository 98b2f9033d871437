// Package escape allocates behind innocent syntax.
//
//lint:room iscsi
package escape

type task struct{ next *task }

var head *task

//spindle:hot
func push(n int) []byte {
	head = &task{next: head}
	if n < 0 {
		panic("escape: a constant is no allocation")
	}
	return make([]byte, n)
}

func unmarked() { head = &task{} }
