/* The binary interface of libibverbs (IBVERBS_1.1) and librdmacm (RDMACM_1.0),
 * as far as shim.c uses it. Structures that the libraries make are declared up
 * to the last member needed; those that they fill in or that we make are whole.
 * abi_test.go compares offsets and values with the headers. */
#ifndef SPINDLE_ABI_H
#define SPINDLE_ABI_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

enum {
	ABI_WR_RDMA_WRITE = 0,
	ABI_WR_SEND = 2,
	ABI_WR_RDMA_READ = 4,
	ABI_WR_SEND_WITH_INV = 9,

	ABI_SEND_FENCE = 1,
	ABI_SEND_SIGNALED = 2,
	ABI_SEND_SOLICITED = 4,
	ABI_SEND_INLINE = 8,

	ABI_WC_SEND = 0,
	ABI_WC_RDMA_WRITE = 1,
	ABI_WC_RDMA_READ = 2,
	ABI_WC_RECV = 128,
	ABI_WC_WITH_INV = 8,

	ABI_QPT_RC = 2,
	ABI_QP_STATE_MASK = 1,
	ABI_QPS_ERR = 6,

	ABI_EVENT_CQ_ERR = 0,
	ABI_EVENT_COMM_EST = 4,
	ABI_EVENT_DEVICE_FATAL = 8,
	ABI_EVENT_PORT_ACTIVE = 9,
	ABI_EVENT_SRQ_ERR = 14,
	ABI_EVENT_SRQ_LIMIT = 15,
	ABI_EVENT_LAST_WQE = 16,
	ABI_EVENT_GID_CHANGE = 18,

	ABI_ACCESS_LOCAL_WRITE = 1,
	ABI_DEVICE_MEM_MGT_EXTENSIONS = 1 << 21,

	ABI_PS_TCP = 0x0106,
	ABI_OPTION_ID = 0,
	ABI_OPTION_TOS = 0,
	ABI_OPTION_AFONLY = 2,
	ABI_OPTION_ACK_TIMEOUT = 3,
};

struct abi_device {
	void *ops[2];
	int node_type;
	int transport_type; /* 0 InfiniBand and RoCE, 1 iWARP */
};

struct abi_cq;
struct abi_qp;
struct abi_wc;
struct abi_send_wr;
struct abi_recv_wr;

struct abi_context {
	struct abi_device *device;
	void *control[11];
	int (*poll_cq)(struct abi_cq *, int, struct abi_wc *);
	int (*req_notify_cq)(struct abi_cq *, int);
	void *control2[12];
	int (*post_send)(struct abi_qp *, struct abi_send_wr *, struct abi_send_wr **);
	int (*post_recv)(struct abi_qp *, struct abi_recv_wr *, struct abi_recv_wr **);
	void *control3[5];
	int cmd_fd;
	int async_fd;
};

struct abi_pd {
	struct abi_context *context;
};

struct abi_mr {
	struct abi_context *context;
	struct abi_pd *pd;
	void *addr;
	size_t length;
	uint32_t handle;
	uint32_t lkey;
	uint32_t rkey;
};

struct abi_comp_channel {
	struct abi_context *context;
	int fd;
};

struct abi_cq {
	struct abi_context *context;
	struct abi_comp_channel *channel;
	void *cq_context;
	uint32_t handle;
	int cqe;
};

struct abi_qp {
	struct abi_context *context;
	void *qp_context;
	struct abi_pd *pd;
	struct abi_cq *send_cq;
	struct abi_cq *recv_cq;
	void *srq;
	uint32_t handle;
	uint32_t qp_num;
};

struct abi_sge {
	uint64_t addr;
	uint32_t length;
	uint32_t lkey;
};

struct abi_send_wr {
	uint64_t wr_id;
	struct abi_send_wr *next;
	struct abi_sge *sg_list;
	int num_sge;
	int opcode;
	unsigned int send_flags;
	uint32_t invalidate_rkey;
	uint64_t remote_addr; /* a union from here on, of which only RDMA's part is used */
	uint32_t rkey;
	uint32_t rest[19];
};

