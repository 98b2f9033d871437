// Package order depends on that of a map.
//
//lint:room iscsi
package order

func sum(m map[int]int, s []int) (n int) {
	for k := range m { // want
		n -= k
	}
	for _, v := range s {
		n += v
	}
	//spindle:ordered a sum has no order
	for _, v := range m {
		n += v
	}
	return n
}
