package iser

// WithMaxMessage has messages of at most n bytes, as few ports do.
func WithMaxMessage(o Options, n uint32) Options {
	o.maxMessage = n
	return o
}
