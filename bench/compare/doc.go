// Package compare measures targets against each other. All of them are started
// at once and all but the one being measured are stopped; rounds go through them
// in turn, forwards and backwards, so that a machine that changes its mind does
// so to all alike. What is compared is a round's figures with the same round's,
// and what is reported is the median of those ratios with the interval that the
// true one lies in; a ratio whose interval is too wide is not printed.
//
// Threading: Run blocks its goroutine; the load runs on a thread of its own.
// Memory: results grow with the number of runs.
package compare
