// Package conformance runs libiscsi's iscsi-test-cu and judges it. The suite's
// own summary counts a skipped test as passed and a target that dies as
// nothing at all, so each test is classified here from the log, and the whole
// is compared with a list of what may differ from a pass, and why.
//
// Threading: one run at a time, on the caller's goroutine. Memory: a log is
// read by lines; results are the caller's.
package conformance
