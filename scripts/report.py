#!/usr/bin/env python3
"""Runs named sets of measurements and writes what they found to docs/results/NAME.md: the only way figures get into that folder.

  ./dev report --list             what there is, how long each takes, what it needs
  ./dev report exact retrieval    two of them; the quick form, two cores and minutes
  ./dev report --long exact       deeper and more often, as for a release

A page names commit, processor, date and every command; figures that differ between runs are medians (least–most). A set of measurements
of which one fails leaves the page that was there. To be run while nothing else computes.
"""

import argparse
import dataclasses
import datetime
import os
import pathlib
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile

import models

ROOT = pathlib.Path(__file__).resolve().parents[1]
# {model:NAME} in a command: where ./dev models keeps it.
MODEL = re.compile(r"\{model:(\w+)\}")
# Of the processor's many flags those that decide which kernels run.
FLAGS = ["avx2", "f16c", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "asimd", "asimddp", "bf16"]


@dataclasses.dataclass
class Part:
    """One command of a set. {folder}: a scratch folder; {texts}: the caller's --text; a result is what it prints, or the file `reads` in there."""
    title: str
    quick: str
    long: str = ""
    reads: str = ""
    repeats: int = 1  # runs whose tables are merged: medians and ranges


@dataclasses.dataclass
class Report:
    title: str
    minutes: str
    parts: list
    needs: str = "nothing"
    picture: str = ""      # a file in the scratch folder that stands beside the page
    own_page: bool = False  # the command writes the page itself


