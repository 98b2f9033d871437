// Package report shows a comparison: one HTML page that needs nothing beside it,
// the same in Markdown, and its pictures as SVG.
//
// Threading: pure functions of a result. Memory: the pages are built whole.
package report
