#!/bin/sh
# llama_archs.sh PROGRAM PLUGIN [DEVICE]: tiny models of every architecture, on one device, or on all of them and on the tensor-parallel wrapper.
set -u
export GGML_BACKEND_PATH="$2"
log=$(mktemp) && trap 'rm -f "$log"' EXIT
"$1" ${3:+-b "$3"} >"$log" 2>&1
status=$?
grep -a FAIL "$log" | head -n 20
tail -n 3 "$log"
[ $status -eq 0 ] && grep -aq 'Atlas attention' "$log" && grep -aqE 'all [1-9][0-9]+ test\(s\) passed' "$log"
