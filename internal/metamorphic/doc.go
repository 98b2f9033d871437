// Package metamorphic holds the target against itself: one random list of SCSI
// operations must give the same data, status and sense over a real socket, over
// the simulated ring and over iSER, whatever was negotiated, on every kind of device.
//
// Threading: each run is one goroutine's. Memory: plain Go memory.
package metamorphic
