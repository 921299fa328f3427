#!/usr/bin/env python3
"""Minutes of random requests to eight slots of one unmodified llama-server, whose KV cache and weights are larger than the memory they may take, while their
files fail now and then (ATLAS_TEST_FAULTS): every answer must be the one that a server with all in memory gave, or a refusal; the server must live, and
neither its memory nor its files may grow.

Right answers are made first, of every text alone, with the same slots. What memory and files take after the first third may be exceeded by --growth later.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import random
import sys
import tempfile
import time

from llama_server import LlamaServer, Refused, ServerError
from soak import TOP, Sampler

SLOTS = 8
TEXTS = 48
TOKENS = 48
# Of each kind enough in ten minutes, and few enough that most requests end well. Weights have no checksums: their file is trusted, so bits are flipped on writes of
# the KV cache alone.
FAULTS = "read_eio=0.00002,short_read=0.0005,short_write=0.005,write_eio=0.002,write_enospc=0.0005,torn_write=0.00005,flip_write=0.00005"


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiers", action="store_true", help="this soak and not the one of context shifts")
    parser.add_argument("--plugin", required=True)
    parser.add_argument("-m", "--model", default=TOP / "models/atlas-tiny.gguf")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--mode", default="sparse", choices=("sparse", "exact"))
    parser.add_argument("--ram", default="4M", help="of the KV cache (default %(default)s)")
    parser.add_argument("--weights-ram", default="4M", help="0: all of them stay (default %(default)s)")
    parser.add_argument("--context", type=int, default=4096, help="tokens per slot")
    parser.add_argument("--faults", default=FAULTS, help="of ATLAS_TEST_FAULTS (default %(default)s)")
    parser.add_argument("--folder", default="/var/tmp", help="on a disk (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--growth", type=float, default=4, help="MiB")
    return parser.parse_args()


def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def serve(args, variables):
    settings = {"ATLAS_LOG_LEVEL": "warn", "OMP_WAIT_POLICY": "passive", "ATLAS_MODE": args.mode, **variables}
    if args.mode == "sparse":
        settings.update(ATLAS_THRESHOLD="256", ATLAS_WINDOW="128", ATLAS_BUDGET_FLOOR="64", ATLAS_BUDGET="256")
    return LlamaServer(args.model, SLOTS * args.context, min(2, os.cpu_count()), os.path.abspath(args.plugin), settings,
                       ["-np", SLOTS, "--no-kv-unified", "--no-warmup", "--cache-ram", "0", "-fit", "off"])


def main():
    args = parse_arguments()
    text = (TOP / "tests/models/sample.txt").read_text(encoding="utf-8")
    numbers = random.Random(args.seed)
    prompts = []
    for _ in range(TEXTS):
        begin, length = numbers.randrange(len(text) - 7000), numbers.randrange(300, 7000)
        prompts.append(text[begin:begin + length])
    with serve(args, {}) as server:
        right = [server.complete(prompt, TOKENS, cache_prompt=False, ignore_eos=True)["content"] for prompt in prompts]
    counts = {"right": 0, "refused": 0}
    wrong = []
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="atlas-soak-") as folder:
        stats = pathlib.Path(folder, "stats.json")
        disk = pathlib.Path(folder, "disk")
        disk.mkdir()
        variables = {"ATLAS_KV_RAM": args.ram, "ATLAS_KV_DISK": disk, "ATLAS_STATS": stats, "ATLAS_TEST_FAULTS": args.faults + f",seed={args.seed}"}
        if args.weights_ram != "0":
            variables["ATLAS_WEIGHTS_RAM"] = args.weights_ram
        start = time.monotonic()
        end = start + 60 * args.minutes
        with serve(args, variables) as server:
            sampler = Sampler(server.process.pid)
            files = []

            def ask(slot):
                mine = random.Random(args.seed * 100 + slot)
                while time.monotonic() < end and not wrong:
                    number, tokens = mine.randrange(TEXTS), mine.randrange(1, TOKENS + 1)
                    try:
                        answer = server.complete(prompts[number], tokens, id_slot=slot, cache_prompt=mine.random() < 0.7, ignore_eos=True)["content"]
                    except Refused:
                        counts["refused"] += 1
                        continue
                    counts["right"] += 1
                    if not right[number].startswith(answer):
                        wrong.append((number, answer))
                    if slot == 0:
                        files.append((time.monotonic(), open_files(server.process.pid)))

            try:
                with concurrent.futures.ThreadPoolExecutor(SLOTS) as pool:
                    list(pool.map(ask, range(SLOTS)))
            except ServerError as error:
                print(f"soak: failed: {error}")
                return 1
            finally:
                sampler.stopped.set()
        found = json.loads(stats.read_text(encoding="utf-8"))
        left = list(disk.iterdir())
    third = start + (time.monotonic() - start) / 3
    early, late = (max((size for when, size in sampler.samples if (when < third) == first), default=0.0) for first in (True, False))
    most_files = [max((count for when, count in files if (when < third) == first), default=0) for first in (True, False)]
    kv, weights = found["kv"], found.get("weights", {})
    print(f"soak: {(time.monotonic() - start) / 60:.1f} minutes, {SLOTS} slots, {args.mode}: {counts['right']} answers, all right: {'NO' if wrong else 'yes'}; "
          f"{counts['refused']} refused. Resident at most {early:.1f} MiB in the first third, {late:.1f} MiB later; open files {most_files[0]}, {most_files[1]}.")
    print(f"KV: {kv['misses']} pages and {kv['row_reads']} units of keys read ({kv['ahead_hits']} ahead), {kv['read_bytes'] / 1e9:.2f} GB read, "
          f"{kv['written_bytes'] / 1e9:.2f} written, file {kv['file_bytes'] / 2**20:.1f} MiB; errors told {kv['read_errors']} of reads, {kv['write_errors']} of "
          f"writes, {kv['corrupt']} wrong checksums, {kv['retries']} tried again.")
    if weights:
        print(f"Weights: {weights['reads']} reads, {weights['read_bytes'] / 1e9:.2f} GB, {weights['retries']} tried again, {weights['failures']} failed.")
    for number, answer in wrong[:1]:
        print(f"soak: failed: a wrong answer to text {number}:\n{answer!r}\ninstead of\n{right[number]!r}")
    if left:
        print(f"soak: failed: files are left: {left}")
    if server.process.returncode != 0:
        print(f"soak: failed: status {server.process.returncode}\n{server.log()[-5000:]}")
    if late > early + args.growth or most_files[1] > most_files[0]:
        print(f"soak: failed: memory grew by {late - early:.1f} MiB, allowed is {args.growth}, or open files did")
        return 1
    return 1 if wrong or left or server.process.returncode != 0 or counts["right"] == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