WEIGHTS = "--variant host:ATLAS_WEIGHTS=host --variant own:ATLAS_WEIGHTS=own --whole= --kv-types f16"
MODELS = "./dev models (fetches 98 MB to 1.1 GB each)"
REPORTS = {
    "exact": Report(
        "Exact attention in whole programs", "4 quick, 25 long",
        [Part("A model that is nearly all attention (12M shape, random weights)",
              "bench --variant exact --whole= --kv-types f16 --depths 0,2048,8192 --generate 64 --repetitions 3 --output {folder}/exact",
              "bench --variant exact --whole 8192,32768 --kv-types f16,q8_0 --depths 0,2048,8192,32768 --generate 128 --repetitions 5 "
              "--output {folder}/exact"),
         Part("The shape of Llama 3.2 1B, q4_0, random weights",
              "bench --variant exact --whole= --kv-types f16 --shape 1b --depths 0 --prompt 256 --generate 16 --repetitions 3 --output {folder}/1b",
              "bench --variant exact --whole= --kv-types f16 --shape 1b --depths 0,8192 --prompt 256 --generate 24 --repetitions 4 "
              "--output {folder}/1b")],
        picture="exact-f16.png"),
    "sparse": Report(
        "Sparse attention in whole programs", "8 quick, 60 long",
        [Part("A model that is nearly all attention (12M shape, random weights)",
              "bench --whole= --kv-types f16 --depths 2048,8192,32768 --generate 64 --repetitions 3 --output {folder}/sparse",
              "bench --whole 8192,32768,65536 --kv-types f16,q8_0 --depths 2048,8192,32768,131072 --generate 128 --repetitions 5 "
              "--output {folder}/sparse"),
         Part("A trained model (atlas-tiny)",
              "bench -m models/atlas-tiny.gguf --whole= --kv-types f16 --depths 8192,32000 --generate 64 --repetitions 3 --output {folder}/tiny",
              "bench -m models/atlas-tiny.gguf --whole 32000 --kv-types f16 --depths 8192,32000 --generate 128 --repetitions 5 "
              "--output {folder}/tiny"),
         Part("The operation alone", "bench sparse --keys 8192,32768,131072", "bench sparse --keys 8192,32768,131072 --repeats 200", repeats=3)],
        picture="sparse-f16.png"),
    "kernels": Report(
        "Attention kernels beside the CPU backend's", "6 quick, 30 long",
        [Part("One token, and 512", "bench kernels --d 64,128 --group 4 --keys 4096,16384 --tokens 1,512 --types f16,q8_0 --host-limit 2",
              "bench kernels", repeats=3)]),
    "tiers": Report(
        "A KV cache of which memory holds a part, the rest on disk", "8 quick (4 where the text that Qwen read is kept), 40 long",
        [Part("Qwen2.5-Coder-1.5B-Instruct, Q4_K_M: decoding sparsely",
              "bench tiers -m {model:qwen} --tokens 15872 --keep --modes sparse --shares 0.25,0.1 --repetitions 2 --output {folder}",
              "bench tiers -m {model:qwen} --tokens 15872 --keep --shares 0.75,0.5,0.25,0.1 --repetitions 7 --generate 64 --output {folder}"),
         Part("SmolLM2-135M-Instruct, Q4_1", "bench tiers -m {model:smollm2} --tokens 7168 --reads 4096,24576 --repetitions 2",
              "bench tiers -m {model:smollm2} --tokens 7168 --reads 4096,24576 --shares 0.75,0.5,0.25,0.1 --repetitions 7 --generate 64")],
        needs=MODELS, picture="tiers.png"),
    "streaming": Report(
        "Models that memory has no room for", "12 quick, 60 long",
        [Part("Two models of random weights, in a memory cgroup", "bench streaming --repetitions 2 --generate 16 --output {folder}",
              "bench streaming --repetitions 7 --generate 64 --shares 0.75,0.5,0.33,0.25 --output {folder}")],
        needs="root, outside of ./dev shell; 3 GB in /tmp", picture="streaming.png"),
    "weights": Report(
        "Weights in Atlas's hands: real models, empty context", "3 quick, 15 long",
        [Part(title, f"bench -m {{model:{name}}} {WEIGHTS} --depths 0 --prompt 128 --generate 16 --repetitions 3 --output {{folder}}/{name}",
              f"bench -m {{model:{name}}} {WEIGHTS} --depths 0,2048 --prompt 512 --generate 32 --repetitions 7 --output {{folder}}/{name}")
         for name, title in (("qwen", "Qwen2.5-Coder-1.5B-Instruct, Q4_K_M"), ("gemma3", "Gemma 3 270M, Q4_K_M"), ("smollm2", "SmolLM2-135M-Instruct, Q4_1"))],
        needs=MODELS),
    "formats": Report(
        "Weights rounded while a model is loaded", "14 quick, 60 long",
        [Part("SmolLM2-135M-Instruct, in f16",
              "bench formats -m {model:smollm2} --repetitions 2 --formats int8,fp8,int6,int5,int4,auto:5.5,int4+head --files q8_0,q4_K --load int8",
              "bench formats -m {model:smollm2} --repetitions 7 --chunks 16"),
         Part("Qwen2.5-Coder-1.5B-Instruct, in f16",
              "bench formats -m {model:qwen} --repetitions 1 --formats int8,fp8,int6,int8+head,int4+head,auto:5.5+head --files q4_K --chunks 1 --prompt 128 --generate 16 --load int8",
              "bench formats -m {model:qwen} --repetitions 5 --chunks 8")],
        needs=MODELS + "; 5 GB in /var/tmp (9 long)"),
    "sparsity": Report(
        "Activation sparsity: inputs left out of each layer's last product", "8 quick, 20 long",
        [Part(title, f"bench sparsity -m {{model:{name}}} --rounds 5", f"bench sparsity -m {{model:{name}}} --rounds 11 --tokens 256")
         for name, title in (("smollm2", "SmolLM2-135M-Instruct, in f16"), ("gemma3", "Gemma 3 270M, in f16"))],
        needs=MODELS),
    "depth": Report(
        "Real models behind long texts", "6 quick, 40 long",
        # Cells of layers with a window cannot be copied as deep.
        [Part(title, f"bench -m {{model:{name}}} --whole= --kv-types f16 --depths {quick} --prompt 512 --generate 16 --repetitions 1 --output {{folder}}/{name}",
              f"bench -m {{model:{name}}} --whole= --kv-types f16 --depths {long} --prompt 512 --generate 32 --repetitions 3 --output {{folder}}/{name}")
         for name, title, quick, long in (
             ("qwen", "Qwen2.5-Coder-1.5B-Instruct, Q4_K_M", "0,8192,30000", "0,4096,8192,16384,30000"),
             ("gemma3", "Gemma 3 270M, Q4_K_M", "0,8192", "0,4096,8192"),
             ("smollm2", "SmolLM2-135M-Instruct, Q4_1", "0,6144", "0,2048,4096,6144"))],
        needs=MODELS, picture="qwen-f16.png"),
    "quality": Report(
        "Sparse attention against exact: perplexity and divergence", "45 quick (8 where the states are kept), 150 long",
        [Part("Real pretrained models: the ends of documents of several kinds, read exactly and gone on with token by token; with ATLAS_WEIGHTS=host "
              "products are llama.cpp's own, exact too: what another rounding alone makes of a model's answers",
              "eval real --tasks none --read exact --modes exact,exact:ATLAS_WEIGHTS=host,sparse,window --tail 128 --batch 1 {texts} --output {folder}/quality",
              "eval real --tasks none --read exact --modes exact,exact:ATLAS_WEIGHTS=host,sparse,window --documents 3 --tail 512 --batch 1 {texts} --output {folder}/quality")],
        needs=MODELS),
    "selection": Report(
        "Ways to choose keys: how much of the attention to a fact they read", "2",
        [Part("On what attention was given in real models", "eval replay --output {folder}")], needs=MODELS, picture="replay.png"),
    "retrieval": Report(
        "Facts found in long documents", "60 quick (15 where the states are kept), 240 long",
        [Part("Facts of every kind, documents read exactly",
              "eval real --tail 0 --tasks facts --samples 1 --questions 6 --read exact --modes exact,sparse,window --output {folder}/facts",
              "eval real --tail 0 --tasks facts --samples 4 --questions 8 --read exact --modes exact,sparse,window --output {folder}/facts"),
         Part("The tasks of RULER, documents read exactly",
              "eval real --tail 0 --tasks ruler --samples 1 --questions 8 --read exact --modes exact,sparse,window --output {folder}/ruler",
              "eval real --tail 0 --tasks ruler --samples 4 --questions 8 --read exact --modes exact,sparse,window --output {folder}/ruler"),
         Part("Documents read and asked by each mode",
              "eval real smollm2 --tail 0 --tasks facts --samples 2 --questions 4 --modes exact,sparse,window --output {folder}/both",
              "eval real --tail 0 --tasks facts --samples 2 --questions 8 --modes exact,sparse,window --output {folder}/both")],
        needs=MODELS),
    "tiny": Report(
        "The model of this repository, full context", "10 quick, 60 long",
        [Part("Retrieval and perplexity of atlas-tiny",
              "eval --modes exact,sparse,window --tasks multi-key --lengths 8192 --samples 2 --questions 9 --perplexity 8192 -o {folder}/tiny",
              "eval --modes exact,sparse,window --tasks multi-key --lengths 16384,32768 --samples 8 --questions 9 --perplexity 32768 "
              "--documents 4 -o {folder}/tiny", reads="tiny/report.md")]),
    "memory": Report(
        "Test-time memory: recall, speed, and what it does beside sparse attention", "10 quick, 60 long",
        [Part("Recall and speed", "bench memory --output {folder}/recall"),
         Part("Beside sparse attention, atlas-tiny",
              "bench memory quality --brief --lengths 8192 --documents 1 --output {folder}/quality",
              "bench memory quality --lengths 16384,32768 --documents 4 --kl-positions 32768 --output {folder}/quality")]),
    "hosts": Report(
        "Host versions seen working", "10, and 60 when the hosts have to be built", [Part("Hosts", "test --hosts")],
        needs="source packages of the hosts (fetched)", own_page=True),
}


