//go:build cgo && linux

#include "shim.h"
#include "abi.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The libraries. */

static struct {
	struct abi_device **(*get_device_list)(int *);
	void (*free_device_list)(struct abi_device **);
	const char *(*get_device_name)(struct abi_device *);
	uint64_t (*get_device_guid)(struct abi_device *);
	int (*get_device_index)(struct abi_device *); /* since 33, may be missing */
	int (*query_device)(struct abi_context *, struct abi_device_attr *);
	int (*query_port)(struct abi_context *, uint8_t, struct abi_port_attr *);
	ssize_t (*query_gid_table)(struct abi_context *, struct abi_gid_entry *, size_t, uint32_t, size_t); /* since 33 */
	int (*query_gid)(struct abi_context *, uint8_t, int, uint8_t *);
	struct abi_pd *(*alloc_pd)(struct abi_context *);
	int (*dealloc_pd)(struct abi_pd *);
	struct abi_mr *(*reg_mr)(struct abi_pd *, void *, size_t, int);
	int (*dereg_mr)(struct abi_mr *);
	struct abi_comp_channel *(*create_comp_channel)(struct abi_context *);
	int (*destroy_comp_channel)(struct abi_comp_channel *);
	struct abi_cq *(*create_cq)(struct abi_context *, int, void *, struct abi_comp_channel *, int);
	int (*destroy_cq)(struct abi_cq *);
	int (*get_cq_event)(struct abi_comp_channel *, struct abi_cq **, void **);
	void (*ack_cq_events)(struct abi_cq *, unsigned int);
	int (*get_async_event)(struct abi_context *, struct abi_async_event *);
	void (*ack_async_event)(struct abi_async_event *);
	int (*destroy_qp)(struct abi_qp *);
	int (*modify_qp)(struct abi_qp *, struct abi_qp_attr *, int);
	int (*query_qp)(struct abi_qp *, struct abi_qp_attr *, int, struct abi_qp_init_attr *);

	struct abi_context **(*get_devices)(int *);
	void (*free_devices)(struct abi_context **);
	struct abi_event_channel *(*create_event_channel)(void);
	void (*destroy_event_channel)(struct abi_event_channel *);
	int (*get_cm_event)(struct abi_event_channel *, struct abi_cm_event **);
	int (*ack_cm_event)(struct abi_cm_event *);
	int (*create_id)(struct abi_event_channel *, struct abi_cm_id **, void *, int);
	int (*destroy_id)(struct abi_cm_id *);
	int (*bind_addr)(struct abi_cm_id *, struct sockaddr *);
	int (*listen)(struct abi_cm_id *, int);
	int (*resolve_addr)(struct abi_cm_id *, struct sockaddr *, struct sockaddr *, int);
	int (*resolve_route)(struct abi_cm_id *, int);
	int (*create_qp)(struct abi_cm_id *, struct abi_pd *, struct abi_qp_init_attr *);
	int (*connect)(struct abi_cm_id *, struct abi_conn_param *);
	int (*accept)(struct abi_cm_id *, struct abi_conn_param *);
	int (*reject)(struct abi_cm_id *, const void *, uint8_t);
	int (*disconnect)(struct abi_cm_id *);
	int (*notify)(struct abi_cm_id *, int);
	int (*set_option)(struct abi_cm_id *, int, int, void *, size_t);
} lib;

struct symbol {
	const char *name;
	void *at;
	int optional;
};

static int resolve(const char *library, const struct symbol *list, size_t count, char *reason, size_t n) {
	void *h = dlopen(library, RTLD_NOW | RTLD_LOCAL);
	if (!h) {
		snprintf(reason, n, "%s", dlerror());
		return -1;
	}
	for (size_t i = 0; i < count; i++) {
		void *f = dlsym(h, list[i].name);
		if (!f && !list[i].optional) {
			snprintf(reason, n, "%s has no %s: too old", library, list[i].name);
			return -1;
		}
		memcpy(list[i].at, &f, sizeof f);
	}
	return 0;
}

#define IBV(f) {"ibv_" #f, &lib.f, 0}
#define CM(f) {"rdma_" #f, &lib.f, 0}

