#!/usr/bin/env python3
"""Minutes of generation far beyond the context, with sparse attention and memories, in one unmodified llama-server: it must stay up, report
nothing, and its memory must stop growing.

Every request generates several contexts' worth of tokens (--context-shift), from prompts that differ, in two slots at once. Resident memory
is sampled all the time; after the first third, which fills every buffer, its largest value may grow by --growth MiB.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import random
import re
import sys
import tempfile
import threading
import time

from llama_server import LlamaServer, ServerError

TOP = pathlib.Path(__file__).resolve().parent.parent
SETTINGS = {"ATLAS_MODE": "sparse", "ATLAS_THRESHOLD": "256", "ATLAS_WINDOW": "128", "ATLAS_BUDGET_FLOOR": "64", "ATLAS_BUDGET": "256",
            "ATLAS_MEMORY": "1", "ATLAS_WARM_UP": "64", "OMP_WAIT_POLICY": "passive"}
# Leaks of the unmodified host at exit are not ours to report; what grows is seen in the resident memory.
SANITIZER = {"ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0:strict_string_checks=1:quarantine_size_mb=16",
             "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}
REPORT = re.compile(r"runtime error:|ERROR: AddressSanitizer|WARNING: ThreadSanitizer")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plugin", required=True, help="libggml-atlas.so; of a sanitizer build with --preload")
    parser.add_argument("--preload", default="", help="LD_PRELOAD of the server: the sanitizer's libraries")
    parser.add_argument("-m", "--model", default=TOP / "models/atlas-tiny.gguf")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--context", type=int, default=1024, help="tokens per slot")
    parser.add_argument("--tokens", type=int, default=3072, help="tokens per request")
    parser.add_argument("--growth", type=float, default=4, help="MiB")
    return parser.parse_args()


def resident(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


class Sampler(threading.Thread):
    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.samples, self.stopped = pid, [], threading.Event()
        self.start()

    def run(self):
        while not self.stopped.wait(1.0):
            try:
                self.samples.append((time.monotonic(), resident(self.pid)))
            except OSError:
                return


def main():
    args = parse_arguments()
    text = (TOP / "tests/models/sample.txt").read_text(encoding="utf-8")
    variables = dict(SETTINGS)
    if args.preload:
        variables.update(SANITIZER, LD_PRELOAD=args.preload)
    folder = tempfile.TemporaryDirectory()
    stats = pathlib.Path(folder.name, "stats.json")
    variables["ATLAS_STATS"] = str(stats)
    start = time.monotonic()
    end = start + 60 * args.minutes
    tokens = 0
    # Two slots; every second one starts anew from a prompt, so that sequences end and slots are used again.
    with LlamaServer(args.model, 2 * args.context, min(2, os.cpu_count()), os.path.abspath(args.plugin), variables,
                     ["-np", "2", "--no-kv-unified", "--context-shift", "--no-warmup", "--cache-ram", "0"]) as server:
        sampler = Sampler(server.process.pid)

        def converse(slot):
            numbers = random.Random(slot)
            made = 0
            while time.monotonic() < end:
                begin = numbers.randrange(len(text) - 3000)
                answer = server.complete(text[begin:begin + numbers.randrange(200, 2500)], args.tokens, id_slot=slot, ignore_eos=True)
                if answer["tokens_predicted"] != args.tokens:
                    raise ServerError(f"{answer['tokens_predicted']} of {args.tokens} tokens: no context shift?")
                made += answer["tokens_predicted"]
            return made

        try:
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                tokens = sum(pool.map(converse, range(2)))
        except ServerError as error:
            print(f"soak: failed: {error}")
            return 1
        finally:
            sampler.stopped.set()
    log = server.log()
    layers = json.loads(stats.read_text(encoding="utf-8"))["layers"] if stats.exists() else []
    if server.process.returncode != 0 or REPORT.search(log) or not sum(layer["estimated_keys"] for layer in layers):
        print(f"soak: failed: status {server.process.returncode}\n{log[-5000:]}")
        return 1
    third = start + (time.monotonic() - start) / 3
    early = max(size for when, size in sampler.samples if when < third)
    late = max(size for when, size in sampler.samples if when >= third)
    print(f"soak: {(time.monotonic() - start) / 60:.1f} minutes, {tokens} tokens generated in contexts of {args.context}; resident at most "
          f"{early:.1f} MiB in the first third, {late:.1f} MiB later")
    if late > early + args.growth:
        print(f"soak: failed: memory grew by {late - early:.1f} MiB, allowed is {args.growth}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