def run(command, **options):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)


def commit():
    """Short id, and whether what could change a measurement differs from it: text cannot."""
    head = run(["git", "log", "-1", "--format=%h of %cs"])
    if head.returncode != 0:
        return "unknown (no git here)"
    changed = run(["git", "status", "--porcelain", "--", ".", ":!docs", ":!*.md"]).stdout.strip()
    return head.stdout.strip() + (", with changes that are not committed" if changed else "")


def processor(cpuinfo=pathlib.Path("/proc/cpuinfo")):
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.is_file() else ""
    model = re.search(r"^(?:model name|CPU part)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    have = set(flags[1].split()) if flags else set()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model[1].strip() if model else 'unknown'}, {usable} logical cores; {' '.join(flag for flag in FLAGS if flag in have) or 'no known flags'}"


def memory():
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (ValueError, OSError):
        return "unknown"


NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def merged_cell(cells):
    """Numbers that differ between runs as median (least–most), where the words around them are the same; else what each run said."""
    if len({NUMBER.sub("#", cell) for cell in cells}) != 1:
        return cells[0] if len(set(cells)) == 1 else " " + "; ".join(cell.strip() for cell in cells) + " "
    columns = iter(zip(*map(NUMBER.findall, cells)))

    def merged_number(_):
        values = sorted(next(columns), key=float)
        if values[0] == values[-1]:
            return values[0]
        middle = values[len(values) // 2] if len(values) % 2 else f"{statistics.median(map(float, values)):g}"
        return f"{middle} ({values[0]}–{values[-1]})"

    return NUMBER.sub(merged_number, cells[0])


def merged(texts):
    """One text of several runs of a command: cells of tables that differ become medians and ranges."""
    lines = [text.splitlines() for text in texts]
    if len({len(each) for each in lines}) != 1:
        return "\n\n".join(texts)
    result = []
    for together in zip(*lines):
        rows = [line.split("|") for line in together]
        same = len({len(row) for row in rows}) == 1
        result.append("|".join(merged_cell(list(cells)) for cells in zip(*rows)) if same and together[0].startswith("|") else together[0])
    return "\n".join(result)


def cleaned(text, folder):
    """Without paths of this machine and what terminals understand; deeper headings than the page's."""
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).replace(str(folder), "…").replace(str(ROOT) + "/", "").replace(str(ROOT), ".")
    text = text.replace(str(pathlib.Path.home()), "~")
    text = re.sub(re.escape(tempfile.gettempdir()) + r"/[^\s|`/]+", "…", text)
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.splitlines()]
    lines = ["###" + line.lstrip("#") if re.match(r"#{1,3} ", line) else line for line in lines]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def as_typed(word):
    return MODEL.sub(r"$(./dev models --path \1)", word) if MODEL.search(word) else shlex.quote(word)


