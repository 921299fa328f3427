#!/usr/bin/env python3
"""Unmodified llama.cpp programs whose KV cache is larger than ATLAS_KV_RAM, the rest of it on disk: what they say must be what they say with all of it in
memory, bit for bit, and where the disk fails they must say nothing wrong. One scenario per call.
"""

import contextlib
import json
import pathlib
import re

import scenarios
from beyond_memory import CONTEXT, TOKENS, answers, complete, errors, folder, refused, said, serve, talk, three_slots
from scenarios import equal, require, sample

from llama_program import run
from llama_server import Refused

SPARSE = {"ATLAS_MODE": "sparse", "ATLAS_THRESHOLD": 256, "ATLAS_WINDOW": 128, "ATLAS_BUDGET": 256, "ATLAS_BUDGET_FLOOR": 64}
MODES = {"exact": {}, "sparse": SPARSE}
# The model has 12 caches, of which a page of 64 cells takes 16 KiB: 2000 tokens are 6 MiB.
PROMPT = 6000


def compare(args, work, *arguments, modes=MODES, ram="1500K", reads=1 << 20):
    """The same with all in memory and with a part of it; where it is on disk it must have been read."""
    for mode, variables in modes.items():
        right, _ = answers(args, variables, work, *arguments)
        with folder() as disk:
            ours, stats = answers(args, {**variables, "ATLAS_KV_RAM": ram, "ATLAS_KV_DISK": disk}, work, *arguments)
            stats = stats["kv"]
            require(not list(pathlib.Path(disk).iterdir()), "a file is left")
        print(mode, stats)
        require(stats["read_bytes"] >= reads, f"{mode}: little was read: {stats}")
        require(stats["ram_bytes"] <= stats["ram_limit"], f"{mode}: over budget: {stats}")
        require(stats["corrupt"] + stats["read_errors"] + stats["write_errors"] == 0, f"{mode}: {stats}")
        equal(json.dumps(right, indent=1), json.dumps(ours, indent=1), f"{mode}: all in memory, and with {ram}")


def greedy(args):
    compare(args, lambda server: talk(server, sample(PROMPT)))


def single_keys(args):
    """Keys of pages on disk are read one by one, and most of them are in memory already."""
    prompt = sample(PROMPT)

    def work(server):
        return said(server.complete(prompt, 96, n_probs=1, ignore_eos=True))
    right, _ = answers(args, SPARSE, work)
    with folder() as disk:
        ours, stats = answers(args, {**SPARSE, "ATLAS_KV_RAM": "3M", "ATLAS_KV_DISK": disk}, work)
    stats = stats["kv"]
    print(stats)
    require(stats["row_hits"] > stats["row_misses"] > 0, f"keys are not kept: {stats}")
    require(0 < stats["row_reads"] <= stats["row_misses"], f"more is read than is missing: {stats}")
    equal(json.dumps(right, indent=1), json.dumps(ours, indent=1), "all in memory, and single keys")


def quantised(args):
    compare(args, lambda server: said(server.complete(sample(PROMPT), TOKENS, n_probs=1)), "-ctk", "q8_0", "-ctv", "q8_0")


def lru(args):
    compare(args, lambda server: said(server.complete(sample(PROMPT), TOKENS, n_probs=1)),
            modes={name: {**mode, "ATLAS_KV_EVICT": "lru"} for name, mode in MODES.items()})


def memory(args):
    """With memories only the text goes on: what they observe is what is in memory."""
    def work(server):
        return len(server.complete(sample(PROMPT), TOKENS)["content"]) > 0
    # Memories count in the budget.
    compare(args, work, ram="2600K", modes={"sparse": {**SPARSE, "ATLAS_MEMORY": 1, "ATLAS_WARM_UP": 16, "ATLAS_MEMORY_PROBE": 4}})


def slots(args):
    """Several texts at once share the budget."""
    compare(args, lambda server: three_slots(server, 2500), "-np", "3", "--no-kv-unified")


def context_shift(args):
    """Keys are turned in place, those on disk too."""
    size = CONTEXT // 4

    def work(server):
        prompt = server.ask("/tokenize", content=sample(PROMPT))["tokens"][:size - 16]
        answer = said(server.complete(prompt, 40, n_probs=1, n_keep=64))
        require("context shift" in server.log(), f"no shift\n{server.log()[-2000:]}")
        return answer
    compare(args, work, "--context-shift", "-c", size, ram="800K", modes={"exact": {}})


