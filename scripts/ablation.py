#!/usr/bin/env python3
"""What each part of sparse attention is worth: runs `atlas eval` over its settings and prints a table.

  ./dev ablation -m model.gguf --text book.txt --perplexity 32768 --documents 2

With --batch 64 or less each token selects for itself what it reads, as when writing.
The second half of the documents is judged (what lies beyond the largest power of two below their length).
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys

# What the table says, and the mode of `atlas eval`.
ROWS = {
    "window only": "window",
    "**default**": "sparse",
    "what is not read left out": "sparse:ATLAS_REST=drop",
    "tiles of 8 tokens": "sparse:ATLAS_TILE=8",
    "tiles of 32 tokens": "sparse:ATLAS_TILE=32",
    "window 512": "sparse:ATLAS_WINDOW=512",
    "at least 256 keys": "sparse:ATLAS_BUDGET_FLOOR=256",
    "keys of half the share": "sparse:ATLAS_BUDGET_SHARE=0.00005",
    "keys of twice the share": "sparse:ATLAS_BUDGET_SHARE=0.0002",
    "with memories": "memory",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atlas", required=True, help="the launcher")
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--perplexity", type=int, default=32768)
    parser.add_argument("--documents", type=int, default=2)
    parser.add_argument("--batch", type=int, default=512, help="tokens read at a time")
    parser.add_argument("--rows", default="", help="parts of the rows' names, separated by commas; empty: all")
    parser.add_argument("-o", "--output", default="ablation", help="folder of atlas eval's report")
    args = parser.parse_args()
    wanted = [part for part in args.rows.split(",") if part]
    rows = {name: mode for name, mode in ROWS.items() if not wanted or any(part in name for part in wanted)}
    if args.batch <= 64:
        rows = {name: mode for name, mode in rows.items() if "tiles" not in name}
    subprocess.run([args.atlas, "eval", "-m", args.model, "--text", args.text, "--tasks", "none", "--perplexity", str(args.perplexity),
                    "--documents", str(args.documents), "--batch", str(args.batch), "--modes", ",".join(["exact", *rows.values()]), "-o", args.output],
                   check=True, stdout=subprocess.DEVNULL)
    report = json.loads(pathlib.Path(args.output, "report.json").read_text(encoding="utf-8"))
    results = {mode["name"]: mode["result"]["perplexity"] for mode in report["modes"]}
    exact = results["exact"]["by_position"][-1]
    print(f"{pathlib.Path(args.model).name}, {args.documents} documents of {args.perplexity} tokens, {args.batch} at a time, "
          f"judged from token {exact['from']} on; exact: perplexity {math.exp(exact['loss']):.2f}\n")
    print("| setting | perplexity of exact | KL divergence | same likeliest token |\n|---|--:|--:|--:|")
    for name, mode in rows.items():
        found = results[mode]
        kl = found["kl"]["by_position"][-1]
        ratio = math.exp(found["by_position"][-1]["loss"] - exact["loss"])
        print(f"| {name} | {ratio:.4f} | {kl['mean']:.4f} | {100 * kl['same_top_token']:.1f} % |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
