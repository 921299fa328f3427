#!/usr/bin/env python3
"""Runs bench_memory; prints its tables, writes PREFIX.csv and PREFIX.png. Recall is the share of pairs whose value is found by cosine."""

import argparse
import csv
import subprocess
import sys

# One seed, from the literature study: what the capacity table is to reproduce (32, 128, 512 pairs).
PUBLISHED = {"Hebb φ1": (100, 51, 5), "ridge φ1": (100, 56, 5), "delta φ2": (100, 100, 74), "ridge φ2": (100, 100, 100),
             "MLP φ1 c=1": (84, 41, 12), "MLP φ1 Ω16": (100, 52, 15), "MLP φ1 Ω16 Muon": (94, 59, 17)}


def recall_table(rows, published=None):
    sizes = sorted({int(row[2]) for row in rows})
    lines = ["| memory | " + " | ".join(f"{size} pairs" for size in sizes) + (" | reference |" if published else " |"),
             "|---|" + "---:|" * (len(sizes) + bool(published))]
    for name in dict.fromkeys(row[1] for row in rows):
        cells = []
        for size in sizes:
            shares = [100 * float(row[4]) for row in rows if row[1] == name and int(row[2]) == size]
            cells.append(f"{sum(shares) / len(shares):.0f} ({min(shares):.0f}–{max(shares):.0f})")
        if published:
            cells.append(" / ".join(map(str, published[name])) if name in published else "–")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def throughput_table(rows):
    lines = ["| part | d | chunk | window | µs (min–max) | Mflop | of f32 peak |", "|---|---:|---:|---:|---:|---:|---:|"]
    for _, part, d, chunk, window, median, low, high, flops, share in rows:
        lines.append(f"| {part} | {d} | {chunk} | {window} | {float(median):.1f} ({float(low):.1f}–{float(high):.1f}) | {float(flops) / 1e6:.2f} | "
                     f"{100 * float(share):.0f} % |")
    return "\n".join(lines)


def picture(path, rows):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2))
    for axis, table in zip(axes, ("capacity", "ablation")):
        part = [row for row in rows if row[0] == table]
        for name in dict.fromkeys(row[1] for row in part):
            points = {}
            for row in part:
                if row[1] == name:
                    points.setdefault(int(row[2]), []).append(100 * float(row[4]))
            sizes = sorted(points)
            (line,) = axis.plot(sizes, [sum(points[s]) / len(points[s]) for s in sizes], marker="o", label=name)
            axis.fill_between(sizes, [min(points[s]) for s in sizes], [max(points[s]) for s in sizes], color=line.get_color(), alpha=0.2)
        axis.set(title=table, xlabel="pairs", ylabel="recall, %", ylim=(0, 103))
        axis.set_xscale("log", base=2)
        axis.grid(True, which="both", alpha=0.3)
        axis.legend(fontsize=8)
    figure.suptitle("Recall after one pass, d = 32")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True, help="bench_memory")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--throughput", action="store_true", help="only the timings")
    parser.add_argument("--output", default="bench_memory", help="prefix of the files written")
    args = parser.parse_args()
    command = [args.binary, "--seeds", str(args.seeds)] + (["--throughput"] if args.throughput else [])
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = list(csv.reader(output.splitlines()))
    tables = {name: [row for row in rows if row[0] == name] for name in ("capacity", "ablation", "throughput")}
    (peak,) = [float(row[1]) for row in rows if row[0] == "peak"]
    print(f"One thread, f32 peak {peak / 1e9:.0f} Gflop/s\n\n{throughput_table(tables['throughput'])}")
    if not args.throughput:
        print(f"\nRecall, %: mean (min–max) of {args.seeds} seeds\n\n{recall_table(tables['capacity'], PUBLISHED)}\n\n{recall_table(tables['ablation'])}")
        picture(args.output + ".png", rows)
    with open(args.output + ".csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    # A benchmark that measures nothing or nonsense fails.
    shares = [float(row[4]) for row in tables["capacity"] + tables["ablation"]]
    return 0 if tables["throughput"] and all(0 <= share <= 1 for share in shares) else 1


if __name__ == "__main__":
    sys.exit(main())
