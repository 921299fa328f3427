#!/usr/bin/env python3
"""Ways to choose keys, replayed on what attention was given in real models: how much of the attention to a hidden fact is read, over the share of keys read.

  ./dev eval replay [MODEL…]

For each model, four KV heads that look at the facts of a document while questions about them are answered (tests/quality/make_slice), on 3456 tokens of
documentation. Sinks (64) and window (128) are always read; of the keys between, every way chooses as many:
  oracle      those that hold most of the group's attention: no way can know
  codes       the same by two-bit codes of keys (docs/design/attention.md), in float arithmetic
  pages       pages of 16 by the largest logit that their keys' bounds allow (Quest, arXiv 2406.10774)
  means       pages of 8 by the logit of their mean key (after ShadowKV, arXiv 2410.21465)
  window      the most recent ones
Writes a table, and with --output a picture.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy

import eval_real
import models

SINKS, WINDOW, PAGE = 64, 128, 64
CHOSEN = (16, 32, 64, 128, 256, 512, 1024)
FACTS = 0.05  # heads that give a fact at least so much of a query's attention count


def read_slice(path):
    """tests/quality/slice.h: (facts' first and last keys, heads' K, V [keys][d] and Q [question][group][d])."""
    data = path.read_bytes()
    if data[:8] != b"ATSLICE1":
        raise ValueError(f"{path} is no slice")
    d, keys, group, heads, questions = numpy.frombuffer(data, "<i4", 5, 8)
    facts = numpy.frombuffer(data, "<i4", 2 * questions, 28).reshape(-1, 2)
    at = 28 + 8 * questions
    found = []
    for _ in range(heads):
        at += 8
        tensors = []
        for _ in range(2):
            rows = numpy.frombuffer(data, numpy.dtype([("scale", "<f2"), ("codes", "i1", (d,))]), keys, at)
            tensors.append(rows["codes"].astype(numpy.float32) * rows["scale"].astype(numpy.float32)[:, None])
            at += keys * (2 + d)
        q = numpy.frombuffer(data, "<f2", questions * group * d, at).astype(numpy.float32).reshape(questions, group, d)
        at += 2 * questions * group * d
        found.append((*tensors, q))
    return facts, found


def codes_of(keys):
    """What the index knows of keys: rotation, each key's page mean, levels -3, -1, 1, 3 and their scale, in the rotated space."""
    d = keys.shape[1]
    rotation = numpy.linalg.qr(numpy.random.default_rng(1).standard_normal((d, d)))[0].astype(numpy.float32)
    turned = keys @ rotation
    pages = turned.reshape(-1, PAGE, d)
    means = numpy.repeat(pages.mean(axis=1), PAGE, axis=0)
    y = turned - means
    unit = y / numpy.maximum(numpy.sqrt((y * y).mean(axis=1, keepdims=True)), 1e-9)
    # 0.98 standard deviations part the levels of least error of a normal variable.
    c = numpy.sign(unit) * numpy.where(numpy.abs(unit) > 0.98, 3.0, 1.0)
    scale = (y * y).sum(axis=1) / numpy.maximum((c * y).sum(axis=1), 1e-9)
    return rotation, means + scale[:, None] * c


