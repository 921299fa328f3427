#!/usr/bin/env python3
"""Unmodified llama.cpp programs with ATLAS_RAM, one number for weights and KV cache, which splits itself: what they say must be what they say without it, bit
for bit, and both must stay within it. One scenario per call.
"""

import json
import re

import scenarios
from beyond_memory import TOKENS, answers, complete, errors, folder, refused, serve, talk, three_slots
from scenarios import equal, require, sample

from llama_program import atlas_lines, run
from llama_server import Refused

SPARSE = {"ATLAS_MODE": "sparse", "ATLAS_THRESHOLD": 256, "ATLAS_WINDOW": 128, "ATLAS_BUDGET": 256, "ATLAS_BUDGET_FLOOR": 64}
MODES = {"exact": {}, "sparse": SPARSE}
# The model has 10.4 MiB, and a cache of 4096 cells 12 MiB, its index 1.2; this text fills some 3.5 of these.
PROMPT = 6000
MIB = 1 << 20


def compare(args, variables, ram, work, *arguments, disk=None):
    """The same without it and with it; the statistics of the latter and the lines about the split."""
    right, _ = answers(args, variables, work, *arguments)
    said = []

    def noting(server):
        result = work(server)
        said.extend(line for line in atlas_lines(server.log()) if "ATLAS_RAM=" in line)
        return result
    ours, stats = answers(args, {**variables, "ATLAS_RAM": ram, **({"ATLAS_KV_DISK": disk} if disk else {})}, noting, *arguments)
    print(ram, stats["ram"], stats["weights"], *said, sep="\n")
    equal(json.dumps(right, indent=1), json.dumps(ours, indent=1), f"without a budget, and with {ram}")
    shares, weights = stats["ram"], stats["weights"]
    require(shares["weights"] + shares["kv"] == shares["limit"], f"does not add up: {shares}")
    require(weights["ram"] == shares["weights"], f"weights do not have their share: {stats}")
    require(weights["pinned_bytes"] + weights["ring_bytes"] <= shares["weights"] or weights["reads"] == 0, f"weights have more than their share: {stats}")
    require(len(said) == shares["splits"], f"{shares['splits']} splits and {len(said)} lines")
    return stats, said


def both(server):
    return talk(server, sample(PROMPT))


def fits(args):
    """All has room: weights are read where they are mapped, and nothing is warned of."""
    for variables in MODES.values():
        stats, said = compare(args, variables, "64M", both)
        require(stats["weights"]["reads"] == 0, f"what fits was read: {stats}")
        require(stats["ram"]["splits"] == 1 and "[info]" in said[0], f"{said}")
        require(re.search(r"ATLAS_RAM=64M: weights ([\d.]+) MiB of \1 MiB, KV cache ([\d.]+) MiB of \2 MiB$", said[0]), said[0])


def grows(args):
    """All but a full cache has room: weights stay until the cache has grown, and give way."""
    for mode, ram in (("exact", "14M"), ("sparse", "15872K")):
        stats, said = compare(args, MODES[mode], ram, both)
        shares = stats["ram"]
        require(shares["weights"] < shares["weights_needed"], f"the cache has not grown: {shares}")
        require(3 <= shares["splits"] <= 10, f"{shares}")
        require(stats["weights"]["passes"] > 0 and stats["weights"]["read_bytes"] > 0, f"nothing was streamed: {stats}")
        require(re.search(r"\[info\].*weights ([\d.]+) MiB of \1 MiB.*as it grows and weights give way", said[0]), said[0])
        warned = [line for line in said if "[warning]" in line]
        require(len(warned) == 1 and "are read from their file for each batch" in warned[0], f"{warned}")


def little(args):
    """Weights are larger than all that there is."""
    stats, _ = compare(args, {}, "10M", both)
    require(stats["weights"]["read_bytes"] > stats["weights"]["weight_bytes"], f"{stats}")


def disk(args):
    """Neither fits: a quarter for the KV cache, which goes to disk beyond it."""
    for mode, variables in MODES.items():
        with folder() as path:
            stats, said = compare(args, variables, "8M", both, disk=path)
        shares, kv = stats["ram"], stats["kv"]
        require(shares["kv_limit"] == kv["ram_limit"] == 2 * MIB, f"{mode}: no quarter: {stats}")
        require(kv["ram_bytes"] <= kv["ram_limit"], f"{mode}: over its share: {kv}")
        require(kv["read_bytes"] > MIB and stats["weights"]["read_bytes"] > MIB, f"{mode}: little was read: {stats}")
        require(kv["corrupt"] + kv["read_errors"] + kv["write_errors"] == 0, f"{mode}: {kv}")
        require("goes to ATLAS_KV_DISK" in said[0], said[0])


