#!/usr/bin/env python3
"""deep_bench: behind a cache made of copies, exact attention gives llama.cpp's logits, and every decoded token sees the whole depth."""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks/end_to_end"))

from llama_bench import environment  # noqa: E402

BEGINNING, DEPTH, FEW, MANY, PAGE = 300, 1501, 4, 36, 64


def deep_bench(args, plugin, extra, generate, kv_type, prompt=8):
    command = [args.deep_bench, "-m", args.model, "--beginning", str(BEGINNING), "-d", str(DEPTH), "-n", str(generate), "-p", str(prompt), "-r", "1",
               "-t", "2", "--kv-type", kv_type]
    result = subprocess.run(command, env={**environment(plugin, extra), "OMP_WAIT_POLICY": "passive"}, capture_output=True, text=True, timeout=300,
                            check=False)
    if result.returncode != 0 or bool(plugin) != ("ATLAS0" in result.stderr):
        sys.exit(f"{command}: status {result.returncode}\n{result.stderr}")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    if [len(row.get("samples_ts", [])) for row in rows] != ([0, 1, 1] if prompt else [0, 1]):
        sys.exit(f"expected logits, one decode and, if asked for, one prefill:\n{result.stdout}")
    return rows[0]["logits"]


def check_text(args):
    """Behind a text, at several depths, by several batches; a text that is too short is named."""
    with tempfile.TemporaryDirectory() as folder:
        text = pathlib.Path(folder, "text.txt")
        command = [args.deep_bench, "-m", args.model, "--text", text, "-d", "64,128", "-n", "2", "-p", "4,8", "-r", "1", "-t", "2"]
        logits = []
        for words in ("The man went along the road to the village. ", "A ship came over the sea into the harbour. "):
            text.write_text(30 * words, encoding="utf-8")
            result = subprocess.run(command, env=environment(args.plugin, {}), capture_output=True, text=True, timeout=300, check=False)
            rows = [json.loads(line) for line in result.stdout.splitlines()]
            tests = [(row["depth"], row.get("n_gen", 0), row.get("n_prompt", 0)) for row in rows]
            if tests != [(depth, *test) for depth in (64, 128) for test in ((0, 0), (2, 0), (0, 4), (0, 8))]:
                sys.exit(f"not the tests that were asked for: {tests}\n{result.stderr}")
            logits.append(rows[0]["logits"])
        if logits[0] == logits[1]:
            sys.exit("two texts gave the same logits")
        text.write_text("Short.", encoding="utf-8")
        result = subprocess.run(command, env=environment(args.plugin, {}), capture_output=True, text=True, timeout=300, check=False)
        if result.returncode != 1 or "text.txt: " not in result.stderr or "136 are needed" not in result.stderr:
            sys.exit(f"a text that is too short: status {result.returncode}, {result.stderr}")


def visible(args, generate):
    """Calls of one token each that were planned, and the sum of what they see, in the first layer."""
    with tempfile.TemporaryDirectory() as folder:
        stats = pathlib.Path(folder, "stats.json")
        # The window holds the whole beginning, which is exact then: what is counted are single tokens.
        options = {"ATLAS_MODE": "sparse", "ATLAS_THRESHOLD": "64", "ATLAS_WINDOW": "512", "ATLAS_STATS": str(stats)}
        deep_bench(args, args.plugin, options, generate, "f16", prompt=0)
        layer = json.loads(stats.read_text(encoding="utf-8"))["layers"][0]
    planned = layer["calls"] - layer["exact_calls"]
    return planned, planned * layer["visible_keys"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("deep-bench", "plugin", "model"):
        parser.add_argument("--" + name, required=True)
    args = parser.parse_args()
    for kv_type in ("f16", "q8_0"):
        host = deep_bench(args, None, {}, FEW, kv_type)
        exact = deep_bench(args, args.plugin, {}, FEW, kv_type)
        error = sum((a - b) ** 2 for a, b in zip(host, exact)) / sum(b * b for b in host)
        print(f"{kv_type}: squared error of the logits {error:.2g}")
        if not error < 1e-3:
            return 1
    check_text(args)
    few, many = visible(args, FEW), visible(args, MANY)
    if many[0] - few[0] != MANY - FEW:
        sys.exit(f"{MANY - FEW} more tokens made {many[0] - few[0]} more calls of sparse attention")
    got = (many[1] - few[1]) / (MANY - FEW)
    # A plan is kept while the newest page fills: its count is from when the page was begun, or the run.
    expected = sum(DEPTH + 1 + token for token in range(FEW, MANY)) / (MANY - FEW)
    # The statistics' mean has one digit behind the point.
    slack = 0.05 * (few[0] + many[0]) / (MANY - FEW)
    print(f"a decoded token sees {got:.1f} keys, expected {expected - PAGE} to {expected} ± {slack:.1f}")
    return 0 if expected - PAGE - slack <= got <= expected + slack else 1


if __name__ == "__main__":
    sys.exit(main())
