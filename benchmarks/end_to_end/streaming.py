#!/usr/bin/env python3
"""A model that memory has no room for: an unmodified llama-completion in a memory cgroup of a share of the model's file, with its own mmap and with
ATLAS_WEIGHTS_RAM. Prints a table. Beside it, what the disk gives to direct reads of the file in the same run, and, without a limit, all in memory.

Linux cgroups of version 1 and 2, as root. What weights may take is the limit less --reserve, which is for everything else in the process. The file is
dropped from the system's cache before every run. Runs outside of the root that ./dev makes, where cgroups cannot be made, and starts programs in there.
"""

import argparse
import concurrent.futures
import contextlib
import json
import mmap
import os
import pathlib
import re
import shlex
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
READ = 2 << 20
CGROUP = pathlib.Path("/sys/fs/cgroup")
PROMPT = "The history of the lighthouse begins with fires that were lit on hills, so that ships found"


def drop(path):
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def ceiling(path, seconds, depth=8):
    """GB/s of direct reads of the file in its order, `depth` of them under way, as a loader of everything would make them."""
    size = os.path.getsize(path) // READ * READ
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    lock, place, end = threading.Lock(), [0], time.monotonic() + seconds

    def read(_):
        memory, count = mmap.mmap(-1, READ), 0
        while time.monotonic() < end:
            with lock:
                offset = place[0]
                place[0] = (offset + READ) % size
            count += os.preadv(fd, [memory], offset)
        return count

    try:
        begin = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(depth) as pool:
            total = sum(pool.map(read, range(depth)))
        return total / (time.monotonic() - begin) / 1e9
    finally:
        os.close(fd)


class Limit:
    """A memory cgroup of so many bytes; 0: none."""

    def __init__(self, limit):
        self.limit, self.folder = limit, None

    def __enter__(self):
        if self.limit:
            first = (CGROUP / "memory").is_dir()
            self.folder = CGROUP / ("memory" if first else "") / f"atlas-streaming-{os.getpid()}"
            if not first:
                with contextlib.suppress(OSError):
                    (CGROUP / "cgroup.subtree_control").write_text("+memory", encoding="ascii")
            self.folder.mkdir()
            (self.folder / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(self.limit), encoding="ascii")
            self.peak_file = self.folder / ("memory.max_usage_in_bytes" if first else "memory.peak")
        return self

    def prefix(self):
        return f"echo $$ > {shlex.quote(str(self.folder / 'cgroup.procs'))} && exec " if self.folder else "exec "

    def peak(self):
        with contextlib.suppress(OSError, AttributeError):
            return int(self.peak_file.read_text(encoding="ascii")) / 2**20
        return 0.0

    def __exit__(self, *_):
        if self.folder:
            for _ in range(50):
                with contextlib.suppress(OSError):
                    self.folder.rmdir()
                    return
                time.sleep(0.1)


def environment(plugin, variables):
    result = {name: value for name, value in os.environ.items() if not name.startswith("ATLAS_") and name != "GGML_BACKEND_PATH"}
    result.update({name: value for name, value in os.environ.items() if name.startswith("ATLAS_DEV_")})
    if plugin:
        result["GGML_BACKEND_PATH"] = plugin
    result.update({name: str(value) for name, value in variables.items()})
    return result


