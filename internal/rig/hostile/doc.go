// Package hostile holds what the rig's guest runs against the target over real
// RDMA: a raw initiator on package verbs that keeps none of the rules, beside
// one that keeps them all. Its tests need soft-RoCE or an adapter and a target;
// RIG_PORTAL names the portal, RIG_LUN a LUN that may be overwritten, and
// without them the tests are left out.
//
// Threading: a client belongs to its test.
// Memory: each client has a region of its own, registered with its device.
package hostile
