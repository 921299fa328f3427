#!/usr/bin/env python3
"""Facts hidden in a long real document, asked for through the unmodified llama-server: without Atlas, with it, and with its sparse attention.

The document is the licence texts that every Debian system has, or --file. Sampling is greedy, so equal attention gives equal text.
Prints answers, speed and memory side by side and draws them (--output).
"""

import argparse
import os
import pathlib
import random
import subprocess
import sys
import tempfile

from llama_server import LlamaServer, ServerError

TOP = pathlib.Path(__file__).resolve().parents[1]
LICENCES = pathlib.Path("/usr/share/common-licenses")
FACTS = [("secret code", "Karodin"), ("locker number", "Stalven"), ("ticket number", "Brimon"), ("door code", "Toleas")]
COLUMNS = [("llama.cpp", None, {}), ("Atlas, exact", "plugin", {"ATLAS_MODE": "exact"}), ("Atlas, sparse", "plugin", {"ATLAS_MODE": "sparse"})]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, prog="./dev demo", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plugin", required=True, help=argparse.SUPPRESS)
    parser.add_argument("-m", "--model", help="GGUF file (default: the small model of this repository)")
    parser.add_argument("--file", help="document (default: the licence texts of the system)")
    parser.add_argument("--tokens", type=int, default=16384, help="how much of the document is read (default %(default)s)")
    parser.add_argument("--generate", type=int, default=64, help="tokens written after it (default %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=1, help="of the numbers that are hidden")
    parser.add_argument("--output", default="atlas-demo.png", help="picture (default %(default)s)")
    args = parser.parse_args()
    if args.tokens < 256 or args.generate < 2:
        parser.error("--tokens needs 256 and --generate 2 at least")
    for name in ("model", "file"):
        path = getattr(args, name)
        if path and not os.path.isfile(path):
            parser.error(f"{path}: no such file")
    return args


def default_model(folder):
    """The repository's trained model, or else one of random weights, said so: its text means nothing, its speed does."""
    trained = sorted((TOP / "models").glob("*.gguf"))
    if trained:
        return trained[0]
    path = pathlib.Path(folder, "random.gguf")
    print("No trained model is here: a model of random weights is made. Its text means nothing.")
    subprocess.run([sys.executable, TOP / "benchmarks/end_to_end/make_model.py", path], check=True, stdout=subprocess.DEVNULL)
    return path


def read_document(path):
    if path:
        return pathlib.Path(path).read_text(encoding="utf-8", errors="replace")
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in sorted(LICENCES.glob("*"))
             if file.is_file() and not file.is_symlink()]
    if not texts:
        sys.exit(f"{LICENCES} has no texts: give one with --file")
    return "\n\n".join(texts)