struct abi_recv_wr {
	uint64_t wr_id;
	struct abi_recv_wr *next;
	struct abi_sge *sg_list;
	int num_sge;
};

struct abi_wc {
	uint64_t wr_id;
	int status;
	int opcode;
	uint32_t vendor_err;
	uint32_t byte_len;
	uint32_t invalidated_rkey;
	uint32_t qp_num;
	uint32_t src_qp;
	unsigned int wc_flags;
	uint16_t pkey_index;
	uint16_t slid;
	uint8_t sl;
	uint8_t dlid_path_bits;
};

struct abi_qp_cap {
	uint32_t max_send_wr;
	uint32_t max_recv_wr;
	uint32_t max_send_sge;
	uint32_t max_recv_sge;
	uint32_t max_inline_data;
};

struct abi_qp_init_attr {
	void *qp_context;
	struct abi_cq *send_cq;
	struct abi_cq *recv_cq;
	void *srq;
	struct abi_qp_cap cap;
	int qp_type;
	int sq_sig_all;
};

struct abi_qp_attr {
	int qp_state;
	uint32_t rest[63]; /* more than there is */
};

struct abi_device_attr {
	char fw_ver[64];
	uint64_t node_guid; /* big endian */
	uint64_t sys_image_guid;
	uint64_t max_mr_size;
	uint64_t page_size_cap;
	uint32_t vendor_id;
	uint32_t vendor_part_id;
	uint32_t hw_ver;
	int max_qp;
	int max_qp_wr;
	unsigned int device_cap_flags;
	int max_sge;
	int max_sge_rd;
	int max_cq;
	int max_cqe;
	int max_mr;
	int max_pd;
	int max_qp_rd_atom;
	int max_ee_rd_atom;
	int max_res_rd_atom;
	int max_qp_init_rd_atom;
	int unused[16];
	uint8_t pkeys_and_delay[3];
	uint8_t phys_port_cnt;
	uint32_t rest[16];
};

struct abi_port_attr {
	int state;
	int max_mtu;
	int active_mtu;
	int gid_tbl_len;
	uint32_t port_cap_flags;
	uint32_t max_msg_sz;
	uint32_t bad_pkey_cntr;
	uint32_t qkey_viol_cntr;
	uint16_t pkey_tbl_len;
	uint16_t lid;
	uint16_t sm_lid;
	uint8_t not_used[8];
	uint8_t link_layer;
	uint8_t flags;
	uint32_t rest[16];
};

struct abi_gid_entry {
	uint8_t gid[16];
	uint32_t gid_index;
	uint32_t port_num;
	uint32_t gid_type;
	uint32_t ndev_ifindex;
};

struct abi_async_event {
	union {
		struct abi_cq *cq;
		struct abi_qp *qp;
		int port_num;
	} element;
	int event_type;
};

struct abi_event_channel {
	int fd;
};

struct abi_cm_id {
	struct abi_context *verbs;
	struct abi_event_channel *channel;
	void *context;
	struct abi_qp *qp;
	struct sockaddr_storage src;
	struct sockaddr_storage dst;
	uint64_t ib_addr[5];
	void *path_rec;
	int num_paths;
	int padding; /* of struct rdma_route */
	int ps;
	uint8_t port_num;
};

struct abi_conn_param {
	const void *private_data;
	uint8_t private_data_len;
	uint8_t responder_resources;
	uint8_t initiator_depth;
	uint8_t flow_control;
	uint8_t retry_count;
	uint8_t rnr_retry_count;
	uint8_t srq;
	uint32_t qp_num;
};

struct abi_cm_event {
	struct abi_cm_id *id;
	struct abi_cm_id *listen_id;
	int event;
	int status;
	struct abi_conn_param conn;
};

#endif