def slots(args):
    compare(args, {}, "14M", lambda server: three_slots(server, 1200), "-np", "3", "--no-kv-unified")


def draft(args):
    """Two models and two caches share it."""
    def work(server):
        return server.complete(sample(600), TOKENS)["content"]
    stats, _ = compare(args, {}, "16M", work, "-md", args.model, "--spec-type", "draft-simple")
    require(stats["ram"]["weights_needed"] > 20 * 1000 * 1000 and stats["ram"]["kv_needed"] > 20 * MIB, f"not both: {stats['ram']}")
    require(stats["weights"]["read_bytes"] > 0, f"{stats}")


def full(args):
    """Without a disk a cache may have all that weights can do without; what needs more fails, with one line."""
    with serve(args, {"ATLAS_RAM": "6M"}) as server:
        server.complete(sample(2000), 4, cache_prompt=False)
        try:
            server.complete(sample(PROMPT), 4, cache_prompt=False)
            raise scenarios.Failed("an answer without room")
        except Refused:
            pass
        told = errors(server.log())
        require(len(told) == 1 and "ATLAS_RAM's share for the KV cache=4194304" in told[0], f"{told}")
        require("a context that needs more fails a decode" in server.log(), server.log()[-2000:])
        require(server.complete(sample(1000), 4, cache_prompt=False)["content"], "no answer afterwards")


def bad_settings(args):
    refused(args, (({"ATLAS_RAM": "1000"}, r"ATLAS_RAM=1000: allowed is 0, or 4194304"),
                   ({"ATLAS_RAM": "lots"}, r"ATLAS_RAM=lots: allowed is a number of bytes"),
                   ({"ATLAS_RAM": "8M", "ATLAS_KV_RAM": "4M"}, r"ATLAS_RAM=8M: allowed is 0 with ATLAS_KV_RAM=4M"),
                   ({"ATLAS_RAM": "8M", "ATLAS_WEIGHTS_RAM": "4M"}, r"ATLAS_RAM=8M: allowed is 0 with ATLAS_WEIGHTS_RAM=4M"),
                   ({"ATLAS_RAM": "8M", "ATLAS_WEIGHTS": "host"}, r"ATLAS_RAM=8M: allowed is 0 with ATLAS_WEIGHTS=host"),
                   ({"ATLAS_RAM": "8M", "ATLAS_DEVICE": "accel"}, r"ATLAS_RAM=8M: allowed is 0 with ATLAS_DEVICE=accel"),
                   ({"ATLAS_RAM": "8M", "ATLAS_TEST_FAULTS": "x=1"}, r"ATLAS_TEST_FAULTS has 'x=1'")))


def fit(args):
    """-fit leaves context and layers as they are, although the device may have less memory than they take."""
    with folder() as path:
        for variables in ({}, {"ATLAS_KV_DISK": path}):
            result = run(["llama-completion", "-m", args.model, "-p", "Once", "-n", "2", "--temp", "0", "-no-cnv", "--simple-io", "-fit", "on", "-v"],
                         args.plugin, **{"ATLAS_RAM": "8M", **variables})
            require(result.returncode == 0, f"status {result.returncode}\n{result.stderr[-2000:]}")
            trained = re.search(r"n_ctx_train += (\d+)", result.stderr)
            # The last ones are of the program itself, those before it of its trials.
            context = re.findall(r"llama_context: n_ctx += (\d+)", result.stderr)
            layers = re.findall(r"offloaded (\d+)/(\d+) layers", result.stderr)
            print(re.findall(r"projected to use [^\n]*", result.stderr), context, layers)
            require(trained and context and trained[1] == context[-1], f"trained for {trained}, contexts {context}")
            require(layers and layers[-1][0] == layers[-1][1], f"not all layers are Atlas's: {layers}")


SCENARIOS = {function.__name__: function for function in (fits, grows, little, disk, slots, draft, full, bad_settings, fit)}

if __name__ == "__main__":
    scenarios.main(__doc__, SCENARIOS)
