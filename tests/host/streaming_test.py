#!/usr/bin/env python3
"""Unmodified llama.cpp programs whose weights are larger than ATLAS_WEIGHTS_RAM and are read from the model's file for each batch: what they say must be
what they say with all weights in memory, bit for bit, and where the file fails they must say nothing wrong. One scenario per call.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess

import scenarios
from beyond_memory import TOKENS, answers, complete, errors, folder, refused, said, serve, talk, three_slots
from scenarios import equal, require, sample, skip

from llama_server import Refused

# The model has 11 MB.
RAM = "4M"
PROMPT = 2400


def compare(args, work, *arguments, ram=RAM, model=None):
    right, _ = answers(args, {}, work, *arguments, model=model)
    ours, stats = answers(args, {"ATLAS_WEIGHTS_RAM": ram}, work, *arguments, model=model)
    stats = stats["weights"]
    print(stats)
    require(stats["read_bytes"] > stats["passes"] * (stats["weight_bytes"] - stats["pinned_bytes"]) * 0.9, f"little was read: {stats}")
    require(stats["pinned_bytes"] + stats["ring_bytes"] <= stats["ram"], f"more than {ram} are held: {stats}")
    require(0 < stats["pinned_bytes"] < stats["weight_bytes"], f"all or nothing stays: {stats}")
    require(stats["retries"] + stats["failures"] == 0, f"{stats}")
    equal(json.dumps(right, indent=1), json.dumps(ours, indent=1), f"all weights in memory, and {ram} of them")


def read_on(server):
    return talk(server, sample(PROMPT))


def greedy(args):
    compare(args, read_on)
    compare(args, read_on, "-t", "1", "-tb", "1", ram="8M")


def experts(args):
    """18 MB: what every token needs stays or is streamed, experts come and go. In a prompt a layer wants more of them than memory holds."""
    def work(server):
        return [said(server.complete(sample(700, 900 * i), TOKENS, n_probs=1)) for i in range(2)]
    with folder() as path:
        model = scenarios.model_of_experts(path + "/experts.gguf")
        # Attention sums in another order with other threads.
        right = {threads: answers(args, {}, work, "-t", threads, "-tb", threads, model=model)[0] for threads in ("1", "2")}
        for ram, threads in (("3M", "2"), ("10M", "2"), ("12M", "1")):
            ours, stats = answers(args, {"ATLAS_WEIGHTS_RAM": ram}, work, "-t", threads, "-tb", threads, model=model)
            stats = stats["weights"]
            cache = stats["experts"]
            print(ram, stats)
            require(stats["pinned_bytes"] + cache["bytes"] + stats["ring_bytes"] <= stats["ram"], f"more than {ram} are held: {stats}")
            require(cache["misses"] > 0 and cache["read_bytes"] > cache["bytes"] > 0 and cache["evictions"] > 0, f"no experts came and went: {stats}")
            require(ram == "3M" or (cache["hits"] > 0 and stats["pinned_bytes"] == stats["weight_bytes"]), f"experts before what all tokens need: {stats}")
            require(stats["retries"] + stats["failures"] == 0, f"{stats}")
            equal(json.dumps(right[threads], indent=1), json.dumps(ours, indent=1), f"all weights in memory, and {ram} of them")


def expert_faults(args):
    """As faults and rare_faults, where dense weights stay and only experts are read."""
    with folder() as path:
        model = scenarios.model_of_experts(path + "/experts.gguf")
        prompt = sample(300)
        with serve(args, {}, model=model) as server:
            right = server.complete(prompt, TOKENS, cache_prompt=False)["content"]
        good = 0
        with serve(args, {"ATLAS_WEIGHTS_RAM": "10M", "ATLAS_TEST_FAULTS": "read_eio=0.014,short_read=0.014,after=120,seed=5"}, model=model) as server:
            for _ in range(12):
                with contextlib.suppress(Refused):
                    equal(right, server.complete(prompt, TOKENS, cache_prompt=False)["content"], "with faults")
                    good += 1
            told = errors(server.log())
            require(server.process.poll() is None, "the server has ended")
        print(f"{good} of 12 answers; {told[:1]}")
        require(0 < good < 12, f"{good} of 12 answers: faults did not come and go")
        require(told and all(re.search(r"read of \d+ bytes at \d+ of '[^']*': (only|.*errno 5)", line) for line in told), f"{told}")


def slots(args):
    compare(args, lambda server: three_slots(server, 1200), "-np", "3", "--no-kv-unified")


def long_batch(args):
    """More tokens than are multiplied with a weight at once: it is read twice."""
    compare(args, lambda server: said(server.complete(sample(PROMPT * 6), TOKENS, n_probs=1)), "-c", "8192", "-b", "4096", "-ub", "4096")


def parts(args):
    """A model in several files."""
    split = shutil.which("llama-gguf-split")
    if not split:
        skip("llama-gguf-split is not there")
    with folder() as path:
        subprocess.run([split, "--split-max-size", "3M", args.model, path + "/model"], check=True, capture_output=True)
        files = sorted(os.listdir(path))
        require(len(files) > 2, f"{files}")
        compare(args, read_on, model=f"{path}/{files[0]}")


def fits(args):
    stats = answers(args, {"ATLAS_WEIGHTS_RAM": "64M"}, read_on)[1]["weights"]
    require(stats["reads"] == 0 and stats["passes"] == 0, f"what fits was read: {stats}")


def memory(args):
    """What is mapped leaves memory."""
    def resident(server):
        server.complete(sample(PROMPT), TOKENS)
        text = pathlib.Path(f"/proc/{server.process.pid}/smaps").read_text(encoding="utf-8", errors="replace")
        found = re.search(r"[^\n]*" + re.escape(os.path.basename(args.model)) + r"\n(?:[A-Z][^\n]*\n)*?Rss: +(\d+) kB", text)
        require(found, "the model is not mapped")
        return int(found[1])
    whole, _ = answers(args, {}, resident)
    ours, _ = answers(args, {"ATLAS_WEIGHTS_RAM": RAM}, resident)
    print(f"mapped pages in memory: {whole} kB, {ours} kB")
    require(ours < whole / 2, f"{ours} of {whole} kB stay")


def unmapped(args):
    """Weights that the program has read itself cannot be streamed, which is said."""
    with serve(args, {"ATLAS_WEIGHTS_RAM": RAM}, "-lm", "none") as server:
        server.complete(sample(100), 2)
        require("ATLAS_WEIGHTS_RAM takes no part" in server.log(), f"nothing was said\n{server.log()[-2000:]}")


def faults(args):
    """Reads that fail: one line, a failed graph, no wrong word."""
    right = complete(args, sample(PROMPT)).stdout
    for fault, reason in (("read_eio=1", r"read of \d+ bytes at \d+ of '[^']*': .*errno 5"), ("short_read=1", r"read of \d+ bytes at \d+ of '[^']*': only \d+ bytes"),
                          ("read_eio=1,after=200", r"read of \d+ bytes at \d+ of '[^']*': .*errno 5")):
        result = complete(args, sample(PROMPT), ATLAS_WEIGHTS_RAM=RAM, ATLAS_TEST_FAULTS=fault)
        told = [line for line in errors(result.stderr) if re.search(reason, line)]
        require(result.returncode > 0, f"{fault}: status {result.returncode}\n{result.stdout[-300:]}\n{result.stderr[-2000:]}")
        require(len(told) == 1 and len(errors(result.stderr)) == 1, f"{fault}: {errors(result.stderr)}\n{result.stderr[-3000:]}")
        require(right.startswith(result.stdout.rstrip()), f"{fault}: another text:\n{result.stdout[-300:]}")
        print(fault, told[0])


def rare_faults(args):
    """Faults that come and go: a right answer, or none; the server goes on."""
    prompt = sample(PROMPT)
    with serve(args, {}) as server:
        right = server.complete(prompt, TOKENS, cache_prompt=False)["content"]
    good = 0
    with serve(args, {"ATLAS_WEIGHTS_RAM": RAM, "ATLAS_TEST_FAULTS": "read_eio=0.007,short_read=0.007,seed=5"}) as server:
        for _ in range(8):
            with contextlib.suppress(Refused):
                equal(right, server.complete(prompt, TOKENS, cache_prompt=False)["content"], "with faults")
                good += 1
    print(f"{good} of 8 answers")
    require(0 < good < 8, f"{good} of 8 answers: faults did not come and go")


def hanging(args):
    """A device that gives no answer."""
    with serve(args, {"ATLAS_WEIGHTS_RAM": RAM, "ATLAS_TEST_FAULTS": "hang=1,hang_ms=45000,after=100"}) as server:
        with contextlib.suppress(Refused):
            server.complete(sample(PROMPT), TOKENS)
            raise scenarios.Failed("an answer without weights")
        require(any("no answer within 30" in line for line in errors(server.log())), f"{errors(server.log())}")
        require(server.process.poll() is None, "the server has ended")


def changed_files(args):
    """A model that is truncated, written to or replaced under a server."""
    prompt = sample(PROMPT)
    with folder() as path:
        model = path + "/model.gguf"
        for change, reason in (("truncated", r"has \d+ bytes, and had \d+ when it was loaded"), ("written", r"was written to since it was loaded"), ("replaced", None)):
            shutil.copy(args.model, model)
            with serve(args, {"ATLAS_WEIGHTS_RAM": RAM}, model=model) as server:
                right = server.complete(prompt, TOKENS, cache_prompt=False)["content"]
                if change == "truncated":
                    # Behind what the host looks at itself: it would be ended by the system.
                    os.truncate(model, os.path.getsize(model) - 4096)
                elif change == "written":
                    with open(model, "r+b") as file:
                        file.seek(-4096, os.SEEK_END)
                        file.write(b"x")
                else:
                    pathlib.Path(path, "new").write_bytes(b"no model")
                    os.replace(path + "/new", model)
                if reason:
                    with contextlib.suppress(Refused):
                        server.complete(prompt, TOKENS, cache_prompt=False)
                        raise scenarios.Failed(f"{change}: an answer")
                    told = errors(server.log())
                    require(told and all(re.search(reason, line) for line in told), f"{change}: {told}")
                    print(change, told[0])
                    require(server.process.poll() is None, f"{change}: the server has ended")
                else:
                    equal(right, server.complete(prompt, TOKENS, cache_prompt=False)["content"], change)


def bad_settings(args):
    refused(args, (({"ATLAS_WEIGHTS_RAM": "1000"}, r"ATLAS_WEIGHTS_RAM=1000: allowed is 0, or 2097152"),
                   ({"ATLAS_WEIGHTS_RAM": "4M", "ATLAS_WEIGHTS": "host"}, r"ATLAS_WEIGHTS_RAM=\S+: allowed is 0 with ATLAS_WEIGHTS=host"),
                   ({"ATLAS_WEIGHTS_RAM": "4M", "ATLAS_DEVICE": "accel"}, r"ATLAS_WEIGHTS_RAM=\S+: allowed is 0 with ATLAS_DEVICE=accel"),
                   ({"ATLAS_WEIGHTS_RAM": "4M", "ATLAS_TEST_FAULTS": "x=1"}, r"ATLAS_TEST_FAULTS has 'x=1'")))


SCENARIOS = {function.__name__: function for function in (greedy, experts, expert_faults, slots, long_batch, parts, fits, memory, unmapped, faults, rare_faults, hanging,
                                                          changed_files, bad_settings)}

if __name__ == "__main__":
    scenarios.main(__doc__, SCENARIOS)
