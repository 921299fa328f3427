#!/usr/bin/env python3
"""What it costs to keep a part of the KV cache on disk: an unmodified llama-server reads a text, saves its slot, puts it back and continues it, with all of
the cache in memory and with shares of it. Prints a table. Beside it, what the same disk gives to random direct reads of a page's size in the same run.

Memory is share · KV, and the index of sparse attention beside it. --state takes a slot file that is there already instead of reading a text.
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
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))

from llama_server import LlamaServer  # noqa: E402

INDEX_SHARE = 0.10  # of the KV cache, a little more than f16 keys of 64 and more elements need
FILE = 512 << 20


def ceiling(folder, size, seconds=2.0, depth=32):
    """GB/s of random O_DIRECT reads of `size` bytes, `depth` of them under way."""
    path = pathlib.Path(folder, "ceiling.bin")
    block = mmap.mmap(-1, 1 << 20)
    block.write(random.randbytes(1 << 20))
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    try:
        path.unlink()
        for offset in range(0, FILE, 1 << 20):
            os.pwrite(fd, block, offset)
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
        os.close(fd)


def tokens_of(path):
    with open(path, "rb") as file:
        _, _, count = struct.unpack("<III", file.read(12))
        return list(struct.unpack(f"<{count}i", file.read(4 * count)))


def serve(args, folder, context, variables):
    settings = {"ATLAS_STATS": folder + "/stats.json", "ATLAS_LOG_LEVEL": "warn", **variables}
    return LlamaServer(args.model, context, args.threads, args.plugin, settings,
                       ["--no-warmup", "-fit", "off", "-fa", "on", "--slot-save-path", str(pathlib.Path(args.state).parent) + "/"])


def make_state(args, folder):
    """Reads a text of about --tokens tokens with all in memory and with a quarter; where the state is, and both speeds."""
    text = (ROOT / "tests/models/sample.txt").read_text(encoding="utf-8")
    args.state = folder + "/slot.state"
    speeds = []
    for share in (1.0, 0.25):
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


def measure(args, folder, tokens, variables):
    """Decode tokens/s (median of requests), seconds of restore, statistics of the tiers, the text."""
    with serve(args, folder, len(tokens) + 512, variables) as server:
        begin = time.monotonic()
        server.ask("/slots/0?action=restore", filename=pathlib.Path(args.state).name)
        restore = time.monotonic() - begin
        speeds = []
        for repetition in range(args.repetitions + 1):
            answer = server.ask("/completion", prompt=tokens + [tokens[5]], n_predict=args.generate, temperature=0, ignore_eos=True, cache_prompt=True)
            # The first brings in what the text needs.
            if repetition > 0:
                speeds.append(answer["timings"]["predicted_per_second"])
        peak = server.peak_memory()
    written = pathlib.Path(folder, "stats.json")
    found = json.loads(written.read_text(encoding="utf-8")).get("kv") if written.exists() else None
    written.unlink(missing_ok=True)
    return speeds, restore, found, answer["content"], peak


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plugin", required=True)
    parser.add_argument("-m", "--model", default=str(ROOT / "models/atlas-tiny.gguf"))
    parser.add_argument("--state", default="", help="a slot file of this model")
    parser.add_argument("--tokens", type=int, default=8192, help="of the text that is read without --state (default %(default)s)")
    parser.add_argument("--shares", default="0.25,0.1", help="of the KV cache in memory (default %(default)s)")
    parser.add_argument("--modes", default="sparse,exact")
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--folder", default="/var/tmp", help="on the disk to measure (default %(default)s)")
    parser.add_argument("--page", type=int, default=32768, help="bytes of the ceiling's reads (default %(default)s)")
    args = parser.parse_args()
    if args.state:
        args.state = os.path.abspath(args.state)
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="atlas-tiers-") as folder:
        print(f"random direct reads of {args.page} bytes, 32 under way: {ceiling(folder, args.page):.2f} GB/s\n")
        if not args.state:
            whole, quarter = make_state(args, folder)
            print(f"reading {args.tokens} tokens exactly: {whole:.1f} t/s with all in memory, {quarter:.1f} with a quarter ({quarter / whole:.3f})\n")
        tokens, size = tokens_of(args.state), pathlib.Path(args.state).stat().st_size
        print(f"{len(tokens)} tokens, {size / 2**20:.0f} MiB of KV\n")
        print("| mode | in memory | decode t/s | of all in memory | restore s | read MiB | hits | waiting s | peak MiB | same text |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        for mode in args.modes.split(","):
            base = right = None
            for share in [1.0, *(float(part) for part in args.shares.split(","))]:
                variables = {"ATLAS_MODE": mode}
                if share < 1:
                    memory = share + (INDEX_SHARE if mode == "sparse" else 0)
                    variables.update(ATLAS_KV_RAM=int(size * memory), ATLAS_KV_DISK=args.folder)
                speeds, restore, tier, text, peak = measure(args, folder, tokens, variables)
                speed = statistics.median(speeds)
                base, right = base or speed, right or text
                row = ["-"] * 3
                if tier:
                    row = [f"{tier['read_bytes'] / 2**20:.0f}", f"{tier['hits'] / max(1, tier['hits'] + tier['misses']):.3f}", f"{tier['wait_seconds']:.2f}"]
                print(f"| {mode} | {share:g} | {speed:.2f} ({min(speeds):.2f}–{max(speeds):.2f}) | {speed / base:.2f} | {restore:.2f} | {' | '.join(row)} "
                      f"| {peak:.0f} | {'yes' if text == right else 'NO'} |", flush=True)


if __name__ == "__main__":
    main()