int sp_load(char *reason, size_t n) {
	const struct symbol verbs[] = {
		IBV(get_device_list), IBV(free_device_list), IBV(get_device_name), IBV(get_device_guid),
		{"ibv_get_device_index", &lib.get_device_index, 1}, IBV(query_device), IBV(query_port),
		{"_ibv_query_gid_table", &lib.query_gid_table, 1}, IBV(query_gid), IBV(alloc_pd), IBV(dealloc_pd),
		IBV(reg_mr), IBV(dereg_mr), IBV(create_comp_channel), IBV(destroy_comp_channel), IBV(create_cq),
		IBV(destroy_cq), IBV(get_cq_event), IBV(ack_cq_events), IBV(get_async_event), IBV(ack_async_event),
		IBV(destroy_qp), IBV(modify_qp), IBV(query_qp),
	};
	const struct symbol cm[] = {
		CM(get_devices), CM(free_devices), CM(create_event_channel), CM(destroy_event_channel), CM(get_cm_event),
		CM(ack_cm_event), CM(create_id), CM(destroy_id), CM(bind_addr), CM(listen), CM(resolve_addr),
		CM(resolve_route), CM(create_qp), CM(connect), CM(accept), CM(reject), CM(disconnect),
		CM(notify), CM(set_option),
	};
	if (resolve("libibverbs.so.1", verbs, sizeof verbs / sizeof *verbs, reason, n))
		return 1;
	if (resolve("librdmacm.so.1", cm, sizeof cm / sizeof *cm, reason, n))
		return 2;
	return 0;
}

/* failed is the error of a call that returned -1 and set errno, or an errno. */
static int failed(int rc) {
	if (rc < 0)
		rc = errno;
	return rc ? -rc : -EIO;
}

static int result(int rc) { return rc ? failed(rc) : 0; }

/* Handles: slot + 1 | generation << 16. A control thread fills and empties
 * slots; data path calls on any thread look them up. */

#define SLOTS 65535

struct slot {
	void *object;
	uint32_t generation;
};

static struct table {
	struct slot slots[SLOTS];
	uint32_t hint;
} queue_pairs, completion_queues;

static uint32_t reserve(struct table *t) {
	for (uint32_t i = 0; i < SLOTS; i++) {
		uint32_t k = (t->hint + i) % SLOTS;
		if (!t->slots[k].object) {
			t->hint = k + 1;
			return (k + 1) | (t->slots[k].generation & 0xffff) << 16;
		}
	}
	return 0;
}

static void publish(struct table *t, uint32_t handle, void *object) {
	__atomic_store_n(&t->slots[(handle & 0xffff) - 1].object, object, __ATOMIC_RELEASE);
}

static void retract(struct table *t, uint32_t handle) {
	struct slot *s = &t->slots[(handle & 0xffff) - 1];
	__atomic_store_n(&s->generation, s->generation + 1, __ATOMIC_RELAXED);
	__atomic_store_n(&s->object, NULL, __ATOMIC_RELEASE);
}

/* restore undoes retract, when the object could not be destroyed. */
static void restore(struct table *t, uint32_t handle, void *object) {
	struct slot *s = &t->slots[(handle & 0xffff) - 1];
	__atomic_store_n(&s->generation, s->generation - 1, __ATOMIC_RELAXED);
	__atomic_store_n(&s->object, object, __ATOMIC_RELEASE);
}

static void *find(struct table *t, uint32_t handle) {
	uint32_t k = handle & 0xffff;
	if (!k)
		return NULL;
	struct slot *s = &t->slots[k - 1];
	void *o = __atomic_load_n(&s->object, __ATOMIC_ACQUIRE);
	return (__atomic_load_n(&s->generation, __ATOMIC_RELAXED) & 0xffff) == handle >> 16 ? o : NULL;
}

/* Data path. */

#define CHAIN 64

