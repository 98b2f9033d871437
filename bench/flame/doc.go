// Package flame draws a CPU profile as a flame graph: one self-contained SVG in
// which a function is as wide as its share of the time, upon those that called it.
//
// Threading: any goroutine. Memory: a profile and its picture are small.
package flame
