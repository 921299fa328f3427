#!/usr/bin/env python3
"""Decode, prefill and whole prompts with and without Atlas over context depths: table, CSV, picture and the scaling exponent.

All variants run the same program on the same unmodified llama.cpp and model in turn, each in a process of its own, so drift of the machine hits
all. Depths are measured with deep_bench, which copies what the cache holds until the depth is reached, or, where --deep-bench is not given, with
llama-bench, which computes every token of the depth; whole prompts with llama-bench. Without -m a model of random weights is made (see
make_model.py); `8b-4l` has four of an 8B model's 32 layers, so its token costs are about an eighth.
"""

import argparse
import os
import sys
import tempfile

import llama_bench
import report
from make_model import SHAPES, write_model


MAX_SQUARED_ERROR = 0.01  # of logits through f16 or quantised keys, relative
# Deeper, llama.cpp's logits depend as much on its number of threads (0.0075 of their squares at 32768 tokens, 12M shape), while Atlas's are those
# of its float64 kernels with any number: docs/design/experiments.md.
JUDGED_DEPTH = 16384


def numbers(text):
    return [int(item) for item in text.split(",") if item]


def parse_variant(text):
    """NAME, or NAME:VAR=VALUE,VAR=VALUE."""
    name, _, settings = text.partition(":")
    return name, dict(item.split("=", 1) for item in settings.split(",") if item)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plugin", required=True, help="libggml-atlas.so")
    parser.add_argument("--deep-bench", help="the program built from deep_bench.cpp; without it llama-bench measures the depths")
    parser.add_argument("-m", "--model", help="GGUF file")
    parser.add_argument("--shape", choices=SHAPES, default="attn12m")
    parser.add_argument("--depths", type=numbers, default="0,2048,8192,32768,65536,131072", help="tokens already in the context")
    parser.add_argument("--whole", type=numbers, default="8192,32768,131072", help="prompts read from the beginning; empty: none")
    parser.add_argument("--baseline-max-depth", type=int, default=1 << 20, help="deeper rows of decode and prefill run in sparse mode only")
    parser.add_argument("--baseline-max-whole", type=int, default=65536, help="longer whole prompts do")
    parser.add_argument("--variant", action="append", type=parse_variant,
                        help="NAME[:VAR=VALUE,…]; default: exact, and sparse:ATLAS_MODE=sparse")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--kv-types", default="f16,q8_0")
    parser.add_argument("--timeout", type=int, default=1800, help="seconds for one llama-bench")
    parser.add_argument("--output", default="bench", help="prefix of the files written")
    parser.add_argument("--append", action="store_true", help="keep the rows of the CSV files that are there, and do not measure them again")
    args = parser.parse_args()
    args.plugin = os.path.abspath(args.plugin)
    if not os.path.exists(args.plugin):
        parser.error(f"--plugin {args.plugin}: no such file")
    return args


def measure(args, model, kv_type):
    variants = [("llama.cpp", None, {})] + [(name, args.plugin, extra) for name, extra in args.variant or
                                            [("exact", {}), ("sparse", {"ATLAS_MODE": "sparse"})]]
    # Exact attention grows as llama.cpp's does, so both have the same limit.
    plan = [(depth, whole, variant) for whole, depths, limit in ((False, args.depths, args.baseline_max_depth), (True, args.whole, args.baseline_max_whole))
            for depth in depths for variant in variants if depth <= limit or variant[2].get("ATLAS_MODE") == "sparse"]
    runs, failures, logits = report.read_csv(f"{args.output}-{kv_type}.csv") if args.append else [], [], {}
    for done, (depth, whole, (name, plugin, extra)) in enumerate(plan):
        llama_bench.progress(done, len(plan), f"{name}, {kv_type} KV, {'prompt' if whole else 'depth'} {depth}")
        if any(run.variant == name and run.whole == whole and run.size == depth for run in runs):
            continue
        settings = (args.threads, args.repetitions, kv_type, args.timeout)
        try:
            if whole:
                runs += llama_bench.run_llama_bench(name, plugin, extra, model, 0, depth, 0, args.threads, 1, kv_type, args.timeout)
            elif args.deep_bench:
                found, logits[name, depth] = llama_bench.run_deep_bench(args.deep_bench, name, plugin, extra, model, depth, args.prompt,
                                                                        args.generate, *settings)
                runs += found
            else:
                runs += llama_bench.run_llama_bench(name, plugin, extra, model, depth, args.prompt, args.generate, *settings)
        except RuntimeError as error:
            failures.append(str(error))
        report.write_csv(f"{args.output}-{kv_type}.csv", runs)
    llama_bench.progress(len(plan), len(plan), "done")
    return runs, failures + disagreements(logits)


def disagreements(logits):
    """Exact attention behind the same copied cache has to give llama.cpp's logits but for rounding."""
    lines = []
    for (name, depth), found in logits.items():
        expected = logits.get(("llama.cpp", depth))
        if name == "exact" and expected and depth <= JUDGED_DEPTH:
            error = sum((a - b) ** 2 for a, b in zip(found, expected)) / sum(b * b for b in expected)
            if not error < MAX_SQUARED_ERROR:
                lines.append(f"depth {depth}: the logits of exact differ from llama.cpp's by {error:.2g} of their squares")
    return lines


def exponents(runs):
    """How cost grows: per token with the depth, and of whole prompts with their length (1 is linear), from 2048 and 8192 tokens on."""
    text = ""
    for variant in dict.fromkeys(run.variant for run in runs):
        for test, first, what in (("decode", 2048, "decode time per token grows with depth"),
                                  ("prefill", 2048, "prefill time per token grows with depth"),
                                  ("whole", 8192, "the time of a whole prompt grows with its length")):
            mine = [run for run in runs if run.variant == variant and run.test == test and run.size >= first]
            costs = [(run.size, (run.size if test == "whole" else 1) / run.median) for run in mine]
            if len(costs) > 1:
                text += f"\n{variant}: {what}^{report.exponent(costs):.2f} from {costs[0][0]} to {costs[-1][0]}."
    return text + "\n"


def main():
    args = parse_arguments()
    failures = []
    text = ""
    with tempfile.TemporaryDirectory() as folder:
        model = args.model
        if not model:
            model = os.path.join(folder, f"{args.shape}.gguf")
            write_model(model, *SHAPES[args.shape], 1 << 20, 1)
        for kv_type in args.kv_types.split(","):
            runs, failed = measure(args, model, kv_type)
            failures += failed
            title = f"{os.path.basename(args.model) if args.model else args.shape}, {kv_type} KV, {args.threads} threads"
            part = f"### {title}\n\n{report.table(runs, 'llama.cpp')}\n{exponents(runs)}\n"
            print(part, flush=True)
            text += part
            report.write_csv(f"{args.output}-{kv_type}.csv", runs)
            report.write_picture(f"{args.output}-{kv_type}.png", runs, title)
    with open(args.output + ".md", "w", encoding="utf-8") as file:
        file.write(text)
    for failure in failures:
        print("failed: " + failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
