#!/bin/sh
# llama_archs.sh PROGRAM PLUGIN [DEVICE]: tiny models of every architecture, on one device, or on all of them and on the tensor-parallel wrapper.
set -u
export GGML_BACKEND_PATH="$2"
log=$(mktemp) && trap 'rm -f "$log"' EXIT
"$1" ${3:+-b "$3"} >"$log" 2>&1
status=$?
grep -a FAIL "$log" | head -n 20
tail -n 3 "$log"
# The status says whether all passed. The summary line can be lost at exit (see `agree` in programs_test.py), so the rows are counted instead.
rows=$(grep -ac 'Atlas attention.*OK' "$log")
echo "$rows rows of Atlas, status $status"
[ $status -eq 0 ] && ! grep -aq FAIL "$log" && [ "$rows" -ge 100 ]
