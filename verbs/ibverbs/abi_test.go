//go:build linux

package ibverbs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// members lists, by our structure, the library's and pairs of members whose
// offset and size must agree ("ours=theirs", or one name for both).
var members = map[string]string{
	"abi_device ibv_device":                "node_type transport_type",
	"abi_context ibv_context":              "device poll_cq=ops.poll_cq req_notify_cq=ops.req_notify_cq post_send=ops.post_send post_recv=ops.post_recv cmd_fd async_fd",
	"abi_pd ibv_pd":                        "context",
	"abi_mr ibv_mr":                        "context pd addr length handle lkey rkey",
	"abi_comp_channel ibv_comp_channel":    "context fd",
	"abi_cq ibv_cq":                        "context channel cq_context cqe",
	"abi_qp ibv_qp":                        "context qp_context pd qp_num",
	"abi_sge ibv_sge":                      "addr length lkey",
	"abi_send_wr ibv_send_wr":              "wr_id next sg_list num_sge opcode send_flags invalidate_rkey remote_addr=wr.rdma.remote_addr rkey=wr.rdma.rkey",
	"abi_recv_wr ibv_recv_wr":              "wr_id next sg_list num_sge",
	"abi_wc ibv_wc":                        "wr_id status opcode vendor_err byte_len invalidated_rkey qp_num wc_flags dlid_path_bits",
	"abi_qp_init_attr ibv_qp_init_attr":    "qp_context send_cq recv_cq srq cap.max_send_wr cap.max_inline_data qp_type sq_sig_all",
	"abi_qp_attr ibv_qp_attr":              "qp_state",
	"abi_device_attr ibv_device_attr":      "fw_ver node_guid max_mr_size vendor_id max_qp max_qp_wr device_cap_flags max_sge max_sge_rd max_cq max_cqe max_mr max_pd max_qp_rd_atom max_qp_init_rd_atom phys_port_cnt",
	"abi_port_attr ibv_port_attr":          "state active_mtu gid_tbl_len max_msg_sz lid link_layer flags",
	"abi_gid_entry ibv_gid_entry":          "gid gid_index port_num gid_type ndev_ifindex",
	"abi_async_event ibv_async_event":      "element.cq element.qp element.port_num event_type",
	"abi_event_channel rdma_event_channel": "fd",
	"abi_cm_id rdma_cm_id":                 "verbs channel context qp src=route.addr.src_storage dst=route.addr.dst_storage ps port_num",
	"abi_conn_param rdma_conn_param":       "private_data private_data_len responder_resources initiator_depth flow_control retry_count rnr_retry_count srq qp_num",
	"abi_cm_event rdma_cm_event":           "id listen_id event status conn=param.conn",
}

// atLeast are structures that the library fills in, or reads whole.
var atLeast = "abi_send_wr=ibv_send_wr abi_recv_wr=ibv_recv_wr abi_wc=ibv_wc abi_qp_init_attr=ibv_qp_init_attr abi_qp_attr=ibv_qp_attr " +
	"abi_device_attr=ibv_device_attr abi_port_attr=ibv_port_attr abi_async_event=ibv_async_event abi_conn_param=rdma_conn_param"

// sameSize are structures of which the library sees arrays.
var sameSize = "abi_sge=ibv_sge abi_wc=ibv_wc abi_gid_entry=ibv_gid_entry"

var values = "WR_RDMA_WRITE=IBV_WR_RDMA_WRITE WR_SEND=IBV_WR_SEND WR_RDMA_READ=IBV_WR_RDMA_READ WR_SEND_WITH_INV=IBV_WR_SEND_WITH_INV " +
	"SEND_FENCE=IBV_SEND_FENCE SEND_SIGNALED=IBV_SEND_SIGNALED SEND_SOLICITED=IBV_SEND_SOLICITED SEND_INLINE=IBV_SEND_INLINE " +
	"WC_SEND=IBV_WC_SEND WC_RDMA_WRITE=IBV_WC_RDMA_WRITE WC_RDMA_READ=IBV_WC_RDMA_READ WC_RECV=IBV_WC_RECV WC_WITH_INV=IBV_WC_WITH_INV " +
	"QPT_RC=IBV_QPT_RC QP_STATE_MASK=IBV_QP_STATE QPS_ERR=IBV_QPS_ERR EVENT_CQ_ERR=IBV_EVENT_CQ_ERR EVENT_COMM_EST=IBV_EVENT_COMM_EST " +
	"EVENT_DEVICE_FATAL=IBV_EVENT_DEVICE_FATAL EVENT_PORT_ACTIVE=IBV_EVENT_PORT_ACTIVE EVENT_SRQ_ERR=IBV_EVENT_SRQ_ERR EVENT_SRQ_LIMIT=IBV_EVENT_SRQ_LIMIT_REACHED " +
	"EVENT_LAST_WQE=IBV_EVENT_QP_LAST_WQE_REACHED EVENT_GID_CHANGE=IBV_EVENT_GID_CHANGE ACCESS_LOCAL_WRITE=IBV_ACCESS_LOCAL_WRITE " +
	"DEVICE_MEM_MGT_EXTENSIONS=IBV_DEVICE_MEM_MGT_EXTENSIONS PS_TCP=RDMA_PS_TCP OPTION_ID=RDMA_OPTION_ID OPTION_TOS=RDMA_OPTION_ID_TOS " +
	"OPTION_AFONLY=RDMA_OPTION_ID_AFONLY OPTION_ACK_TIMEOUT=RDMA_OPTION_ID_ACK_TIMEOUT"

