#!/usr/bin/env python3
"""A long real document through llama-completion with and without Atlas: the text that each writes, and a table of speed and memory.

The document is the licence texts that every Debian system has, or --file. Sampling is greedy, so equal attention gives equal text.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parents[1]
LICENCES = pathlib.Path("/usr/share/common-licenses")
PROMPT_LINE = re.compile(r"prompt eval time =\s*([\d.]+) ms /\s*(\d+) tokens")
DECODE_LINE = re.compile(r"\beval time =\s*([\d.]+) ms /\s*(\d+) runs")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, prog="./dev demo", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plugin", required=True, help=argparse.SUPPRESS)
    parser.add_argument("-m", "--model", help="GGUF file (default: the small model of this repository)")
    parser.add_argument("--file", help="document (default: the licence texts of the system)")
    parser.add_argument("--tokens", type=int, default=8192, help="how much of the document is read (default %(default)s)")
    parser.add_argument("--generate", type=int, default=48, help="tokens written after it (default %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    if args.tokens < 1 or args.generate < 2:
        parser.error("--tokens needs 1 and --generate 2 at least")
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


def read_document(args):
    if args.file:
        return pathlib.Path(args.file).read_text(encoding="utf-8", errors="replace")
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(LICENCES.glob("*"))
             if path.is_file() and not path.is_symlink()]
    if not texts:
        sys.exit(f"{LICENCES} has no texts: give one with --file")
    return "\n\n".join(texts)


def count_tokens(model, path):
    run = subprocess.run(["llama-tokenize", "-m", model, "-f", path, "--show-count", "--log-disable"], capture_output=True, text=True,
                         errors="replace", check=False)
    found = re.search(r"Total number of tokens: (\d+)", run.stdout)
    if not found:
        sys.exit(f"llama-tokenize could not read {model}:\n{run.stderr[-2000:]}")
    return int(found[1])


def cut_to_tokens(model, text, limit, path):
    """Writes the longest beginning of `text` (in whole lines, to one percent) that has at most `limit` tokens; returns how many."""
    low, high = 0, min(len(text), 16 * limit)
    while high - low > max(len(text) // 400, 64):
        middle = (low + high + 1) // 2
        path.write_text(text[:middle], encoding="utf-8")
        if count_tokens(model, path) <= limit:
            low = middle
        else:
            high = middle - 1
    cut = text[:low].rsplit("\n", 1)[0] if low < len(text) else text
    path.write_text(cut, encoding="utf-8")
    tokens = count_tokens(model, path)
    if not cut or tokens == 0:
        sys.exit(f"--tokens {limit}: not one line of the document fits")
    return tokens


def check_loads(plugin):
    """The program says nothing about backends by itself, and a demo that compared llama.cpp with itself would look fine."""
    run = subprocess.run(["llama-completion", "--list-devices"], env={**os.environ, "GGML_BACKEND_PATH": str(plugin)},
                         stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
    if "ATLAS" not in run.stdout:
        sys.exit(f"{plugin} was not loaded:\n{run.stdout}{run.stderr}")


def run_completion(args, model, document, context, plugin):
    environment = {name: value for name, value in os.environ.items() if name != "GGML_BACKEND_PATH"}
    if plugin:
        environment["GGML_BACKEND_PATH"] = str(plugin)
    command = ["llama-completion", "-m", model, "-f", document, "-n", args.generate, "-c", context, "-t", args.threads, "--temp", "0",
               "--seed", "1", "-no-cnv", "--no-display-prompt", "--no-warmup", "--simple-io", "--ignore-eos", "--perf"]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as out, \
            tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        child = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=out, stderr=log, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        log.seek(0)
        text, messages = out.read(), log.read()
    prompt, decode = PROMPT_LINE.search(messages), DECODE_LINE.search(PROMPT_LINE.sub("", messages))
    if child.returncode != 0 or not prompt or not decode:
        sys.exit(f"llama-completion ended with status {child.returncode}:\n{messages[-3000:]}")
    return {"text": text, "prompt": int(prompt[2]) / float(prompt[1]) * 1e3, "decode": int(decode[2]) / float(decode[1]) * 1e3,
            "memory": usage.ru_maxrss / 1024}


def main():
    args = parse_arguments()
    check_loads(args.plugin)
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or default_model(folder)
        document = pathlib.Path(folder, "document.txt")
        tokens = cut_to_tokens(model, read_document(args), args.tokens, document)
        context = (tokens + args.generate + 256) // 256 * 256
        print(f"Model {pathlib.Path(model).name}, {tokens} tokens of {args.file or 'licence texts'}, then {args.generate} tokens greedily, "
              f"{args.threads} threads.")
        results = []
        for name, plugin in [("llama.cpp", None), ("with Atlas", args.plugin)]:
            print(f"running {name} …", flush=True)
            results.append((name, run_completion(args, model, document, context, plugin)))
    for name, result in results:
        print(f"\n--- {name} writes:\n{result['text'].strip()}")
    base = results[0][1]
    print("\n| | read, tokens/s | write, tokens/s | peak memory, MiB |\n|---|--:|--:|--:|")
    for name, result in results:
        print(f"| {name} | {result['prompt']:.0f} | {result['decode']:.1f} | {result['memory']:.0f} |")
    atlas = results[1][1]
    print(f"| ratio | {atlas['prompt'] / base['prompt']:.2f}× | {atlas['decode'] / base['decode']:.2f}× "
          f"| {atlas['memory'] / base['memory']:.2f}× |")
    if atlas["text"] == base["text"]:
        print("\nThe text is the same.")
        return 0
    same = len(os.path.commonprefix([atlas["text"], base["text"]]))
    print(f"\nThe texts differ after {same} of {len(base['text'])} characters.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
