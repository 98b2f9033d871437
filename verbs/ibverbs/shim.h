/* What the Go files call. Every function returns 0 or more when it did what it
 * says, else -errno. Pointers to objects of the libraries are opaque. */
#ifndef SPINDLE_SHIM_H
#define SPINDLE_SHIM_H

#include <stddef.h>
#include <stdint.h>

/* These have the layout of SendWR, RecvWR, SGE and WC of package verbs. */
struct sp_send {
	uint64_t id;
	uint64_t remote_addr;
	uint32_t rkey;
	uint32_t qp;
	uint32_t first;
	uint16_t num_sge;
	uint8_t op;
	uint8_t flags;
	int32_t err;
	uint32_t taken; /* shim.c's: handed over or refused */
};

struct sp_recv {
	uint64_t id;
	uint32_t qp;
	uint32_t first;
	uint16_t num_sge;
	uint16_t taken;
	int32_t err;
};

struct sp_sge {
	uint64_t addr;
	uint32_t len;
	uint32_t lkey;
};

struct sp_wc {
	uint64_t id;
	uint32_t byte_len;
	uint32_t qp_num;
	uint32_t inv_key;
	uint32_t vendor_err;
	uint8_t status;
	uint8_t op;
	uint8_t flags;
	uint8_t pad[5];
};

/* Data path. */
int sp_arm(const uint32_t *cqs, int ncqs);

/* Posting and polling take one argument: their caller switches stacks by itself. */
struct sp_post_call {
	struct sp_send *s;
	struct sp_recv *r;
	struct sp_sge *sges;
	int ns, nr, nsges, refused;
};

struct sp_poll_call {
	const uint32_t *cqs;
	struct sp_wc *out;
	int ncqs, n;
	int64_t result; /* count, or'ed with (failed queue + 1) << 32 */
};

int sp_post_on_stack(struct sp_post_call *c);
int sp_poll_on_stack(struct sp_poll_call *c);

/* Libraries: 0, or which could not be loaded (1 libibverbs, 2 librdmacm), with the reason. */
int sp_load(char *reason, size_t n);

/* Devices. */
struct sp_info {
	char name[64];
	char firmware[64];
	uint64_t guid, max_mr_size;
	uint32_t index, vendor, part;
	int transport, ports, mem_mgt;
	int max_qp, max_qp_wr, max_sge, max_sge_rd, max_cq, max_cqe, max_mr, max_pd, max_rd_atom, max_init_rd_atom;
};

struct sp_port {
	int state, link, mtu, gids;
	uint32_t max_msg;
	uint16_t lid;
};

struct sp_gid {
	uint8_t gid[16];
	uint32_t index, port, type, ifindex;
};

int sp_scan(struct sp_info *out, int n);
int sp_devices(void **ctxs, int n);
void sp_release(void *ctx, int removed);
int sp_query_device(void *ctx, struct sp_info *out);
int sp_query_port(void *ctx, int port, struct sp_port *out);
int sp_gids(void *ctx, struct sp_gid *out, int n);
int sp_async_fd(void *ctx);

struct sp_async {
	int type, port;
	uint32_t qp, cq;
};

int sp_next_async(void *ctx, struct sp_async *out);

/* Objects. */
int sp_alloc_pd(void *ctx, void **pd);
int sp_free_pd(void *pd);
int sp_reg_mr(void *pd, uint64_t addr, uint64_t len, int access, void **mr, uint32_t *lkey, uint32_t *rkey);
int sp_dereg_mr(void *mr);
int sp_create_channel(void *ctx, void **ch, int *fd);
int sp_drain_channel(void *ch);
int sp_destroy_channel(void *ch);
int sp_create_cq(void *ctx, int n, void *ch, uint32_t *handle, int *granted);
int sp_destroy_cq(uint32_t handle);

struct sp_caps {
	uint32_t max_send, max_recv, max_send_sge, max_recv_sge, max_inline;
};

int sp_create_qp(void *id, void *pd, uint32_t send_cq, uint32_t recv_cq, struct sp_caps *caps, uint32_t *handle, uint32_t *num);
int sp_query_qp(uint32_t handle);
int sp_fail_qp(uint32_t handle);
int sp_destroy_qp(void *id, uint32_t handle);

/* Connection manager. */
struct sp_addr {
	uint8_t ip[16];
	uint32_t scope;
	uint16_t port;
	uint8_t v6, set;
};

struct sp_param {
	uint8_t responder_resources, initiator_depth, flow_control, retry, rnr_retry;
};

struct sp_event {
	void *id, *listener;
	int type, status;
	struct sp_param param;
	uint32_t qp_num;
	int private_len;
	uint8_t private_data[256];
};

int sp_cm_channel(void **ch, int *fd);
void sp_cm_channel_destroy(void *ch);
int sp_cm_next(void *ch, struct sp_event *out);
int sp_cm_create(void *ch, void **id);
int sp_cm_destroy(void *id);
void *sp_cm_context(void *id); /* the device's, or NULL */
int sp_cm_port(void *id);
void sp_cm_addrs(void *id, struct sp_addr *local, struct sp_addr *peer);
int sp_cm_bind(void *id, struct sp_addr *a);
int sp_cm_listen(void *id, int backlog);
int sp_cm_resolve_addr(void *id, struct sp_addr *dst, int ms);
int sp_cm_resolve_route(void *id, int ms);
int sp_cm_connect(void *id, struct sp_param *p, const void *data, int n);
int sp_cm_accept(void *id, struct sp_param *p, const void *data, int n);
int sp_cm_reject(void *id, const void *data, int n);
int sp_cm_disconnect(void *id);
int sp_cm_notify_established(void *id);
int sp_cm_tos(void *id, uint8_t tos);
int sp_cm_ack_timeout(void *id, uint8_t t);

#endif