// goValues are values of package verbs that are the libraries'.
var goValues = "IBV_WC_SUCCESS=0 IBV_WC_LOC_LEN_ERR=1 IBV_WC_WR_FLUSH_ERR=5 IBV_WC_REM_INV_REQ_ERR=9 IBV_WC_REM_ACCESS_ERR=10 IBV_WC_RETRY_EXC_ERR=12 " +
	"IBV_WC_RNR_RETRY_EXC_ERR=13 IBV_WC_GENERAL_ERR=21 IBV_ACCESS_REMOTE_WRITE=2 IBV_ACCESS_REMOTE_READ=4 IBV_PORT_ACTIVE=4 IBV_QPS_RTS=3 " +
	"IBV_LINK_LAYER_ETHERNET=2 RDMA_CM_EVENT_CONNECT_REQUEST=4 RDMA_CM_EVENT_REJECTED=8 RDMA_CM_EVENT_ESTABLISHED=9 " +
	"RDMA_CM_EVENT_DISCONNECTED=10 RDMA_CM_EVENT_DEVICE_REMOVAL=11 RDMA_CM_EVENT_ADDR_CHANGE=14 RDMA_CM_EVENT_TIMEWAIT_EXIT=15"

// TestABI has the C compiler compare abi.h with the libraries' headers.
func TestABI(t *testing.T) {
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("left out: no C compiler")
	}
	dir := t.TempDir()
	probe := filepath.Join(dir, "probe.c")
	if err := os.WriteFile(probe, []byte("#include <infiniband/verbs.h>\n#include <rdma/rdma_cma.h>\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if exec.Command(cc, "-fsyntax-only", probe).Run() != nil {
		t.Skip("left out: no headers to compare with (packages libibverbs-dev and librdmacm-dev)")
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	compile := func(break_ string) (string, error) {
		src := filepath.Join(dir, "abi.c")
		if err := os.WriteFile(src, []byte(comparison()+break_), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(cc, "-fsyntax-only", "-D_GNU_SOURCE", "-I", here, src).CombinedOutput()
		return string(out), err
	}
	if out, err := compile(""); err != nil {
		t.Errorf("abi.h and the headers disagree:\n%s", out)
	}
	if _, err := compile("_Static_assert(offsetof(struct abi_wc, status) == offsetof(struct ibv_wc, opcode), \"\");\n"); err == nil {
		t.Error("a wrong offset passes")
	}
}

func comparison() string {
	var b strings.Builder
	b.WriteString("#include <infiniband/verbs.h>\n#include <rdma/rdma_cma.h>\n#include \"abi.h\"\n")
	check := func(cond string) { b.WriteString("_Static_assert(" + cond + ", \"\");\n") }
	pair := func(s string) (ours, theirs string) {
		ours, theirs, ok := strings.Cut(s, "=")
		if !ok {
			theirs = ours
		}
		return ours, theirs
	}
	for structs, list := range members {
		ours, theirs, _ := strings.Cut(structs, " ")
		for _, m := range strings.Fields(list) {
			o, l := pair(m)
			check("offsetof(struct " + ours + ", " + o + ") == offsetof(struct " + theirs + ", " + l + ")")
			if m != "conn=param.conn" {
				check("sizeof(((struct " + ours + " *)0)->" + o + ") == sizeof(((struct " + theirs + " *)0)->" + l + ")")
			}
		}
	}
	for _, s := range strings.Fields(atLeast) {
		o, l := pair(s)
		check("sizeof(struct " + o + ") >= sizeof(struct " + l + ")")
	}
	for _, s := range strings.Fields(sameSize) {
		o, l := pair(s)
		check("sizeof(struct " + o + ") == sizeof(struct " + l + ")")
	}
	for _, s := range strings.Fields(values) {
		o, l := pair(s)
		check("(int)ABI_" + o + " == (int)" + l)
	}
	for _, s := range strings.Fields(goValues) {
		o, l := pair(s)
		check("(int)" + o + " == " + l)
	}
	return b.String()
}