def slot_save(args):
    """A slot is saved from disk, cleared, put back, and continued."""
    prompt = sample(PROMPT)

    def work(server):
        server.complete(prompt, 1, id_slot=0)
        server.ask("/slots/0?action=save", filename="slot.bin")
        before = said(server.complete(prompt, TOKENS, id_slot=0, n_probs=1))
        server.ask("/slots/0?action=erase")
        server.complete(sample(1000, 20000), 4, id_slot=0)
        server.ask("/slots/0?action=restore", filename="slot.bin")
        answer = server.complete(prompt, TOKENS, id_slot=0, n_probs=1)
        require(answer["timings"]["prompt_n"] < 20, f"{answer['timings']['prompt_n']} tokens were computed again: nothing was put back")
        return [before, said(answer)]

    with folder() as saved:
        compare(args, work, "--slot-save-path", saved)


def layer_in_pieces(args):
    """Memory that does not hold one layer: exact attention merges pieces, to the same text but for rounding."""
    def work(server):
        return server.complete(sample(PROMPT), TOKENS)["content"]
    compare(args, work, ram="700K", modes={"exact": {}})


def full_disk(args):
    """A disk that is full or fails: one line, a failed graph, no wrong word; a server goes on with what fits."""
    cases = [({"ATLAS_KV_DISK_LIMIT": "2M"}, r"ATLAS_KV_DISK_LIMIT=2097152"),
             ({"ATLAS_TEST_FAULTS": "write_eio=1"}, r"write of \d+ bytes at \d+ of '[^']*': .*errno 5"),
             ({"ATLAS_TEST_FAULTS": "write_enospc=1"}, r"write of \d+ bytes at \d+ of '[^']*': .*errno 28"),
             ({"ATLAS_TEST_FAULTS": "grow_enospc=1"}, r"'[^']*' cannot grow at \d+: .*errno 28"),
             ({"ATLAS_TEST_FAULTS": "read_eio=1"}, r"read of \d+ bytes at \d+ of '[^']*': .*errno 5"),
             ({"ATLAS_TEST_FAULTS": "torn_write=1"}, r"read of \d+ bytes at \d+ of '[^']*': not what was written"),
             ({"ATLAS_TEST_FAULTS": "flip_write=1"}, r"read of \d+ bytes at \d+ of '[^']*': not what was written")]
    right = complete(args, sample(PROMPT)).stdout
    for variables, reason in cases:
        with folder() as disk:
            result = complete(args, sample(PROMPT), **{"ATLAS_KV_RAM": "1500K", "ATLAS_KV_DISK": disk, **variables})
            told = [line for line in errors(result.stderr) if re.search(reason, line)]
            require(result.returncode > 0, f"{variables}: status {result.returncode}\n{result.stdout[-300:]}\n{result.stderr[-2000:]}")
            # One for the batch, and one where the disk gets no more.
            require(1 <= len(told) <= 2, f"{variables}: {told}\n{result.stderr[-3000:]}")
            require(right.startswith(result.stdout.rstrip()), f"{variables}: another text:\n{result.stdout[-300:]}")
            print(variables, told[0])
    with folder() as disk:
        short = sample(1000, 20000)
        with serve(args, {}) as server:
            right = server.complete(short, TOKENS)["content"]
        with serve(args, {"ATLAS_KV_RAM": "1500K", "ATLAS_KV_DISK": disk, "ATLAS_KV_DISK_LIMIT": "2M"}) as server:
            for _ in range(2):
                with contextlib.suppress(Refused):
                    server.complete(sample(PROMPT), TOKENS)
                    raise scenarios.Failed("a text without room was continued")
                equal(right, server.complete(short, TOKENS)["content"], "a short text beside one that did not fit")


def rare_faults(args):
    """Faults that come and go: a right answer, or none."""
    prompt = sample(PROMPT)
    with serve(args, SPARSE) as server:
        right = server.complete(prompt, TOKENS, cache_prompt=False)["content"]
    faults = "read_eio=0.002,flip_read=0.002,short_read=0.01,short_write=0.01,write_eio=0.01,torn_write=0.0005,seed=5"
    good = 0
    with folder() as disk, serve(args, {**SPARSE, "ATLAS_KV_RAM": "1500K", "ATLAS_KV_DISK": disk, "ATLAS_TEST_FAULTS": faults}) as server:
        for _ in range(6):
            with contextlib.suppress(Refused):
                equal(right, server.complete(prompt, TOKENS, cache_prompt=False)["content"], "with faults")
                good += 1
    print(f"{good} of 6 answers")
    require(good > 0, "never an answer")


