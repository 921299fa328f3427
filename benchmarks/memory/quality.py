#!/usr/bin/env python3
"""What memories do for a trained model: `atlas eval` in modes that differ in the memory only, one row each.

Fails when a memory is worse than none: more than 2 % more KL divergence at a length, or more than 0.005 nats more loss in a range of positions
than the estimate that it corrects, whichever is measured.
"""

import argparse
import json
import pathlib
import subprocess
import sys


# What ATLAS_BUDGET_FLOOR and ATLAS_BUDGET are by default (docs/options.md): keys that a query selects at least and at most.
LEAST_KEYS, MOST_KEYS = 64, 2048

EXACT, WITHOUT, WITH, CALIBRATED = "exact", "estimate, no memory", "estimate + memory, from nothing", "estimate + memory, from the side-car"


def modes(head_size, side_car, brief):
    """(row, mode of atlas eval). The memory of a head is worth `keys` keys of f16 KV, which one row selects on top of the planner's default."""
    features = head_size + 1
    memory_bytes = 8 * features * (features + head_size + 2) + 4 * features * (head_size + 2)
    keys = memory_bytes // (4 * head_size)
    none = "ATLAS_SIDE_CAR=none"  # else the launcher takes the file beside the model
    rows = [(EXACT, "exact"),
            ("window + sinks", "window"),
            (WITHOUT, "sparse"),
            (f"estimate, the memory's bytes as {keys} more selected keys", f"sparse:ATLAS_BUDGET_FLOOR={LEAST_KEYS + keys}+ATLAS_BUDGET={MOST_KEYS + keys}"),
            (WITH, f"memory:{none}")]
    rows += [(CALIBRATED, f"memory:ATLAS_SIDE_CAR={side_car}")] if side_car else []
    rows += [("estimate, plain blend 0.1", f"memory:{none}+ATLAS_MEMORY_MODE=blend")]
    if not brief:
        rows += [("selection, the rest left out", "sparse:ATLAS_REST=drop"),
                 ("estimate + memory (`deep`)", f"memory:{none}+ATLAS_MEMORY_KIND=deep"),
                 ("estimate + memory, gate up to 0.1", f"memory:{none}+ATLAS_BLEND_RATIO=0.1"),
                 ("estimate, plain blend 0.02", f"memory:{none}+ATLAS_MEMORY_MODE=blend+ATLAS_BLEND_RATIO=0.02"),
                 ("window + sinks, plain blend 0.1", "window:ATLAS_MEMORY=1+ATLAS_MEMORY_MODE=blend")]
    return rows


def run(args, length, rows):
    folder = pathlib.Path(args.output) / str(length)
    command = [args.atlas, "eval", "-m", args.model, "--modes", ",".join(mode for _, mode in rows), "--perplexity", str(length), "--documents",
               str(args.documents), "--kl-positions", str(args.kl_positions), "--output", str(folder), "--threads", str(args.threads)]
    command += ["--text", *args.text] if args.text else []
    command += ["--tasks", *args.tasks, "--lengths", str(length), "--samples", str(args.samples)] if args.samples else ["--tasks", "none"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {name: mode["result"] for (name, _), mode in zip(rows, report["modes"])}


def table(length, results):
    exact = results[EXACT]["perplexity"]
    estimate = results[WITHOUT]["perplexity"]["kl"]["mean"]
    tasks = [(r["task"], r["length"]) for r in results[EXACT].get("retrieval", [])]
    lines = [f"| {length} tokens | perplexity | of exact | KL divergence | of the estimate's | same top token |" + "".join(f" {t} |" for t, _ in tasks),
             "|---|" + "---:|" * (5 + len(tasks))]
    for name, result in results.items():
        p = result["perplexity"]
        kl = p.get("kl")
        cells = [f"{p['perplexity']:.2f}", f"{p['perplexity'] / exact['perplexity']:.4f}"]
        cells += [f"{kl['mean']:.5f} ± {kl['error']:.5f}", f"{100 * kl['mean'] / estimate:.0f} %" if estimate > 0 else "–",
                  f"{100 * kl['same_top_token']:.1f} %"] if kl else ["0", "", ""]
        cells += [f"{r['hits']}/{len(r['trials'])}" for r in result.get("retrieval", [])]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def worse(what, without, with_memory):
    """Where the memory does harm, in words."""
    found = []
    a, b = without["perplexity"], with_memory["perplexity"]
    if b["kl"]["mean"] > 1.02 * a["kl"]["mean"]:
        found.append(f"{what}: KL divergence {b['kl']['mean']:.5f} instead of {a['kl']['mean']:.5f}")
    for one, other in zip(a["by_position"], b["by_position"]):
        if other["loss"] > one["loss"] + 0.005:
            found.append(f"{what}, positions {one['from']} to {one['to']}: loss {other['loss']:.4f} instead of {one['loss']:.4f}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atlas", required=True, help="the launcher")
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--text", nargs="*", default=[], help="files (default: atlas eval's own)")
    parser.add_argument("--lengths", default="8192,16384")
    parser.add_argument("--documents", type=int, default=2)
    parser.add_argument("--kl-positions", type=int, default=2048)
    parser.add_argument("--tasks", nargs="*", default=["single"])
    parser.add_argument("--samples", type=int, default=0, help="questions per task and length")
    parser.add_argument("--side-car", help="made by `atlas convert` from other text: one more row (docs/side-car.md)")
    parser.add_argument("--brief", action="store_true", help="only the rows that memories are judged by")
    parser.add_argument("--head-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--output", default="memory_quality", help="folder of the reports")
    args = parser.parse_args()
    harm = []
    for length in map(int, args.lengths.split(",")):
        results = run(args, length, modes(args.head_size, args.side_car, args.brief))
        print(table(length, results) + "\n", flush=True)
        for name in (WITH, CALIBRATED):
            if name in results:
                harm += worse(f"{name}, {length} tokens", results[WITHOUT], results[name])
    for line in harm:
        print("Worse than without memory: " + line, file=sys.stderr)
    return 1 if harm else 0


if __name__ == "__main__":
    sys.exit(main())