def complete(args, limit, plugin, variables):
    """Seconds of the whole run, tokens/s of prompt and of decoding, the text, statistics of weights, peak MiB in the cgroup."""
    drop(args.model)
    command = ["llama-completion", "-m", args.model, "-p", PROMPT, "-n", args.generate, "-c", 512, "-b", 64, "-ub", 64, "--temp", 0, "--ignore-eos",
               "-no-cnv", "--simple-io", "--no-warmup", "-fit", "off", "-t", args.threads, "-fa", "on"]
    if not os.environ.get("ATLAS_DEV_INSIDE") and os.environ.get("ATLAS_DEV_ROOT") != "system":
        command = [ROOT / "dev", "shell", *command]
    with Limit(limit) as cgroup:
        stats = pathlib.Path(args.scratch, f"stats-{os.getpid()}.json")
        stats.unlink(missing_ok=True)
        begin = time.monotonic()
        process = subprocess.run(["sh", "-c", cgroup.prefix() + shlex.join(str(part) for part in command)], cwd=args.scratch, stdin=subprocess.DEVNULL,
                                 capture_output=True, text=True, errors="replace", check=False, timeout=args.timeout,
                                 env=environment(plugin, {**variables, "ATLAS_STATS": stats} if plugin else variables))
        seconds, peak = time.monotonic() - begin, cgroup.peak()
    if process.returncode != 0:
        raise RuntimeError(f"status {process.returncode}: {process.stderr[-1500:]}")
    found = json.loads(stats.read_text(encoding="utf-8")).get("weights") if plugin else None
    stats.unlink(missing_ok=True)
    speeds = [float(re.search(name + r" time =.*?([\d.]+) tokens per second", process.stderr)[1]) for name in (r"prompt eval", r"[^t] +eval")]
    return seconds, *speeds, process.stdout, found, peak


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plugin", required=True)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--shares", default="0.5,0.25", help="limits of memory, of the model's file (default %(default)s)")
    parser.add_argument("--reserve", type=float, default=96, help="MiB of the limit that are not for weights (default %(default)s)")
    parser.add_argument("--generate", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--scratch", default="/tmp", help="a folder that programs in ./dev's root see too (default %(default)s)")
    parser.add_argument("--timeout", type=int, default=1800, help="seconds for one run (default %(default)s)")
    args = parser.parse_args()
    if not os.access(CGROUP, os.W_OK) or os.geteuid() != 0:
        sys.exit("streaming: memory cgroups can be made by root only, outside of ./dev shell")
    args.model = os.path.abspath(args.model)
    size = os.path.getsize(args.model)
    print(f"{os.path.basename(args.model)}: {size / 1e9:.2f} GB, {args.threads} threads, {args.generate} tokens\n")
    print("| memory | weights | prompt t/s | decode t/s | of what the disk allows | from disk, MB/token | whole run, s | peak MiB | same text |")
    print("|---|---|---|---|---|---|---|---|---|")
    right = None

    def row(name, who, plugin, limit, variables):
        nonlocal right
        runs, speeds = [], []
        for _ in range(args.repetitions):
            speeds.append(ceiling(args.model, 3.0))
            runs.append(complete(args, limit, plugin, variables))
        speeds.append(ceiling(args.model, 3.0))
        disk = statistics.median(speeds)
        whole, prompt, decode = (statistics.median(run[i] for run in runs) for i in range(3))
        text, found, peak = runs[-1][3:]
        right = right or text
        share = megabytes = "-"
        if found and found["passes"]:
            unpinned = found["weight_bytes"] - found["pinned_bytes"]
            share, megabytes = f"{decode * unpinned / disk / 1e9:.2f} of {disk:.2f} GB/s", f"{unpinned / 1e6:.0f}"
        least, most = min(run[2] for run in runs), max(run[2] for run in runs)
        print(f"| {name} | {who} | {prompt:.2f} | {decode:.2f} ({least:.2f}–{most:.2f}) | {share} | {megabytes} | {whole:.1f} | {peak:.0f} | "
              f"{'yes' if all(run[3] == right for run in runs) else 'NO'} |", flush=True)
        return decode, whole

    row("no limit", "Atlas, mapped", args.plugin, 0, {})
    row("no limit", "Atlas, ATLAS_WEIGHTS_RAM above the model's size", args.plugin, 0, {"ATLAS_WEIGHTS_RAM": 2 * size})
    for share in (float(part) for part in args.shares.split(",")):
        limit = int(size * share)
        ram = int(limit - args.reserve * 2**20)
        ours = row(f"{share:g} of the model", "Atlas, streamed", args.plugin, limit, {"ATLAS_WEIGHTS_RAM": ram})
        host = row(f"{share:g} of the model", "llama.cpp, mmap", None, limit, {})
        print(f"\ndecoding {ours[0] / host[0]:.2f}×, whole run {host[1] / ours[1]:.2f}× as fast as llama.cpp's mmap in the same memory\n", flush=True)


if __name__ == "__main__":
    main()
