"""Tables, CSV and a picture of a benchmark's runs."""

import csv
import math
import os

from llama_bench import Run


def exponent(points):
    """Least-squares slope of log(seconds) over log(tokens): 1 is linear time, 2 is quadratic."""
    logs = [(math.log(tokens), math.log(seconds)) for tokens, seconds in points]
    mean_x = sum(x for x, _ in logs) / len(logs)
    mean_y = sum(y for _, y in logs) / len(logs)
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)


def table(runs, baseline):
    """Markdown: one row per test and depth, a column per variant, ratios to the baseline of the same row."""
    variants = list(dict.fromkeys(run.variant for run in runs))
    lines = ["| test | tokens | " + " | ".join(f"{v} t/s (min–max)" for v in variants) + " | ratio | peak MiB |",
             "|---|---:|" + "---:|" * (len(variants) + 2)]
    for test, name in (("prefill", "prefill at depth"), ("decode", "decode at depth"), ("whole", "whole prompt")):
        for depth in sorted({run.size for run in runs if run.test == test}):
            found = {run.variant: run for run in runs if run.test == test and run.size == depth}
            if not found:
                continue
            cells = [f"{f.median:.1f} ({min(f.tokens_per_second):.1f}–{max(f.tokens_per_second):.1f})" if f else "–"
                     for f in (found.get(v) for v in variants)]
            base = found.get(baseline)
            ratios = [f"{found[v].median / base.median:.2f}×" for v in variants if base and v in found and v != baseline]
            memory = " / ".join(f"{found[v].peak_rss_mib:.0f}" for v in variants if v in found)
            lines.append(f"| {name} | {depth} | " + " | ".join(cells) + f" | {', '.join(ratios) or '–'} | {memory} |")
    return "\n".join(lines)


def write_csv(path, runs):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["variant", "test", "depth", "prompt", "generate", "median_tokens_per_second", "samples", "peak_rss_mib"])
        for run in runs:
            samples = " ".join(f"{sample:.3f}" for sample in run.tokens_per_second)
            writer.writerow([run.variant, run.test, run.depth, run.prompt, run.generate, f"{run.median:.3f}", samples,
                             f"{run.peak_rss_mib:.1f}"])


def read_csv(path):
    """What write_csv wrote; nothing if the file is not there."""
    if not os.path.exists(path):
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [Run(row["variant"], int(row["depth"]), int(row["prompt"]), int(row["generate"]), [float(s) for s in row["samples"].split()],
                    float(row["peak_rss_mib"]), row["test"] == "whole") for row in csv.DictReader(file)]


def write_picture(path, runs, title):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tests = [test for test in ("decode", "prefill", "whole") if any(run.test == test for run in runs)]
    figure, axes = pyplot.subplots(1, max(len(tests), 1), figsize=(5 * max(len(tests), 1), 4.2), squeeze=False)
    for axis, test in zip(axes[0], tests):
        for variant in dict.fromkeys(run.variant for run in runs):
            points = sorted((run.size, 1000 / run.median, [1000 / s for s in run.tokens_per_second])
                            for run in runs if run.variant == variant and run.test == test)
            if not points:
                continue
            depths = [depth for depth, _, _ in points]
            (line,) = axis.plot(depths, [cost for _, cost, _ in points], marker="o", label=variant)
            axis.fill_between(depths, [min(s) for _, _, s in points], [max(s) for _, _, s in points], color=line.get_color(),
                              alpha=0.2)
        axis.set(title={"whole": "whole prompt"}.get(test, test), ylabel="milliseconds per token",
                 xlabel="tokens of the prompt" if test == "whole" else "tokens already in the context")
        axis.set_yscale("log")
        axis.grid(True, which="both", alpha=0.3)
        axis.legend()
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
