#!/bin/sh
# Checks the CUDA kernels on a machine with a GPU, in at most ten minutes and without a network: results, compute-sanitizer, times against predictions.
#   gpu_check.sh --pack FILE.tar [BUILD]   on the machine that builds: the programs and the libraries that they need, in one file
#   gpu_check.sh [--json FILE] [FOLDER]    on the machine with the GPU: FOLDER is what was unpacked, or a build's tests/cuda
# Ends with 0 if all was right, 1 if something was not, 2 where there is nothing to check on.
set -eu
here=$(cd "$(dirname "$0")" && pwd -P)

if [ "${1:-}" = --pack ]; then
    out=$2
    build=${3:-$here/../build}
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    mkdir -p "$scratch/gpu_check/lib"
    cp "$here/gpu_check.sh" "$here/gpu_check.py" "$here/../tests/cuda/gpu/predictions.json" "$scratch/gpu_check"
    for program in test_cuda_gpu cuda_times; do
        strip -g -o "$scratch/gpu_check/$program" "$build/tests/cuda/$program"
        # The C library and its loader too: the other machine's may be older.
        ldd "$build/tests/cuda/$program" | sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p; s/^[[:space:]]*\(\/[^ ]*ld-linux[^ ]*\) .*/\1/p' |
            while read -r library; do cp -L "$library" "$scratch/gpu_check/lib"; done
    done
    tar -C "$scratch" -cf "$out" gpu_check
    ls -l "$out"
    exit
fi
exec python3 "$here/gpu_check.py" "$@"
