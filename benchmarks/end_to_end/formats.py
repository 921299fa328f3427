#!/usr/bin/env python3
"""Weights rounded while a model is loaded (ATLAS_WEIGHT_FORMAT), on a model in f16: speed, memory, and how far the next token's probabilities are off, beside
unmodified llama.cpp with the f16 file and with files that llama-quantize made of it.

    formats.py --plugin LIBGGML-ATLAS.SO -m MODEL [--formats int8,…] [--text FILE] [--repetitions 3] [--load int8,…]

A model in another type is written anew in f16 first. Its weights would lie on a grid of few bits, which rounding to as few bits would find again; so noise as large as
such rounding makes (--noise, of each row's root mean square) is added to them first. What is measured is rounding, of weights like a model's.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import numpy

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from llama_program import clean_environment  # noqa: E402

# What llama-quantize makes of the same weights; embeddings and output head stay as they are there too.
FILES = {"q8_0": "Q8_0", "q6_K": "Q6_K", "q5_K": "Q5_K", "q4_K": "Q4_K"}


def run(command, plugin=None, **variables):
    """Standard output, and the process' largest resident memory in MiB."""
    command = [str(part) for part in command]
    watch = [sys.executable, "-c", "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:]); "
             "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); sys.exit(done.returncode)"]
    done = subprocess.run(watch + command, env=clean_environment(plugin, **variables), stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                          check=False)
    if done.returncode != 0:
        sys.exit(f"formats: {' '.join(command)}: status {done.returncode}\n{done.stdout[-500:]}{done.stderr[-1500:]}")
    return done.stdout, int(done.stderr.split()[-1]) / 1024


def add_noise(path, share):
    import gguf
    random = numpy.random.default_rng(1)
    for tensor in gguf.GGUFReader(path, "r+").tensors:
        if tensor.tensor_type != gguf.GGMLQuantizationType.F16 or len(tensor.shape) < 2:
            continue
        for first in range(0, tensor.data.shape[0], 256):
            rows = tensor.data[first:first + 256]
            exact = rows.astype(numpy.float32)
            size = share * numpy.sqrt(numpy.mean(exact**2, axis=-1, keepdims=True))
            rows[...] = (exact + size * random.standard_normal(exact.shape, dtype=numpy.float32)).astype(numpy.float16)


def forget(path):
    """The system's cache holds nothing of the file."""
    if path.exists():
        with path.open("rb") as file:
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def time_loading(args, model, folder):
    """Seconds from the start of a program to its first token, which is when weights are rounded; files come from the disk."""
    def first_token(plugin, **variables):
        for path in (model, *folder.glob("*.atlas-weights")):
            forget(path)
        begin = time.monotonic()
        run(["llama-completion", "-m", model, "-p", "a", "-n", 1, "-no-cnv", "-t", args.threads, "--no-warmup", "--temp", 0], plugin, **variables)
        return time.monotonic() - begin

    words = args.load.split(",")
    plain = "as the file has them"
    seconds = {plain: []} | {f"{word}{how}": [] for word in words for how in (", rounded", ", read from its cache")}
    sizes = {}
    for _ in range(args.repetitions):
        seconds[plain].append(first_token(args.plugin))
        for word in words:
            kept = {"ATLAS_WEIGHT_FORMAT": word, "ATLAS_WEIGHT_CACHE": folder}
            seconds[f"{word}, rounded"].append(first_token(args.plugin, ATLAS_WEIGHT_FORMAT=word))
            if not sizes.get(word):
                first_token(args.plugin, **kept)
                sizes[word] = next(folder.glob(f"*.{word}.atlas-weights")).stat().st_size
            seconds[f"{word}, read from its cache"].append(first_token(args.plugin, **kept))
    print(f"\nFrom the start of llama-completion to its first token, files of {model.stat().st_size >> 20} MiB"
          f"{''.join(f' and, {word} in its cache, {size >> 20} MiB' for word, size in sizes.items())} read from the disk: seconds, medians (least–most) of {args.repetitions}.\n")
    print("| weights | seconds | to plain loading |\n|---|--:|--:|")
    for label, values in seconds.items():
        print(f"| {label} | {cell(values)} | {statistics.median(values) / statistics.median(seconds[plain]):.2f}× |", flush=True)


