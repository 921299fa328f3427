#!/usr/bin/env python3
"""Activation sparsity on a model in f16: tokens a second, and how far the next token's probabilities are off, at several shares of left-out inputs, beside unmodified
llama.cpp in turn with it. A model in another type is written anew in f16 first (llama-quantize), which changes no weight: what is measured is the module, not the type.

    sparsity.py --bench SPARSITY_BENCH --plugin LIBGGML-ATLAS.SO -m MODEL [--text FILE] [--rounds 5]
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from llama_program import clean_environment  # noqa: E402


def run(command, **variables):
    done = subprocess.run([str(part) for part in command], env=clean_environment(None, **variables), stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, errors="replace", check=False)
    if done.returncode != 0:
        sys.exit(f"sparsity: {' '.join(map(str, command))}: status {done.returncode}\n{done.stdout[-500:]}{done.stderr[-1500:]}")
    return done.stdout


def cell(values):
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True)
    parser.add_argument("--plugin", required=True)
    parser.add_argument("-m", "--model", type=pathlib.Path, required=True)
    parser.add_argument("--text", default=ROOT / "tests/models/sample.txt")
    parser.add_argument("--shares", default="0,0.25,0.4,0.5,0.6")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="atlas-sparsity-") as name:
        model = pathlib.Path(name) / "f16.gguf"
        run(["llama-quantize", "--allow-requantize", "--pure", args.model, model, "F16"])
        common = ["-m", model, "--text", args.text, "--tokens", args.tokens, "--threads", args.threads, "--rounds", 1]
        plain, atlas = [], []
        for _ in range(args.rounds):
            plain.append(json.loads(run([args.bench, *common]))[0])
            atlas.append(json.loads(run([args.bench, *common, "--plugin", args.plugin, "--shares", args.shares])))
    host = [one["rates"][0] for one in plain]
    print(f"{args.tokens} tokens one by one behind 64, {args.threads} threads, {args.rounds} rounds in turn; medians (least–most). Divergence: KL from Atlas without "
          "sparsity, nats a token.\n")
    print("| left out | tokens a second | to llama.cpp | to 0 | divergence | same likeliest token | perplexity |\n|---|--:|--:|--:|--:|--:|--:|")
    print(f"| llama.cpp | {cell(host)} | 1 | | | | {plain[0]['perplexity']:.2f} |")
    dense = [one[0]["rates"][0] for one in atlas]
    for i, share in enumerate(args.shares.split(",")):
        rates = [one[i]["rates"][0] for one in atlas]
        to_host, to_dense = (statistics.median(rate / other for rate, other in zip(rates, others)) for others in (host, dense))
        first = atlas[0][i]
        print(f"| {100 * float(share):.0f} % | {cell(rates)} | {to_host:.2f} | {to_dense:.2f} | {first['divergence']:.4f} | {100 * first['same']:.1f} % | "
              f"{first['perplexity']:.2f} |")


if __name__ == "__main__":
    main()
