// Package bench holds the measuring bench: bench/load is the initiator,
// bench/limit the canned responder, bench/peer starts targets, bench/counters
// looks at them, bench/compare sets them against each other and bench/report
// shows it. Here are the gates: counts, not times, that must not grow.
//
// Threading: tests only. Memory: none held.
package bench
