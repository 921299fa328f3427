#!/usr/bin/env python3
"""Perplexity of a text with and without Atlas (llama-perplexity, unmodified); fails when Atlas's is more than --allow worse."""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import demo


def perplexity(args, model, document, plugin):
    environment = {name: value for name, value in os.environ.items() if name != "GGML_BACKEND_PATH"}
    if plugin:
        environment["GGML_BACKEND_PATH"] = str(plugin)
    run = subprocess.run(["llama-perplexity", "-m", str(model), "-f", str(document), "-c", str(args.context), "--chunks", str(args.chunks),
                          "-t", str(args.threads), "--log-verbosity", "4"], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                         errors="replace", check=False)
    found = re.search(r"Final estimate: PPL = ([\d.]+) \+/- ([\d.]+)", run.stdout + run.stderr)
    if run.returncode != 0 or not found:
        sys.exit(f"llama-perplexity ended with status {run.returncode}:\n{run.stderr[-2000:]}")
    return float(found[1]), float(found[2])


def main():
    parser = argparse.ArgumentParser(description=__doc__, prog="./dev eval")
    parser.add_argument("--plugin", required=True, help=argparse.SUPPRESS)
    parser.add_argument("-m", "--model", help="GGUF file (default: the small model of this repository)")
    parser.add_argument("--file", help="text (default: the licence texts of the system)")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--allow", type=float, default=1.0, help="percent (default %(default)s)")
    args = parser.parse_args()
    demo.check_loads(args.plugin)
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or demo.default_model(folder)
        document = pathlib.Path(folder, "text.txt")
        document.write_text(demo.read_document(args), encoding="utf-8")
        base, spread = perplexity(args, model, document, None)
        ours, _ = perplexity(args, model, document, args.plugin)
    change = (ours / base - 1) * 100
    print(f"{args.chunks} chunks of {args.context} tokens: perplexity {base:.4f} ± {spread:.4f} by llama.cpp, {ours:.4f} with Atlas "
          f"({change:+.3f}%)")
    return 1 if change > args.allow else 0


if __name__ == "__main__":
    sys.exit(main())