def with_weights(args):
    """KV cache and weights from disk at once, through one queue: the same answers; under faults the same or none."""
    prompt = sample(PROMPT)
    both = {"ATLAS_WEIGHTS_RAM": "4M", "ATLAS_KV_RAM": "1500K"}
    for mode, variables in MODES.items():
        right, _ = answers(args, variables, lambda server: talk(server, prompt))
        with folder() as disk:
            ours, stats = answers(args, {**variables, **both, "ATLAS_KV_DISK": disk}, lambda server: talk(server, prompt))
            print(mode, stats["disk"], stats["kv"]["read_bytes"], stats["weights"]["read_bytes"])
            require(stats["kv"]["read_bytes"] > 1 << 20 and stats["weights"]["read_bytes"] > 1 << 20, f"{mode}: little was read: {stats}")
            require(all(stats["disk"][kind] > 0 for kind in ("now", "soon", "later", "held")), f"{mode}: nothing waited for anything: {stats['disk']}")
            equal(json.dumps(right, indent=1), json.dumps(ours, indent=1), f"{mode}: all in memory, and KV cache and weights on disk")
    right = right[0][0]
    good = 0
    faults = "read_eio=0.0003,short_read=0.001,short_write=0.01,write_eio=0.003,torn_write=0.0001,seed=5"
    with folder() as disk, serve(args, {**SPARSE, **both, "ATLAS_KV_DISK": disk, "ATLAS_TEST_FAULTS": faults}) as server:
        for _ in range(6):
            with contextlib.suppress(Refused):
                equal(right, server.complete(prompt, TOKENS, cache_prompt=False)["content"], "with faults")
                good += 1
    print(f"{good} of 6 answers")
    require(good > 0, "never an answer")


def bad_settings(args):
    refused(args, (({"ATLAS_KV_DISK": "/none", "ATLAS_KV_RAM": "1M"}, r"ATLAS_KV_DISK=/none.*errno 2"),
                   ({"ATLAS_KV_DISK": "/var/tmp"}, r"ATLAS_KV_DISK=/var/tmp: allowed is none without ATLAS_KV_RAM"),
                   ({"ATLAS_KV_DISK": "/var/tmp", "ATLAS_KV_RAM": "1M", "ATLAS_TEST_FAULTS": "x=1"}, r"ATLAS_TEST_FAULTS has 'x=1'")))


def capacity(args):
    """The device offers what disk and memory hold together, so that -fit, on by default, leaves all layers with it and the context as it is."""
    with folder() as disk:
        for variables in ({}, {"ATLAS_KV_RAM": "8M"}, {"ATLAS_KV_RAM": "8M", "ATLAS_KV_DISK": disk, "ATLAS_KV_DISK_LIMIT": "8G"}):
            result = run(["llama-bench", "--list-devices"], args.plugin, **variables)
            found = re.search(r"ATLAS0: [^\n]*\((\d+) MiB, (\d+) MiB free\)", result.stdout + result.stderr)
            require(found, f"no device in\n{result.stdout}\n{result.stderr[-1000:]}")
            print(variables, found[0])
            result = run(["llama-completion", "-m", args.model, "-p", "Once", "-n", "2", "-no-cnv", "--no-warmup", "-t", "2", "-lv", "4"], args.plugin, **variables)
            layers = re.search(r"offloaded (\d+)/(\d+) layers", result.stdout + result.stderr)
            require(layers and layers[1] == layers[2], f"{variables}: {layers and layers[0]}\n{result.stderr[-2000:]}")
            require("CPU KV buffer" not in result.stdout + result.stderr, f"{variables}: a cache is not Atlas's\n{result.stderr[-2000:]}")


SCENARIOS = {function.__name__: function for function in (greedy, single_keys, quantised, lru, memory, slots, context_shift, slot_save, layer_in_pieces, full_disk, rare_faults,
                                                          with_weights, bad_settings, capacity)}

if __name__ == "__main__":
    scenarios.main(__doc__, SCENARIOS)