static int post_recvs(struct sp_recv *r, int nr, struct sp_sge *sges, int nsges) {
	struct abi_recv_wr chain[CHAIN], *bad;
	int refused = 0;
	for (int i = 0; i < nr; i++)
		r[i].taken = 0, r[i].err = 0;
	for (int i = 0; i < nr; i++) {
		int at[CHAIN], n = 0, k, rc = EINVAL;
		if (r[i].taken)
			continue;
		struct abi_qp *qp = find(&queue_pairs, r[i].qp);
		for (k = i; k < nr && n < CHAIN; k++) {
			if (r[k].taken || r[k].qp != r[i].qp)
				continue;
			if (!qp || (int64_t)r[k].first + r[k].num_sge > nsges)
				break;
			chain[n] = (struct abi_recv_wr){
				.wr_id = r[k].id, .next = &chain[n + 1],
				.sg_list = (struct abi_sge *)sges + r[k].first, .num_sge = r[k].num_sge,
			};
			r[k].taken = 1;
			at[n++] = k;
		}
		if (n > 0) {
			chain[n - 1].next = NULL;
			bad = NULL;
			rc = qp->context->post_recv(qp, chain, &bad);
			if (!rc)
				continue;
			rc = rc < 0 ? errno : rc;
			k = at[bad ? bad - chain : 0];
		} else {
			k = i;
		}
		/* From k on nothing of this queue pair is posted, so that nothing overtakes. */
		for (int e = rc; k < nr; k++) {
			if (r[k].qp == r[i].qp)
				r[k].taken = 1, r[k].err = e, e = ECANCELED, refused++;
		}
	}
	return refused;
}

static const uint8_t wr_opcode[] = {ABI_WR_SEND, ABI_WR_SEND_WITH_INV, ABI_WR_RDMA_WRITE, ABI_WR_RDMA_READ};

static unsigned int wr_flags(uint8_t f) {
	return (f & 1 ? ABI_SEND_SIGNALED : 0) | (f & 2 ? ABI_SEND_INLINE : 0) |
	       (f & 4 ? ABI_SEND_FENCE : 0) | (f & 8 ? ABI_SEND_SOLICITED : 0);
}

static int post_sends(struct sp_send *s, int ns, struct sp_sge *sges, int nsges) {
	struct abi_send_wr chain[CHAIN], *bad;
	int refused = 0;
	for (int i = 0; i < ns; i++)
		s[i].taken = 0, s[i].err = 0;
	for (int i = 0; i < ns; i++) {
		int at[CHAIN], n = 0, k, rc = EINVAL;
		if (s[i].taken)
			continue;
		struct abi_qp *qp = find(&queue_pairs, s[i].qp);
		for (k = i; k < ns && n < CHAIN; k++) {
			if (s[k].taken || s[k].qp != s[i].qp)
				continue;
			if (!qp || s[k].op >= sizeof wr_opcode || (int64_t)s[k].first + s[k].num_sge > nsges)
				break;
			struct abi_send_wr *w = &chain[n];
			w->wr_id = s[k].id;
			w->next = &chain[n + 1];
			w->sg_list = (struct abi_sge *)sges + s[k].first;
			w->num_sge = s[k].num_sge;
			w->opcode = wr_opcode[s[k].op];
			w->send_flags = wr_flags(s[k].flags);
			w->invalidate_rkey = s[k].rkey;
			w->remote_addr = s[k].remote_addr;
			w->rkey = s[k].rkey;
			memset(w->rest, 0, sizeof w->rest);
			s[k].taken = 1;
			at[n++] = k;
		}
		if (n > 0) {
			chain[n - 1].next = NULL;
			bad = NULL;
			rc = qp->context->post_send(qp, chain, &bad);
			if (!rc)
				continue;
			rc = rc < 0 ? errno : rc;
			k = at[bad ? bad - chain : 0];
		} else {
			k = i;
		}
		for (int e = rc; k < ns; k++) {
			if (s[k].qp == s[i].qp)
				s[k].taken = 1, s[k].err = e, e = ECANCELED, refused++;
		}
	}
	return refused;
}

static int post(struct sp_send *s, int ns, struct sp_recv *r, int nr, struct sp_sge *sges, int nsges) {
	int refused = post_recvs(r, nr, sges, nsges);
	return refused + post_sends(s, ns, sges, nsges);
}

static uint8_t wc_op(int opcode) {
	switch (opcode) {
	case ABI_WC_SEND:
		return 0;
	case ABI_WC_RDMA_WRITE:
		return 1;
	case ABI_WC_RDMA_READ:
		return 2;
	case ABI_WC_RECV:
		return 3;
	}
	return 4;
}

