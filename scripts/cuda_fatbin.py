#!/usr/bin/env python3
"""Compiles src/kernels/cuda/kernels.cu into one fatbin, and writes beside it what the compiler made of each kernel.

The second file is JSON: {"sm_80": {"decode_1x64": {"registers": …, "stack": …, "spills": …, "instructions": {"LDG.E.128": …}}}}; stack and spills in
bytes. Instructions are counted where there is an nvdisasm (on the path, beside nvcc, or named by NVDISASM). A fatbin of the same sources by the same
compiler is taken from the cache folder: compiling takes minutes.
"""

import argparse
import collections
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

# What the kernels are about, and what must not be there: generic loads, local memory.
INSTRUCTIONS = ("LDG.E.128", "IDP.4A", "LDGSTS", "HMMA", "LDSM", "LD.E", "LDL", "STL")
# Only device code is compiled. Debian's newest gcc and glibc are newer than nvcc allows: the check of versions is skipped, and what both glibc and
# CUDA declare (rsqrt) is left out of glibc's headers with _GNU_SOURCE.
FLAGS = ["-std=c++20", "-allow-unsupported-compiler", "-U_GNU_SOURCE", "-D_DEFAULT_SOURCE", "-Xptxas", "-v"]

HEADERS = ("arguments.h", "product_arguments.h", "sparse_arguments.h", "shapes.h", "simt.h", "simt_device.h")  # of the kernels; the others are the host's


def code_options(architectures):
    """Turing has other tensor core instructions; all later ones share what is compiled for compute_80, which is also what future ones are given."""
    new = [name for name in architectures if name >= 80]
    options = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in architectures if name < 80]
    return options + [f"-gencode=arch=compute_80,code=[{','.join([f'sm_{name}' for name in new] + ['compute_80'])}]"]


def resources_of(log):
    """What `ptxas -v` says of every kernel."""
    found = {}
    here = None
    for line in log.splitlines():
        if entry := re.search(r"Compiling entry function 'atlas_(\w+)' for '(\w+)'", line):
            here = found.setdefault(entry[2], {}).setdefault(entry[1], {})
        elif (frame := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line)) and here is not None:
            here.update(stack=int(frame[1]), spills=int(frame[2]) + int(frame[3]))
        elif (used := re.search(r"Used (\d+) registers", line)) and here is not None:
            here["registers"] = int(used[1])
    return found


def disassembler(nvcc):
    beside = pathlib.Path(nvcc).resolve().parent / "nvdisasm"
    return os.environ.get("NVDISASM") or shutil.which("nvdisasm") or (str(beside) if beside.exists() else None)


def instructions_of(tool, cubin):
    """Counts of INSTRUCTIONS per kernel of a cubin."""
    text = subprocess.run([tool, "-c", cubin], capture_output=True, text=True, check=True).stdout
    counts = {}
    here = None
    for line in text.splitlines():
        if section := re.search(r"\.section\s+\.text\.atlas_(\w+)", line):
            here = counts.setdefault(section[1], collections.Counter())
        elif (found := re.search(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", line)) and here is not None:
            for name in INSTRUCTIONS:
                if found[1] == name or found[1].startswith(name + "."):
                    here[name] += 1
    return {kernel: {name: count[name] for name in INSTRUCTIONS} for kernel, count in counts.items()}


def compile_all(arguments, folder):
    fatbin = folder / "kernels.fatbin"
    command = [arguments.nvcc, *FLAGS, f"-I{arguments.include}", *code_options(arguments.architectures), "--threads", str(min(4, os.cpu_count() or 1)),
               "--keep", "--keep-dir", str(folder), "-fatbin", str(arguments.source), "-o", str(fatbin)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    resources = resources_of(done.stdout + done.stderr)
    if tool := disassembler(arguments.nvcc):
        for cubin in sorted(folder.glob("*.cubin")):
            # nvcc names them kernels.compute_80.sm_86.cubin, or by the last of the two alone where they are the same.
            numbers = re.findall(r"(?:sm|compute)_(\d+)", cubin.name)
            found = resources.get(f"sm_{numbers[-1]}", {}) if numbers else {}
            for kernel, counts in instructions_of(tool, cubin).items():
                if kernel in found:
                    found[kernel]["instructions"] = counts
    return fatbin, resources


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nvcc", required=True)
    parser.add_argument("--source", type=pathlib.Path, required=True)
    parser.add_argument("--include", type=pathlib.Path, required=True)
    parser.add_argument("--architectures", type=lambda text: [int(name) for name in text.split(",")], required=True, help="75,80,…")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    resources_file = arguments.output.with_suffix(".json")

    key = hashlib.sha256()
    key.update(subprocess.run([arguments.nvcc, "--version"], capture_output=True, check=True).stdout)
    key.update(repr((FLAGS, arguments.architectures, INSTRUCTIONS)).encode())
    for path in sorted(arguments.source.parent.iterdir()):
        if path.suffix in (".cu", ".cuh", ".def") or path.name in HEADERS:
            key.update(path.name.encode() + b"\0" + path.read_bytes())
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "atlas" / "fatbin" / key.hexdigest()[:32]
    cache.parent.mkdir(parents=True, exist_ok=True)
    with open(cache.parent / f"{cache.name}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # builds of the same sources beside each other wait for one of them
        if not (cache / "kernels.fatbin").exists():
            with tempfile.TemporaryDirectory(dir=cache.parent) as scratch:
                fatbin, resources = compile_all(arguments, pathlib.Path(scratch))
                ready = pathlib.Path(scratch) / "ready"
                ready.mkdir()
                shutil.move(fatbin, ready / "kernels.fatbin")
                (ready / "kernels.json").write_text(json.dumps(resources, indent=1, sort_keys=True) + "\n", encoding="utf-8")
                ready.rename(cache)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(cache / "kernels.json", resources_file)
    shutil.copyfile(cache / "kernels.fatbin", arguments.output)


if __name__ == "__main__":
    main()