def check_loads(plugin):
    """The programs say nothing about backends by themselves, and a demo that compared llama.cpp with itself would look fine."""
    run = subprocess.run(["llama-completion", "--list-devices"], env={**os.environ, "GGML_BACKEND_PATH": str(plugin)},
                         stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
    if "ATLAS" not in run.stdout:
        sys.exit(f"{plugin} was not loaded:\n{run.stdout}{run.stderr}")


def hide_facts(text, seed):
    """The facts behind full stops at even distances: (document, [(question with the answer's beginning, number)])."""
    rng = random.Random(seed)
    stops = [i + 1 for i in range(len(text) - 1) if text[i] == "." and text[i + 1] in " \n"] or [len(text)]
    parts, questions, last = [], [], 0
    for i, (what, who) in enumerate(FACTS):
        number = str(rng.randrange(10000, 100000))
        at = min(stops, key=lambda stop: abs(stop - (i + 0.5) / len(FACTS) * len(text)))
        parts += [text[last:at], f" The {what} of {who} is {number}."]
        last = at
        questions.append((f"\n\nWhat is the {what} of {who}? The {what} of {who} is", number))
    return "".join(parts) + text[last:], questions


def cut_to_tokens(server, text, limit):
    """The beginning of `text` that has about `limit` tokens: two looks at how many tokens a character makes."""
    size = min(len(text), 16 * limit)
    for _ in range(4):
        count = len(server.ask("/tokenize", content=text[:size])["tokens"])
        if count <= limit and (size == len(text) or count > 0.98 * limit):
            break
        size = min(len(text), int(size * limit / max(count, 1) * 0.995))
    return text[:size]


def run_column(server, args, document, questions):
    result = {"answers": []}
    for i, (question, number) in enumerate(questions):
        answer = server.complete(document + question, 12, stop=["."])
        result["answers"].append((answer["content"].strip(), number))
        if i == 0:
            result["tokens"] = answer["timings"]["prompt_n"]
            result["read"] = answer["timings"]["prompt_per_second"]
    text = server.complete(document, args.generate, ignore_eos=True)
    result["text"], result["write"] = text["content"], text["timings"]["predicted_per_second"]
    result["memory"] = server.peak_memory()
    return result


def draw(path, results, tokens):
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed: no picture")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name, _ in results]
    colours = ["#8a8f98", "#1b6ca8", "#e09f3e"]
    figure, axes = pyplot.subplots(1, 4, figsize=(13, 3.6))
    panels = [("facts found", [sum(got == wanted for got, wanted in r["answers"]) for _, r in results], "{:.0f} of " + str(len(FACTS))),
              ("reading, tokens/s", [r["read"] for _, r in results], "{:.0f}"), ("writing, tokens/s", [r["write"] for _, r in results], "{:.0f}"),
              ("peak memory, MiB", [r["memory"] for _, r in results], "{:.0f}")]
    for axis, (title, values, pattern) in zip(axes, panels):
        bars = axis.bar(names, values, color=colours[:len(names)])
        axis.bar_label(bars, [pattern.format(value) for value in values])
        axis.set_title(title)
        axis.set_ylim(0, max(values) * 1.15 or 1)
        axis.tick_params(axis="x", labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"The same question to the same model after {tokens} tokens of text, in an unmodified llama-server")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    print(f"\nPicture: {path}")


def main():
    args = parse_arguments()
    check_loads(args.plugin)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or default_model(folder)
        document = questions = None
        for name, plugin, variables in COLUMNS:
            print(f"running {name} …", flush=True)
            with LlamaServer(model, args.tokens + 512, args.threads, args.plugin if plugin else None, variables) as server:
                if document is None:
                    document, questions = hide_facts(cut_to_tokens(server, read_document(args.file), args.tokens - 128), args.seed)
                results.append((name, run_column(server, args, document, questions)))
    base, exact = results[0][1], results[1][1]
    print(f"\nModel {pathlib.Path(model).name}, {base['tokens']} tokens of {args.file or 'licence texts'} with {len(FACTS)} facts in them, "
          f"{args.threads} threads.\n")
    print("| asked | hidden | " + " | ".join(name for name, _ in results) + " |\n|---|---|" + "---|" * len(results))
    for i, (what, who) in enumerate(FACTS):
        print(f"| {what} of {who} | {questions[i][1]} | " + " | ".join(
            f"{r['answers'][i][0]} {'✓' if r['answers'][i][0] == questions[i][1] else '✗'}" for _, r in results) + " |")
    print("\n| | read, tokens/s | write, tokens/s | peak memory, MiB |\n|---|--:|--:|--:|")
    for name, r in results:
        ratios = [f" ({r[key] / base[key]:.2f}×)" if r is not base and base[key] else "" for key in ("read", "write", "memory")]
        print(f"| {name} | {r['read']:.0f}{ratios[0]} | {r['write']:.0f}{ratios[1]} | {r['memory']:.0f}{ratios[2]} |")
    draw(args.output, results, base["tokens"])
    if exact["text"] == base["text"]:
        print(f"\nWith exact attention the {args.generate} tokens written after the document are the same:\n{base['text'].strip()}")
        return 0
    same = len(os.path.commonprefix([exact["text"], base["text"]]))
    print(f"\nThe texts differ after {same} of {len(base['text'])} characters.\n--- llama.cpp\n{base['text']}\n--- Atlas\n{exact['text']}")
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ServerError as problem:
        sys.exit(str(problem))
