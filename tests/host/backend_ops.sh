#!/bin/sh
# backend_ops.sh PROGRAM PLUGIN DEVICE OP [PARAMS_REGEX]: the host's own operator test on our device. Fails on a failed case, on none run, and on
# a case that the CPU supports and we do not.
set -u
program=$1 device=$3 op=$4 params=${5:-}
export GGML_BACKEND_PATH="$2"

supported() { "$program" support -b "$1" -o "$op" --output csv 2>/dev/null | grep '"support","1"' | sed "s/^\"$1\",//;s/,\"support\".*//" | sort; }
work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
supported CPU >"$work/cpu"
supported "$device" >"$work/ours"
[ -s "$work/cpu" ] || { echo "the CPU device supports no case of $op: the comparison is void"; exit 1; }
missing=$(comm -23 "$work/cpu" "$work/ours" | head -n 5)
[ -z "$missing" ] || { echo "not supported by $device:"; echo "$missing"; exit 1; }
echo "$op: $(wc -l <"$work/ours") cases supported by $device, $(wc -l <"$work/cpu") by the CPU"

"$program" test -b "$device" -o "$op" ${params:+-p "$params"} >"$work/log" 2>&1
status=$?
tail -n 4 "$work/log"
grep -a FAIL "$work/log" | head -n 20
[ $status -eq 0 ] && grep -aqE '[1-9][0-9]*/[1-9][0-9]* tests passed' "$work/log" && grep -aq "Backend $device:.*OK" "$work/log"
