// Package dialogue plays PDU scripts: text files that say what an initiator
// sends, byte for byte where that matters, and what must come back. A script is
// our reading of RFC 7143 in a form that any target can be held against, since
// all it needs is a byte stream: testdata/README.md describes the language.
//
// Threading: a Player belongs to one goroutine and reads and writes in its
// caller's turn. Memory: plain Go memory, a PDU at a time.
package dialogue
