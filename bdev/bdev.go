package bdev

// Bdev is a named device as its users open it: a Device around a module's
// Device that adds identity, claims, statistics, histograms and QoS.
type Bdev struct{ Device }
