#!/usr/bin/env python3
"""What it costs to keep a part of the KV cache on disk: an unmodified llama-server reads a text, saves its slot, puts it back and continues it, with all of
the cache in memory and with shares of it. Prints a table, and with --output a picture. Beside it, what the same disk gives to random direct reads in the
same run.

Memory is share · KV, and the index of sparse attention beside it. --state takes a slot file that is there already instead of reading documentation.
Each repetition goes on with another text (a seed of the sampler), the same one whatever is in memory; the first brings in what is needed and is not counted.
Keys and reads are per token of the counted ones: found are those that selection wanted from pages on disk and the cache of single keys had.
"""

import argparse
import concurrent.futures
import json
import mmap
import os
import pathlib
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))

import eval_real  # noqa: E402
from llama_server import LlamaServer  # noqa: E402

INDEX_SHARE = 0.10  # of the KV cache, a little more than f16 keys of 64 and more elements need
FILE = 512 << 20


def ceiling(args, folder, size, seconds=2.0, depth=128):
    """GB/s of random O_DIRECT reads of `size` bytes, `depth` of them under way as Atlas has them."""
    path = pathlib.Path(folder, "ceiling.bin")
    block = mmap.mmap(-1, 1 << 20)
    block.write(random.randbytes(1 << 20))
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    try:
        for offset in range(0, FILE, 1 << 20):
            os.pwrite(fd, block, offset)
        if args.disk_bench:
            command = [args.disk_bench, path, str(size), str(depth), str(seconds), "random"]
            return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        end = time.monotonic() + seconds

        def read(seed):
            places, memory, count = random.Random(seed), mmap.mmap(-1, size), 0
            while time.monotonic() < end:
                count += os.preadv(fd, [memory], places.randrange(FILE // size) * size)
            return count

        begin = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(depth) as pool:
            total = sum(pool.map(read, range(depth)))
        return total / (time.monotonic() - begin) / 1e9
    finally:
        path.unlink()
        os.close(fd)


def tokens_of(path):
    with open(path, "rb") as file:
        _, _, count = struct.unpack("<III", file.read(12))
        tokens = list(struct.unpack(f"<{count}i", file.read(4 * count)))
    # A server writes -1, a version, their number and then tokens; llama.cpp itself tokens alone.
    return tokens[3:3 + tokens[2]] if tokens[0] == -1 else tokens


def serve(args, folder, context, variables):
    settings = {"ATLAS_STATS": folder + "/stats.json", "ATLAS_LOG_LEVEL": "warn", **variables}
    return LlamaServer(args.model, context, args.threads, args.plugin, settings,
                       ["--no-warmup", "-fit", "off", "-fa", "on", "--slot-save-path", str(pathlib.Path(args.state).parent) + "/"])


def make_state(args, folder):
    """Reads a text of --tokens tokens with all in memory, and unless it is kept with a quarter; args.state is where, returned are the speeds."""
    text = eval_real.documentation()[:8 * args.tokens]
    speeds = []
    for share in (1.0,) if args.keep else (1.0, 0.25):
        variables = {"ATLAS_MODE": "exact"}
        if share < 1:
            size = pathlib.Path(args.state).stat().st_size
            variables.update(ATLAS_KV_RAM=int(size * share), ATLAS_KV_DISK=args.folder)
        with serve(args, folder, args.tokens + 512, variables) as server:
            prompt = server.ask("/tokenize", content=text)["tokens"]
            prompt = (prompt * (args.tokens // len(prompt) + 1))[:args.tokens]
            answer = server.ask("/completion", prompt=prompt, n_predict=1, temperature=0)
            speeds.append(answer["timings"]["prompt_per_second"])
            if share == 1:
                server.ask("/slots/0?action=save", filename=pathlib.Path(args.state).name)
    return speeds


def kept_state(args):
    folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache", "atlas/states")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"tiers-{pathlib.Path(args.model).stem}-{args.tokens}.state"


def measure(args, folder, tokens, variables, repetitions):
    """Decode tokens/s of the counted requests, seconds of restore, statistics of the tiers, the texts, MiB at most."""
    with serve(args, folder, len(tokens) + 512, variables) as server:
        begin = time.monotonic()
        server.ask("/slots/0?action=restore", filename=pathlib.Path(args.state).name)
        restore = time.monotonic() - begin
        speeds, texts = [], []
        for repetition in range(repetitions + 1):
            answer = server.ask("/completion", prompt=tokens + [tokens[5]], n_predict=args.generate, temperature=0.7, seed=repetition + 1,
                                ignore_eos=True, cache_prompt=True)
            texts.append(answer["content"])
            if repetition > 0:
                speeds.append(answer["timings"]["predicted_per_second"])
        peak = server.peak_memory()
    written = pathlib.Path(folder, "stats.json")
    found = json.loads(written.read_text(encoding="utf-8")).get("kv") if written.exists() else None
    written.unlink(missing_ok=True)
    return speeds, restore, found, texts, peak


def steady(args, folder, tokens, variables):
    """measure(), with statistics of the counted requests alone, per token; None with all in memory."""
    speeds, restore, found, texts, peak = measure(args, folder, tokens, variables, args.repetitions)
    if found:
        before = measure(args, folder, tokens, variables, 0)[2]
        count = args.repetitions * args.generate
        found = {name: (value - before[name]) / count for name, value in found.items()}
    return speeds, restore, found, texts, peak


def draw(points, title, path):
    """points: {mode: [(share in memory, t/s)]}"""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plot
    for mode, found in points.items():
        plot.plot([100 * share for share, _ in found], [speed for _, speed in found], marker="o", label=mode)
    plot.xlabel("KV cache in memory, %")
    plot.ylabel("decode, tokens/s")
    plot.ylim(bottom=0)
    plot.title(title)
    plot.grid(alpha=0.3)
    plot.legend()
    plot.tight_layout()
    plot.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plugin", required=True)
    parser.add_argument("-m", "--model", default=str(ROOT / "models/atlas-tiny.gguf"))
    parser.add_argument("--state", default="", help="a slot file of this model")
    parser.add_argument("--keep", action="store_true", help="keep what was read in the user's cache for the next time")
    parser.add_argument("--tokens", type=int, default=8192, help="of the text that is read without --state (default %(default)s)")
    parser.add_argument("--shares", default="0.25,0.1", help="of the KV cache in memory (default %(default)s)")
    parser.add_argument("--modes", default="sparse,exact")
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--folder", default="/var/tmp", help="on the disk to measure (default %(default)s)")
    parser.add_argument("--reads", default="4096,32768", help="bytes of the ceilings' reads: a unit of keys, a page (default %(default)s)")
    parser.add_argument("--disk-bench", default="", help="the program that measures the disk; without it threads of Python's do")
    parser.add_argument("--output", type=pathlib.Path, help="folder for tiers.png")
    args = parser.parse_args()
    args.disk_bench = args.disk_bench if os.path.exists(args.disk_bench) else ""
    speeds = []
    if args.state:
        args.state = os.path.abspath(args.state)
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="atlas-tiers-") as folder:
        limits = [f"{ceiling(args, folder, int(size)):.2f} GB/s in reads of {size} bytes" for size in args.reads.split(",")]
        print(f"Random direct reads, 128 under way: {', '.join(limits)}.\n")
        if not args.state:
            args.state = str(kept_state(args) if args.keep else pathlib.Path(folder, "slot.state"))
            speeds = [] if pathlib.Path(args.state).is_file() else make_state(args, folder)
        if len(speeds) == 2:
            whole, quarter = speeds
            print(f"Reading {args.tokens} tokens exactly: {whole:.1f} t/s with all in memory, {quarter:.1f} with a quarter ({quarter / whole:.3f}).\n")
        tokens, size = tokens_of(args.state), pathlib.Path(args.state).stat().st_size
        print(f"{len(tokens)} tokens, {size / 2**20:.0f} MiB of KV.\n")
        print("| mode | in memory | decode t/s | of all in memory | restore s | keys found | reads a token | MiB a token | waiting ms a token | peak MiB | same text |")
        print("|---|---|---|---|---|---|---|---|---|---|---|")
        points = {}
        for mode in args.modes.split(","):
            base = right = None
            for share in [1.0, *(float(part) for part in args.shares.split(","))]:
                variables = {"ATLAS_MODE": mode}
                if share < 1:
                    memory = share + (INDEX_SHARE if mode == "sparse" else 0)
                    variables.update(ATLAS_KV_RAM=int(size * memory), ATLAS_KV_DISK=args.folder)
                speeds, restore, tier, text, peak = steady(args, folder, tokens, variables)
                speed = statistics.median(speeds)
                base, right = base or speed, right or text
                points.setdefault(mode, []).append((share, speed))
                row = ["-"] * 4
                if tier:
                    keys = tier["row_hits"] + tier["row_misses"]
                    row = [f"{tier['row_hits'] / keys:.3f}" if keys else "-", f"{tier['row_reads'] + tier['misses']:.0f}", f"{tier['read_bytes'] / 2**20:.1f}",
                           f"{1000 * tier['wait_seconds']:.1f}"]
                print(f"| {mode} | {share:g} | {speed:.2f} ({min(speeds):.2f}–{max(speeds):.2f}) | {speed / base:.2f} | {restore:.2f} | {' | '.join(row)} "
                      f"| {peak:.0f} | {'yes' if text == right else 'NO'} |", flush=True)
        if args.output:
            args.output.mkdir(parents=True, exist_ok=True)
            draw(points, f"{pathlib.Path(args.model).stem}, {len(tokens)} tokens", args.output / "tiers.png")


if __name__ == "__main__":
    main()