def measure(part, args, folder):
    """(command as typed, text). Throws RuntimeError with the command and the end of what it said."""
    words = []
    for word in shlex.split(part.long if args.long and part.long else part.quick):
        words += [option for text in args.text for option in ("--text", text)] if word == "{texts}" else [word]
    # Where a text lies is of no interest to others.
    short = {text: re.sub(r"=.*/", "=", text) for text in args.text}
    shown = "./dev " + " ".join(as_typed(short.get(word, word).replace("{folder}/", "").replace("{folder}", ".")) for word in words)
    words = [MODEL.sub(lambda found: str(models.MODELS[found[1]].path), word) for word in words]
    texts = []
    for turn in range(part.repeats):
        print(f"report: {shown}" + (f" ({turn + 1} of {part.repeats})" if part.repeats > 1 else ""), file=sys.stderr, flush=True)
        done = subprocess.run([*args.dev, *(word.replace("{folder}", str(folder)) for word in words)], cwd=ROOT, text=True,
                              stdout=subprocess.PIPE, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{shown}: status {done.returncode}\n" + "\n".join(done.stdout.splitlines()[-10:]))
        text = done.stdout
        if part.reads:
            try:
                text = (folder / part.reads).read_text(encoding="utf-8")
            except OSError as error:
                raise RuntimeError(f"{shown}: wrote no {part.reads}: {error.strerror}") from error
        if "|" not in text:
            raise RuntimeError(f"{shown}: no table in what it printed")
        texts.append(text)
    return shown + (f"    ({part.repeats} runs)" if part.repeats > 1 else ""), cleaned(merged(texts), folder)


def write_report(name, args):
    report = REPORTS[name]
    started = datetime.datetime.now(datetime.timezone.utc)
    facts = {"commit": commit(), "date": f"{started:%Y-%m-%d %H:%M} UTC", "processor": processor(), "memory": memory(),
             "load at the start": f"{os.getloadavg()[0]:.1f}"}
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        if report.own_page:
            command = [*args.dev, *shlex.split(report.parts[0].quick)]
            if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
                raise RuntimeError(f"./dev {report.parts[0].quick}: failed")
            return
        sections = []
        for part in report.parts:
            command, text = measure(part, args, folder)
            sections.append(f"## {part.title}\n\n    {command}\n\n{text}\n")
        spent = datetime.datetime.now(datetime.timezone.utc) - started
        facts["took"] = f"{spent.total_seconds() / 60:.0f} minutes" if spent.total_seconds() >= 90 else f"{spent.total_seconds():.0f} s"
        args.output.mkdir(parents=True, exist_ok=True)
        picture = folder / report.picture
        image = ""
        if report.picture and picture.is_file():
            shutil.copyfile(picture, args.output / f"{name}.png")
            image = f"![{report.title}]({name}.png)\n\n"
        table = "| | |\n|---|---|\n" + "".join(f"| {what} | {value} |\n" for what, value in facts.items())
        page = f"# {report.title}\n\nWritten by `./dev report{' --long' if args.long else ''} {name}`.\n\n{table}\n{image}" + "\n".join(sections)
        (args.output / f"{name}.md").write_text(page, encoding="utf-8")
    print(f"report: wrote {args.output / name}.md", file=sys.stderr)


def list_reports():
    width = max(map(len, REPORTS))
    for name, report in REPORTS.items():
        print(f"{name:<{width}}  {report.title}\n{'':<{width}}  minutes on two cores, roughly: {report.minutes}; needs: {report.needs}")


def main():
    parser = argparse.ArgumentParser(prog="./dev report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(REPORTS)}")
    parser.add_argument("--list", action="store_true", help="say what there is and run nothing")
    parser.add_argument("--long", action="store_true", help="the long form where there is one")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "docs/results", help="folder of the pages (default docs/results)")
    parser.add_argument("--text", action="append", default=[], metavar="NAME=FILE", help="one more text for what scores texts: fiction, another language …")
    parser.add_argument("--dev", type=shlex.split, default=[str(ROOT / "dev")], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.list:
        list_reports()
        return 0
    if not args.names:
        parser.error(f"no name given; there are {', '.join(REPORTS)}")
    for name in args.names:
        if name not in REPORTS:
            parser.error(f"{name}: no such report; there are {', '.join(REPORTS)}")
    failed = 0
    for name in args.names:
        try:
            write_report(name, args)
        except RuntimeError as error:
            print(f"report: {name} failed, its page is as it was: {error}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