def pages_first(scores, size, count):
    """The keys of the best pages, best first, `count` at most."""
    order = numpy.argsort(-scores)[: count // size]
    return (order[:, None] * size + numpy.arange(size)).ravel()


def shares(logits):
    """Each head's softmax, summed over the group's heads: [keys]."""
    weights = numpy.exp(logits - logits.max(axis=1, keepdims=True))
    return (weights / weights.sum(axis=1, keepdims=True)).sum(axis=0)


def rankings(q, keys, logits, far, known):
    """{way: function of a count that gives far keys, counted from the first far key}."""
    rotation, estimates = known
    guessed = logits.copy()
    guessed[:, far] = (q @ rotation) @ estimates.T / numpy.sqrt(q.shape[1])
    rank = {"oracle": numpy.argsort(-shares(logits)[far]), "codes": numpy.argsort(-shares(guessed)[far])}
    # What is compared between heads is relative to what each has read in any case.
    near = numpy.delete(logits, numpy.arange(len(logits[0]))[far], axis=1)
    base = numpy.log(numpy.exp(near - near.max(axis=1, keepdims=True)).sum(axis=1)) + near.max(axis=1)
    blocks = keys[far].reshape(-1, 16, keys.shape[1])
    low, high = blocks.min(axis=1), blocks.max(axis=1)
    bounds = numpy.maximum(q[:, None] * low, q[:, None] * high).sum(axis=2) / numpy.sqrt(q.shape[1])
    best = (bounds - base[:, None]).max(axis=0)
    means = keys[far].reshape(-1, 8, keys.shape[1]).mean(axis=1)
    of_means = ((q @ means.T) / numpy.sqrt(q.shape[1]) - base[:, None]).max(axis=0)
    n = len(rank["oracle"])
    return {"oracle": lambda count: rank["oracle"][:count], "codes": lambda count: rank["codes"][:count],
            "pages": lambda count: pages_first(best, 16, count), "means": lambda count: pages_first(of_means, 8, count),
            "window": lambda count: numpy.arange(n - count, n)}


def replay(path):
    """{way: [(share of keys read, share of the facts' attention read, error of the output)]} for CHOSEN; outputs without an estimate of the rest."""
    facts, heads = read_slice(path)
    sums = {}
    for keys, values, queries in heads:
        n = len(keys)
        far = slice(SINKS, n - WINDOW)
        known = codes_of(keys[far])
        for (first, last), q in zip(facts, queries):
            if first < SINKS or last >= n - WINDOW:
                continue
            logits = q @ keys.T / numpy.sqrt(q.shape[1])
            weights = numpy.exp(logits - logits.max(axis=1, keepdims=True))
            exact = weights @ values / weights.sum(axis=1, keepdims=True)
            fact = weights[:, first:last + 1].sum(axis=1) / weights.sum(axis=1)
            counts = fact >= FACTS
            for way, choose in rankings(q, keys, logits, far, known).items():
                for count in CHOSEN:
                    read = numpy.zeros(n, bool)
                    read[:SINKS] = read[n - WINDOW:] = True
                    read[SINKS + choose(count)] = True
                    kept = weights * read
                    out = kept @ values / kept.sum(axis=1, keepdims=True)
                    error = ((out - exact) ** 2).sum() / (exact ** 2).sum()
                    found = kept[:, first:last + 1].sum(axis=1) / weights[:, first:last + 1].sum(axis=1)
                    entry = sums.setdefault((way, count), [read.mean(), [], []])
                    entry[1].extend(found[counts])
                    entry[2].append(error)
    result = {}
    for (way, _), (share, found, errors) in sums.items():
        result.setdefault(way, []).append((share, float(numpy.mean(found)), float(numpy.sqrt(numpy.mean(errors)))))
    return result


def table(result):
    lines = ["| way | " + " | ".join(f"{count} chosen, {100 * share:.1f} % read" for count, (share, *_) in zip(CHOSEN, result["oracle"])) + " |",
             "|---|" + "--:|" * len(CHOSEN)]
    lines += [f"| {way} | " + " | ".join(f"{100 * found:.0f} %, {error:.2f}" for _, found, error in points) + " |" for way, points in result.items()]
    return "\n".join(lines)


def draw(results, path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plot
    _, axes = plot.subplots(1, len(results), figsize=(5 * len(results), 4), sharey=True, squeeze=False)
    for axis, (name, result) in zip(axes[0], results.items()):
        for way, points in result.items():
            axis.plot([100 * share for share, *_ in points], [100 * found for _, found, _ in points], marker="o", label=way)
        axis.set(title=name, xlabel="keys read, % of visible")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("attention to the asked fact that is read, %")
    axes[0][0].legend()
    plot.tight_layout()
    plot.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, prog="./dev eval replay", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="MODEL", help="smollm2, qwen (default: those that are there)")
    parser.add_argument("--make-slice", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=pathlib.Path, help="folder for replay.png")
    args = parser.parse_args()
    known = ("smollm2", "qwen")
    if unknown := [name for name in args.names if name not in known]:
        parser.error(f"{unknown[0]}: allowed are {', '.join(known)}: the questions are put in their chat template")
    names = args.names or [name for name in known if models.MODELS[name].path.is_file()]
    if missing := [name for name in names if not models.MODELS[name].path.is_file()]:
        parser.error(f"{missing[0]}: not fetched yet: ./dev models {missing[0]}")
    if not names:
        parser.error("none of the models is there: ./dev models smollm2")
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        (folder / "text.txt").write_text(eval_real.documentation(), encoding="utf-8")
        for name in names:
            done = subprocess.run([args.make_slice, models.MODELS[name].path, folder / "text.txt", folder / "slice"], text=True, capture_output=True, check=False)
            if done.returncode != 0:
                print(f"eval replay: {name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
                return 1
            results[name] = replay(folder / "slice")
            print(f"## {name}: {models.MODELS[name].what}\n\nOf the attention to the fact that is asked for, how much is read; relative error of the output, rest "
                  f"left out:\n\n{table(results[name])}\n", flush=True)
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        draw(results, args.output / "replay.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