static int64_t poll_queues(const uint32_t *cqs, int ncqs, struct sp_wc *out, int n) {
	struct abi_wc wcs[32];
	int64_t bad = 0;
	int got = 0;
	for (int q = 0; q < ncqs && got < n; q++) {
		struct abi_cq *cq = find(&completion_queues, cqs[q]);
		int room, k;
		do {
			room = n - got < 32 ? n - got : 32;
			k = cq ? cq->context->poll_cq(cq, room, wcs) : -1;
			if (k < 0 && !bad)
				bad = q + 1;
			for (int i = 0; i < k; i++) {
				struct abi_wc *w = &wcs[i];
				int ok = !w->status;
				out[got++] = (struct sp_wc){
					.id = w->wr_id, .status = w->status, .qp_num = w->qp_num, .vendor_err = w->vendor_err,
					.op = ok ? wc_op(w->opcode) : 4, .byte_len = ok ? w->byte_len : 0,
					.flags = ok && w->wc_flags & ABI_WC_WITH_INV ? 1 : 0,
					.inv_key = ok && w->wc_flags & ABI_WC_WITH_INV ? w->invalidated_rkey : 0,
				};
			}
		} while (k == room && got < n);
	}
	return got | bad << 32;
}

int sp_arm(const uint32_t *cqs, int ncqs) {
	int rc = 0;
	for (int q = 0; q < ncqs; q++) {
		struct abi_cq *cq = find(&completion_queues, cqs[q]);
		if (!cq || cq->context->req_notify_cq(cq, 0))
			rc = -EIO;
	}
	return rc;
}

int sp_post_on_stack(struct sp_post_call *c) {
	c->refused = post(c->s, c->ns, c->r, c->nr, c->sges, c->nsges);
	return 0;
}

int sp_poll_on_stack(struct sp_poll_call *c) {
	c->result = poll_queues(c->cqs, c->ncqs, c->out, c->n);
	return 0;
}

/* Devices. */

static void describe(struct abi_device *d, struct sp_info *out) {
	memset(out, 0, sizeof *out);
	snprintf(out->name, sizeof out->name, "%s", lib.get_device_name(d));
	out->guid = be64toh(lib.get_device_guid(d));
	int index = lib.get_device_index ? lib.get_device_index(d) : -1;
	out->index = index < 0 ? 0 : index + 1;
	out->transport = d->transport_type;
}

int sp_scan(struct sp_info *out, int n) {
	int count = 0;
	struct abi_device **list = lib.get_device_list(&count);
	if (!list)
		return errno == ENOSYS ? 0 : failed(-1); /* ENOSYS: ib_uverbs is not loaded */
	for (int i = 0; i < count && i < n; i++)
		describe(list[i], &out[i]);
	lib.free_device_list(list);
	return count < n ? count : n;
}

/* sp_devices opens the devices through librdmacm, whose contexts its
 * identifiers use, and counts a reference to each. */
int sp_devices(void **ctxs, int n) {
	int count = 0;
	struct abi_context **list = lib.get_devices(&count);
	if (!list)
		return errno == ENODEV || errno == ENOSYS ? 0 : failed(-1);
	if (count > n)
		count = n;
	memcpy(ctxs, list, count * sizeof *ctxs);
	free(list); /* the references stay, each for sp_release */
	return count;
}

/* sp_release drops a reference. librdmacm closes the context of a removed device
 * only once it sees another one in its place, and the kernel's removal waits
 * for the context's files: so these are closed under it. */
void sp_release(void *c, int removed) {
	struct abi_context *ctx = c, **list = malloc(2 * sizeof *list);
	if (removed) {
		int null = open("/dev/null", O_RDWR | O_CLOEXEC);
		if (null >= 0) {
			dup3(null, ctx->cmd_fd, O_CLOEXEC);
			dup3(null, ctx->async_fd, O_CLOEXEC);
			close(null);
		}
	}
	if (list) {
		list[0] = ctx;
		list[1] = NULL;
		lib.free_devices(list); /* and frees the list */
	}
}

int sp_query_device(void *c, struct sp_info *out) {
	struct abi_context *ctx = c;
	struct abi_device_attr a;
	memset(&a, 0, sizeof a);
	describe(ctx->device, out);
	int rc = lib.query_device(ctx, &a);
	if (rc)
		return failed(rc);
	snprintf(out->firmware, sizeof out->firmware, "%.63s", a.fw_ver);
	out->guid = be64toh(a.node_guid);
	out->vendor = a.vendor_id, out->part = a.vendor_part_id;
	out->ports = a.phys_port_cnt;
	out->mem_mgt = !!(a.device_cap_flags & ABI_DEVICE_MEM_MGT_EXTENSIONS);
	out->max_mr_size = a.max_mr_size;
	out->max_qp = a.max_qp, out->max_qp_wr = a.max_qp_wr, out->max_sge = a.max_sge, out->max_sge_rd = a.max_sge_rd;
	out->max_cq = a.max_cq, out->max_cqe = a.max_cqe, out->max_mr = a.max_mr, out->max_pd = a.max_pd;
	out->max_rd_atom = a.max_qp_rd_atom, out->max_init_rd_atom = a.max_qp_init_rd_atom;
	return 0;
}

