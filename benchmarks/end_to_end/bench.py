#!/usr/bin/env python3
"""llama-bench with and without Atlas over context depths: table, CSV, picture and the scaling exponent.

Both variants run the same unmodified program on the same model in turn, so drift of the machine hits both. Without -m a model of
random weights is made (see make_model.py); `8b-4l` has four of an 8B model's 32 layers, so its token costs are about an eighth.
"""

import argparse
import os
import sys
import tempfile

import llama_bench
import report
from make_model import SHAPES, write_model


def parse_variant(text):
    """NAME, or NAME:VAR=VALUE,VAR=VALUE."""
    name, _, settings = text.partition(":")
    return name, dict(item.split("=", 1) for item in settings.split(",") if item)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plugin", required=True, help="libggml-atlas.so")
    parser.add_argument("-m", "--model", help="GGUF file")
    parser.add_argument("--shape", choices=SHAPES, default="attn12m")
    parser.add_argument("--depths", default="0,2048,8192,32768")
    parser.add_argument("--baseline-max-depth", type=int, default=32768, help="deeper rows run without llama.cpp's own attention")
    parser.add_argument("--variant", action="append", type=parse_variant, help="NAME[:VAR=VALUE,…]; default: atlas")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--kv-type", default="f16")
    parser.add_argument("--timeout", type=int, default=1800, help="seconds for one llama-bench")
    parser.add_argument("--output", default="bench", help="prefix of the files written")
    args = parser.parse_args()
    args.plugin = os.path.abspath(args.plugin)
    if not os.path.exists(args.plugin):
        parser.error(f"--plugin {args.plugin}: no such file")
    try:
        args.depths = [int(depth) for depth in args.depths.split(",")]
    except ValueError:
        parser.error(f"--depths {args.depths}: whole numbers separated by commas")
    return args


def measure(args, model):
    variants = [("llama.cpp", None, {})] + [(name, args.plugin, extra) for name, extra in args.variant or [("atlas", {})]]
    plan = [(depth, variant) for depth in args.depths for variant in variants
            if variant[1] or depth <= args.baseline_max_depth]
    runs, failures = [], []
    for done, (depth, (name, plugin, extra)) in enumerate(plan):
        llama_bench.progress(done, len(plan), f"{name}, depth {depth}")
        try:
            runs += llama_bench.run_llama_bench(name, plugin, extra, model, depth, args.prompt, args.generate, args.threads,
                                                args.repetitions, args.kv_type, args.timeout)
        except RuntimeError as error:
            failures.append(str(error))
    llama_bench.progress(len(plan), len(plan), "done")
    return runs, failures


def main():
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model
        if not model:
            model = os.path.join(folder, f"{args.shape}.gguf")
            write_model(model, *SHAPES[args.shape], 1 << 20, 1)
        runs, failures = measure(args, model)
    title = f"{os.path.basename(args.model) if args.model else args.shape}, {args.kv_type} KV, {args.threads} threads"
    text = f"### {title}\n\n{report.table(runs, 'llama.cpp')}\n"
    for variant in dict.fromkeys(run.variant for run in runs):
        costs = [(run.depth, 1 / run.median) for run in runs if run.variant == variant and run.test == "decode" and run.depth >= 2048]
        if len(costs) > 1:
            text += f"\n{variant}: decode time per token grows with depth^{report.exponent(costs):.2f} from {costs[0][0]} on.\n"
    print(text)
    with open(args.output + ".md", "w", encoding="utf-8") as file:
        file.write(text)
    report.write_csv(args.output + ".csv", runs)
    report.write_picture(args.output + ".png", runs, title)
    for failure in failures:
        print("failed: " + failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
