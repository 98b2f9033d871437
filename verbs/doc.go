// Package verbs is the RDMA edge: devices, memory registration, completion
// queues, queue pairs and the connection manager of libibverbs and librdmacm,
// as one small interface. verbs/ibverbs implements it over the real libraries,
// verbs/memverbs in process. It knows nothing of iSCSI.
//
// Threading: the calls are of two kinds, and the comment of each interface says
// which. A control call may block in the kernel (a command to the device, a
// lookup, the locks of the libraries): it belongs to one control thread, which
// owns the event channel, and never to a reactor. A reactor call posts, polls
// or arms: it does not block, and many threads may make them at once as long as
// each queue pair and each completion queue has one owner. Whoever destroys an
// object makes sure that its owner has stopped using it.
//
// One crossing into the library per turn and direction is all a reactor needs:
// a Batch holds requests for any number of queue pairs, and Poll drains any
// number of completion queues.
//
// Memory: requests, scatter lists and completions are plain values without Go
// pointers, in memory of the caller (NewBatch and NewCompletions lay it out in
// an arena); the provider has done with a Batch when Post returns. The buffers
// that requests name stay the device's until their completion has been polled.
package verbs