def cell(values):
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plugin", required=True)
    parser.add_argument("-m", "--model", type=pathlib.Path, required=True)
    parser.add_argument("--formats", default="native,int8,int6,int5,int4,auto:5.5,int8+head,int4+head")
    parser.add_argument("--files", default="q8_0,q6_K,q5_K,q4_K", help="of llama-quantize, beside them; empty: none")
    parser.add_argument("--text", default=ROOT / "docs/design/host.md")
    parser.add_argument("--chunks", type=int, default=4, help="of 512 tokens")
    parser.add_argument("--noise", type=float, default=0.08)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--load", default="", help="formats of which loading is timed, rounded and from a cache; empty: none")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="atlas-formats-") as name:
        folder = pathlib.Path(name)
        model = folder / "f16.gguf"
        run(["llama-quantize", "--allow-requantize", args.model, model, "F16"])
        add_noise(model, args.noise)
        rows = [("llama.cpp, f16", model, None, {})]
        for kind in filter(None, args.files.split(",")):
            made = folder / f"{kind}.gguf"
            run(["llama-quantize", "--pure", "--output-tensor-type", "f16", "--token-embedding-type", "f16", model, made, FILES[kind], args.threads])
            rows.append((f"llama.cpp, {kind} file", made, None, {}))
            rows.append((f"Atlas, {kind} file", made, args.plugin, {}))
        rows += [(f"Atlas, {word}", model, args.plugin, {"ATLAS_WEIGHT_FORMAT": word}) for word in args.formats.split(",")]
        speeds = {row[0]: {"pp": [], "tg": []} for row in rows}
        memory = {}
        for _ in range(args.repetitions):
            for label, file, plugin, variables in rows:
                out, peak = run(["llama-bench", "-m", file, "-p", args.prompt, "-n", args.generate, "-r", 1, "-t", args.threads, "-fa", 1, "-o", "json"], plugin,
                                **variables)
                memory[label] = peak
                for test in json.loads(out):
                    speeds[label]["pp" if test["n_prompt"] else "tg"].append(test["avg_ts"])
        base = folder / "logits"
        perplexity = ["llama-perplexity", "-f", args.text, "-c", 512, "-b", 512, "--chunks", args.chunks, "-t", args.threads, "-fa", "on", "--kl-divergence-base", base]
        run([*perplexity, "-m", model])
        print(f"Prompts of {args.prompt}, {args.generate} tokens, {args.threads} threads, {args.repetitions} rounds in turn: tokens a second, medians (least–most). "
              f"Divergence from llama.cpp with f16 over {args.chunks} times 256 tokens, and how often the likeliest token is the same. Embeddings stay f16, and so does the output head "
              f"but with +head. Peak: of llama-bench, mapped pages included.\n")
        print("| weights | prompt | decode | to f16: prompt, decode | bits | SQNR dB | KL divergence | same token | peak MiB |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|")
        first = speeds[rows[0][0]]
        for label, file, plugin, variables in rows:
            divergence = same = "–"
            bits = sqnr = ""
            if file != model or plugin:
                stats = folder / "stats.json"
                out, _ = run([*perplexity, "-m", file, "--kl-divergence"], plugin, **variables, **({"ATLAS_STATS": str(stats)} if plugin else {}))
                found = re.findall(r"^ +\d+ +\S+ ± +\S+ +\S+ ± +\S+ +(\S+) ± +\S+ +\S+ ± +\S+ % +(\S+) ±", out, re.MULTILINE)
                divergence, same = (f"{float(found[-1][0]):.5f}", f"{float(found[-1][1]):.1f} %") if found else ("?", "?")
                formats = json.loads(stats.read_text()).get("formats", {}) if plugin else {}
                if formats.get("matrices"):
                    bits, sqnr = f"{formats['bits_each']:.2f}", f"{formats['sqnr_db']:.1f}"
            mine = speeds[label]
            ratio = ", ".join(f"{statistics.median(mine[kind]) / statistics.median(first[kind]):.2f}×" for kind in ("pp", "tg"))
            print(f"| {label} | {cell(mine['pp'])} | {cell(mine['tg'])} | {ratio} | {bits} | {sqnr} | {divergence} | {same} | {memory[label]:.0f} |", flush=True)
        if args.load:
            time_loading(args, model, folder)


if __name__ == "__main__":
    main()