int sp_query_port(void *ctx, int port, struct sp_port *out) {
	struct abi_port_attr a;
	memset(&a, 0, sizeof a);
	int rc = lib.query_port(ctx, port, &a);
	if (rc)
		return failed(rc);
	*out = (struct sp_port){
		.state = a.state, .link = a.link_layer, .mtu = a.active_mtu > 0 ? 128 << a.active_mtu : 0,
		.gids = a.gid_tbl_len, .max_msg = a.max_msg_sz, .lid = a.lid,
	};
	return 0;
}

int sp_gids(void *ctx, struct sp_gid *out, int n) {
	struct abi_gid_entry *e;
	if (!lib.query_gid_table)
		return -ENOSYS;
	e = calloc(n, sizeof *e);
	if (!e)
		return -ENOMEM;
	int count = lib.query_gid_table(ctx, e, n, 0, sizeof *e);
	for (int i = 0; i < count; i++) {
		memcpy(out[i].gid, e[i].gid, 16);
		out[i].index = e[i].gid_index, out[i].port = e[i].port_num;
		out[i].type = e[i].gid_type, out[i].ifindex = e[i].ndev_ifindex;
	}
	free(e);
	return count;
}

static int nonblocking(int fd) {
	int flags = fcntl(fd, F_GETFL);
	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

int sp_async_fd(void *c) {
	struct abi_context *ctx = c;
	int rc = nonblocking(ctx->async_fd);
	return rc < 0 ? rc : ctx->async_fd;
}

int sp_next_async(void *ctx, struct sp_async *out) {
	struct abi_async_event ev;
	if (lib.get_async_event(ctx, &ev))
		return failed(-1);
	*out = (struct sp_async){.type = ev.event_type};
	switch (ev.event_type) {
	case ABI_EVENT_CQ_ERR:
		out->cq = (uintptr_t)ev.element.cq->cq_context;
		break;
	case ABI_EVENT_DEVICE_FATAL:
	case ABI_EVENT_SRQ_ERR:
	case ABI_EVENT_SRQ_LIMIT:
		break;
	default:
		if (ev.event_type < ABI_EVENT_DEVICE_FATAL || ev.event_type == ABI_EVENT_LAST_WQE)
			out->qp = (uintptr_t)ev.element.qp->qp_context;
		else
			out->port = ev.element.port_num;
	}
	lib.ack_async_event(&ev);
	return 0;
}

/* Objects. */

int sp_alloc_pd(void *ctx, void **pd) { return (*pd = lib.alloc_pd(ctx)) ? 0 : failed(-1); }

int sp_free_pd(void *pd) { return result(lib.dealloc_pd(pd)); }

int sp_reg_mr(void *pd, uint64_t addr, uint64_t len, int access, void **out, uint32_t *lkey, uint32_t *rkey) {
	struct abi_mr *mr = lib.reg_mr(pd, (void *)(uintptr_t)addr, len, access | ABI_ACCESS_LOCAL_WRITE);
	if (!mr)
		return failed(-1);
	*out = mr, *lkey = mr->lkey, *rkey = mr->rkey;
	return 0;
}

int sp_dereg_mr(void *mr) { return result(lib.dereg_mr(mr)); }

int sp_create_channel(void *ctx, void **out, int *fd) {
	struct abi_comp_channel *ch = lib.create_comp_channel(ctx);
	if (!ch)
		return failed(-1);
	int rc = nonblocking(ch->fd);
	if (rc) {
		lib.destroy_comp_channel(ch);
		return rc;
	}
	*out = ch, *fd = ch->fd;
	return 0;
}

int sp_drain_channel(void *ch) {
	struct abi_cq *cq;
	void *context;
	int n = 0;
	while (!lib.get_cq_event(ch, &cq, &context)) {
		lib.ack_cq_events(cq, 1);
		n++;
	}
	return n;
}

int sp_destroy_channel(void *ch) { return result(lib.destroy_comp_channel(ch)); }

int sp_create_cq(void *ctx, int n, void *ch, uint32_t *handle, int *granted) {
	uint32_t h = reserve(&completion_queues);
	if (!h)
		return -ENOSPC;
	struct abi_cq *cq = lib.create_cq(ctx, n, (void *)(uintptr_t)h, ch, 0);
	if (!cq)
		return failed(-1);
	publish(&completion_queues, h, cq);
	*handle = h, *granted = cq->cqe;
	return 0;
}

int sp_destroy_cq(uint32_t handle) {
	struct abi_cq *cq = find(&completion_queues, handle);
	if (!cq)
		return -EINVAL;
	retract(&completion_queues, handle);
	return result(lib.destroy_cq(cq));
}

int sp_create_qp(void *i, void *pd, uint32_t send_cq, uint32_t recv_cq, struct sp_caps *c, uint32_t *handle, uint32_t *num) {
	struct abi_cm_id *id = i;
	uint32_t h = reserve(&queue_pairs);
	struct abi_qp_init_attr a = {
		.qp_context = (void *)(uintptr_t)h,
		.send_cq = find(&completion_queues, send_cq), .recv_cq = find(&completion_queues, recv_cq),
		.cap = {c->max_send, c->max_recv, c->max_send_sge, c->max_recv_sge, c->max_inline},
		.qp_type = ABI_QPT_RC,
	};
	if (!a.send_cq || !a.recv_cq)
		return -EINVAL;
	if (!h)
		return -ENOSPC;
	if (lib.create_qp(id, pd, &a))
		return failed(-1);
	publish(&queue_pairs, h, id->qp);
	*c = (struct sp_caps){a.cap.max_send_wr, a.cap.max_recv_wr, a.cap.max_send_sge, a.cap.max_recv_sge, a.cap.max_inline_data};
	*handle = h, *num = id->qp->qp_num;
	return 0;
}

int sp_query_qp(uint32_t handle) {
	struct abi_qp *qp = find(&queue_pairs, handle);
	struct abi_qp_attr attr;
	struct abi_qp_init_attr init;
	if (!qp)
		return -EINVAL;
	int rc = lib.query_qp(qp, &attr, ABI_QP_STATE_MASK, &init);
	return rc ? failed(rc) : attr.qp_state;
}

int sp_fail_qp(uint32_t handle) {
	struct abi_qp *qp = find(&queue_pairs, handle);
	struct abi_qp_attr attr = {.qp_state = ABI_QPS_ERR};
	return qp ? result(lib.modify_qp(qp, &attr, ABI_QP_STATE_MASK)) : -EINVAL;
}

/* rdma_destroy_qp does this, and does not say how it went. */
int sp_destroy_qp(void *i, uint32_t handle) {
	struct abi_cm_id *id = i;
	struct abi_qp *qp = find(&queue_pairs, handle);
	if (!qp || qp != id->qp)
		return -EINVAL;
	retract(&queue_pairs, handle);
	int rc = lib.destroy_qp(qp);
	/* EIO: the device was removed, and the kernel has destroyed the queue pair. */
	if (rc && rc != EIO) {
		restore(&queue_pairs, handle, qp);
		return failed(rc);
	}
	id->qp = NULL;
	return 0;
}

/* Connection manager. */

int sp_cm_channel(void **out, int *fd) {
	struct abi_event_channel *ch = lib.create_event_channel();
	if (!ch)
		return failed(-1);
	int rc = nonblocking(ch->fd);
	if (rc) {
		lib.destroy_event_channel(ch);
		return rc;
	}
	*out = ch, *fd = ch->fd;
	return 0;
}

void sp_cm_channel_destroy(void *ch) { lib.destroy_event_channel(ch); }

int sp_cm_next(void *ch, struct sp_event *out) {
	struct abi_cm_event *ev;
	if (lib.get_cm_event(ch, &ev))
		return failed(-1);
	const struct abi_conn_param *p = &ev->conn;
	out->id = ev->id, out->listener = ev->listen_id;
	out->type = ev->event, out->status = ev->status;
	out->param = (struct sp_param){p->responder_resources, p->initiator_depth, p->flow_control, p->retry_count, p->rnr_retry_count};
	out->qp_num = p->qp_num;
	out->private_len = p->private_data ? p->private_data_len : 0;
	if (out->private_len)
		memcpy(out->private_data, p->private_data, out->private_len);
	lib.ack_cm_event(ev); /* at once: destroying an identifier waits for its events */
	return 0;
}

int sp_cm_create(void *ch, void **out) {
	struct abi_cm_id *id;
	if (lib.create_id(ch, &id, NULL, ABI_PS_TCP))
		return failed(-1);
	*out = id;
	return 0;
}

int sp_cm_destroy(void *id) { return result(lib.destroy_id(id)); }

void *sp_cm_context(void *id) { return ((struct abi_cm_id *)id)->verbs; }

int sp_cm_port(void *id) { return ((struct abi_cm_id *)id)->port_num; }

static void from_socket(const struct sockaddr_storage *s, struct sp_addr *a) {
	memset(a, 0, sizeof *a);
	if (s->ss_family == AF_INET) {
		const struct sockaddr_in *v4 = (const void *)s;
		memcpy(a->ip, &v4->sin_addr, 4);
		a->port = ntohs(v4->sin_port), a->set = 1;
	} else if (s->ss_family == AF_INET6) {
		const struct sockaddr_in6 *v6 = (const void *)s;
		memcpy(a->ip, &v6->sin6_addr, 16);
		a->port = ntohs(v6->sin6_port), a->scope = v6->sin6_scope_id, a->v6 = 1, a->set = 1;
	}
}

static void to_socket(const struct sp_addr *a, struct sockaddr_storage *s) {
	memset(s, 0, sizeof *s);
	if (a->v6) {
		struct sockaddr_in6 *v6 = (void *)s;
		v6->sin6_family = AF_INET6, v6->sin6_port = htons(a->port), v6->sin6_scope_id = a->scope;
		memcpy(&v6->sin6_addr, a->ip, 16);
	} else {
		struct sockaddr_in *v4 = (void *)s;
		v4->sin_family = AF_INET, v4->sin_port = htons(a->port);
		memcpy(&v4->sin_addr, a->ip, 4);
	}
}

void sp_cm_addrs(void *i, struct sp_addr *local, struct sp_addr *peer) {
	struct abi_cm_id *id = i;
	from_socket(&id->src, local);
	from_socket(&id->dst, peer);
}

int sp_cm_bind(void *id, struct sp_addr *a) {
	struct sockaddr_storage s;
	int only = 1;
	to_socket(a, &s);
	if (a->v6 && lib.set_option(id, ABI_OPTION_ID, ABI_OPTION_AFONLY, &only, sizeof only))
		return failed(-1);
	return result(lib.bind_addr(id, (struct sockaddr *)&s));
}

int sp_cm_listen(void *id, int backlog) { return result(lib.listen(id, backlog)); }

int sp_cm_resolve_addr(void *id, struct sp_addr *dst, int ms) {
	struct sockaddr_storage s;
	to_socket(dst, &s);
	return result(lib.resolve_addr(id, NULL, (struct sockaddr *)&s, ms));
}

int sp_cm_resolve_route(void *id, int ms) { return result(lib.resolve_route(id, ms)); }

static struct abi_conn_param conn_param(const struct sp_param *p, const void *data, int n) {
	return (struct abi_conn_param){
		.private_data = data, .private_data_len = n, .responder_resources = p->responder_resources,
		.initiator_depth = p->initiator_depth, .flow_control = p->flow_control,
		.retry_count = p->retry, .rnr_retry_count = p->rnr_retry,
	};
}

int sp_cm_connect(void *id, struct sp_param *p, const void *data, int n) {
	struct abi_conn_param c = conn_param(p, data, n);
	return result(lib.connect(id, &c));
}

int sp_cm_accept(void *id, struct sp_param *p, const void *data, int n) {
	struct abi_conn_param c = conn_param(p, data, n);
	return result(lib.accept(id, &c));
}

int sp_cm_reject(void *id, const void *data, int n) { return result(lib.reject(id, data, n)); }

int sp_cm_disconnect(void *id) { return result(lib.disconnect(id)); }

int sp_cm_notify_established(void *id) { return result(lib.notify(id, ABI_EVENT_COMM_EST)); }

int sp_cm_tos(void *id, uint8_t tos) { return result(lib.set_option(id, ABI_OPTION_ID, ABI_OPTION_TOS, &tos, sizeof tos)); }

int sp_cm_ack_timeout(void *id, uint8_t t) {
	return result(lib.set_option(id, ABI_OPTION_ID, ABI_OPTION_ACK_TIMEOUT, &t, sizeof t));
}
