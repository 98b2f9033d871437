#!/bin/bash
# The profile that cmd/spindle is built with: small reads and writes, over TCP, as in
# the standard rows. `go build` takes it by its name.
set -eu
cd "$(dirname "$0")/.."
root=$PWD dir=$(mktemp -d) port=$((20000 + RANDOM % 10000))
trap 'rm -rf "$dir"' EXIT
(cd "$dir" && exec "$root/bin/spindle" serve --profile cpu --malloc 256M --cores "[$(($(nproc) - 1))]" \
    --listen 127.0.0.1:$port --rpc-socket "$dir/sock") >"$dir/log" 2>&1 &
target=$!
rpc() { "$root/bin/spindle" rpc --rpc-socket "$dir/sock" "$@" >/dev/null; }
for _ in $(seq 100); do rpc spdk_get_version 2>/dev/null && break; sleep 0.1; done
name=iqn.2026-11.dev.spindle:disk
rpc bdev_null_create name=null num_blocks=524288 block_size=512 || { cat "$dir/log"; exit 1; }
rpc iscsi_target_node_add_lun name=$name bdev_name=null lun_id=1
load() { # LUN RW BS QD CONNECTIONS [FLAGS]
    echo "  LUN $1: $2 $3, queue depth $4, $5 connections"
    bin/spindle-bench run "iscsi://127.0.0.1:$port/$name/$1" --rw "$2" --bs "$3" --iodepth "$4" --connections "$5" \
        --cpu 0 --runtime 8s --quiet "${@:6}" >/dev/null
}
load 1 randread 512 128 1
load 1 randread 4k 128 1
load 1 randread 4k 32 16
load 0 randread 4k 32 1
load 0 randwrite 4k 32 1
load 0 randrw 4k 32 16
load 0 randrw 4k 32 1 --header-digest --data-digest
kill -TERM $target
wait $target || { cat "$dir/log"; exit 1; }
go tool pprof -proto -output cmd/spindle/default.pgo "$dir/cpu.pprof"
ls -l cmd/spindle/default.pgo
