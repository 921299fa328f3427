#!/usr/bin/env python3
"""Draws the Grafana dashboard of tools/grafana/atlas.json from what a real llama-server under Atlas says: clients ask it for a while (with half of what they need in memory, the rest on disk), its metrics are scraped
twice a second, and each panel's expressions are evaluated on the samples.

    dashboard.py --plugin LIBGGML-ATLAS.SO [--model MODEL] [--seconds 60] OUTPUT.png

Of PromQL it knows what the dashboard uses: a metric, rate() or increase() of one, a ratio of two, and "> 0". A rate is taken between neighbouring scrapes, over five seconds.
"""

import argparse
import concurrent.futures
import datetime
import json
import pathlib
import re
import threading
import time
import urllib.request

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from llama_server import LlamaServer  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[1]
INTERVAL = 0.5
RATE_OVER = 5.0
SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? ([0-9.e+-]+)")
UNITS = {"bytes": ("MiB", 1 << 20), "Bps": ("MiB/s", 1 << 20), "percentunit": ("%", 0.01)}
# So that a run of a minute has all that the dashboard shows: contexts beyond the threshold, memories, pages on disk.
SETTINGS = {"ATLAS_METRICS": "127.0.0.1:0", "ATLAS_MODE": "sparse", "ATLAS_MEMORY": 1, "ATLAS_THRESHOLD": 512, "ATLAS_KV_RAM": "8M", "ATLAS_LOG_LEVEL": "info"}


def parse(text):
    """{metric: {labels: value}}"""
    values = {}
    for line in text.splitlines():
        if found := SAMPLE.fullmatch(line):
            values.setdefault(found[1], {})[found[2] or ""] = float(found[3])
    return values


def series(scrapes, metric):
    """{labels: [(time, value)]}"""
    lines = {}
    for when, values in scrapes:
        for labels, value in values.get(metric, {}).items():
            lines.setdefault(labels, []).append((when, value))
    return lines


def rate(points, per_second):
    out = []
    for i, (when, value) in enumerate(points):
        before = next((point for point in points[max(0, i - int(RATE_OVER / INTERVAL)):i]), None)
        if before and when > before[0]:
            out.append((when, max(0.0, value - before[1]) / ((when - before[0]) if per_second else 1)))
    return out


def evaluate(expression, scrapes):
    """{labels: [(time, value)]} of one target."""
    if " / " in expression:
        above, below = (evaluate(part, scrapes) for part in expression.split(" / "))
        out = {}
        for labels, points in above.items():
            under = dict(below.get(labels, []))
            out[labels] = [(when, value / under[when]) for when, value in points if under.get(when)]
        return out
    expression = expression.removesuffix(" > 0")
    metric = re.search(r"atlas_\w+", expression)[0]
    lines = series(scrapes, metric)
    if expression.startswith(("rate(", "increase(")):
        return {labels: rate(points, expression.startswith("rate")) for labels, points in lines.items()}
    return lines


def name_of(legend, labels):
    """What Grafana makes of a legend's {{label}}."""
    values = dict(re.findall(r'(\w+)="([^"]*)"', labels))
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values.get(match[1], ""), legend)


def draw(board, scrapes, output, note):
    plt.style.use("dark_background")
    panels = board["panels"]
    columns = 24 // panels[0]["gridPos"]["w"]
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(5.2 * columns, 2.9 * rows), squeeze=False, facecolor="#111217")
    for axis, panel in zip(axes.flat, panels):
        unit, divisor = UNITS.get(panel.get("fieldConfig", {}).get("defaults", {}).get("unit"), ("", 1))
        for target in panel["targets"]:
            for labels, points in evaluate(target["expr"], scrapes).items():
                if points and (" > 0" not in target["expr"] or points[-1][1] > 0):
                    axis.plot([when for when, _ in points], [value / divisor for _, value in points], label=name_of(target["legendFormat"], labels), linewidth=1.4)
        axis.set_title(panel["title"], loc="left", fontsize=10)
        axis.set_ylabel(unit, fontsize=8)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.15)
        axis.set_facecolor("#181b1f")
        if axis.lines:
            axis.legend(fontsize=7, frameon=False, ncol=2)
    for axis in axes.flat[len(panels):]:
        axis.axis("off")
    figure.suptitle(f"{board['title']}: {note}", x=0.01, ha="left", fontsize=11)
    figure.supxlabel("seconds", fontsize=8)
    figure.tight_layout()
    figure.savefig(output, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plugin", required=True)
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "models/atlas-tiny.gguf")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("output")
    args = parser.parse_args()
    text = (ROOT / "tests/models/sample.txt").read_text(encoding="utf-8")
    scrapes = []
    over = threading.Event()
    with LlamaServer(args.model, 8192, 2, args.plugin, {"OMP_WAIT_POLICY": "passive", "ATLAS_KV_DISK": "/var/tmp", **SETTINGS},
                     ["--no-warmup", "-fit", "off", "-np", "4"]) as server:
        address = re.search(r"metrics: (http://[\d.:]+/metrics)", server.log())[1]

        def ask(client):
            turn = 0
            while not over.is_set():
                at = (client * 2500 + turn * 900) % (len(text) - 4500)
                server.complete(text[at:at + 1500 + 350 * client], 64, cache_prompt=False)
                turn += 1

        begin = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(args.clients) as pool:
            asked = [pool.submit(ask, client) for client in range(args.clients)]
            while time.monotonic() - begin < args.seconds:
                with urllib.request.urlopen(address, timeout=10) as answer:
                    scrapes.append((time.monotonic() - begin, parse(answer.read().decode())))
                time.sleep(INTERVAL)
            over.set()
            for one in asked:
                one.result()
    board = json.loads((ROOT / "tools/grafana/atlas.json").read_text(encoding="utf-8"))
    draw(board, scrapes, args.output, f"llama-server, {args.clients} clients, {args.model.name}, {datetime.date.today()}, {len(scrapes)} scrapes")
    print(f"{args.output}: {len(scrapes)} scrapes in {scrapes[-1][0]:.0f} s")


if __name__ == "__main__":
    main()
