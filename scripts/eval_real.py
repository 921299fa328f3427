#!/usr/bin/env python3
"""`atlas eval` on the real models of `./dev models`, with lengths, frames and texts that suit them.

Retrieval: one document of technical documentation per sample with facts of all kinds in it, every question asked alone behind it.
Perplexity, KL divergence and likeliest token: the end of documents from several texts, in batches as small as when a program writes.
Documents are read once and kept (the user's cache), by --read or by each mode itself, so that comparing one more way of asking is
cheap. What follows -- goes to `atlas eval` as it is (--help there).
"""

import argparse
import gzip
import lzma
import pathlib
import re
import subprocess
import sys
import sysconfig
import tempfile

import models

KINDS = ["codes", "names", "sentences", "two-hop", "counting", "identifiers", "qa"]
NEEDLES = ["multi-key", "multi-value", "multi-query", "variable-tracking"]
LISTS = ["common-words", "frequent-words"]
# Tokens of a document, and whether the model follows instructions (Gemma's is the pretrained one).
SHAPES = {"smollm2": (7168, True), "qwen": (15872, True), "gemma3": (15872, False)}
MANUALS = ["coreutils", "find", "diffutils", "grep", "sed"]  # of the packages that every system for building has
MODULES = ["argparse", "ast", "typing", "inspect", "tarfile", "pydoc", "subprocess", "doctest", "pickletools", "statistics", "mailbox"]


def manual(name):
    """The text of an info page without its marks, or "" where the system does not have it."""
    for path in pathlib.Path("/usr/share/info").glob(f"{name}.info*"):
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8", errors="replace") as file:
            text = file.read()
        text = re.sub(r"\x1f\n(File: .*|Tag Table:[\s\S]*)?", "", text)
        return re.sub(r"[\x00-\x08\x0b-\x1f]", "", text)
    return ""


def documentation():
    text = "\n\n".join(filter(None, map(manual, MANUALS)))
    if len(text) > 400_000:
        return text
    licences = sorted(path for path in pathlib.Path("/usr/share/common-licenses").glob("*") if path.is_file() and not path.is_symlink())
    return text + "\n\n".join(path.read_text(encoding="utf-8", errors="replace") for path in licences)


def source_code():
    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    found = [library / f"{name}.py" for name in MODULES]
    return "\n\n".join(path.read_text(encoding="utf-8", errors="replace") for path in found if path.is_file())


def given(path):
    """A text file, packed by xz or gzip if its name says so."""
    opener = {".xz": lzma.open, ".gz": gzip.open}.get(pathlib.Path(path).suffix, open)
    with opener(path, "rt", encoding="utf-8", errors="replace") as file:
        return file.read()


def write_texts(folder, more):
    """{name: file} of documentation, source code and what was given as NAME=FILE."""
    texts = {"documentation": documentation(), "code": source_code()}
    for item in more:
        name, _, path = item.partition("=")
        if not path:
            raise ValueError(f"--text {item}: not NAME=FILE")
        texts[name] = given(path)
    files = {}
    for name, text in texts.items():
        if not text.strip():
            print(f"eval real: no text for {name} on this system; give one: --text {name}=FILE", file=sys.stderr)
            continue
        files[name] = folder / f"{name}.txt"
        files[name].write_text(text, encoding="utf-8")
    if not files:
        raise ValueError("no text at all: give some with --text NAME=FILE")
    return files


def tasks_of(what):
    if what == "none":
        return "none"
    if what == "facts":
        return "+".join(KINDS)
    if what == "needles":
        return "+".join(NEEDLES)
    if what == "ruler":
        return ",".join(["+".join(["single", *NEEDLES]), *LISTS])
    everything = "+".join(KINDS + NEEDLES)
    return everything if what == "all" else ",".join([everything, *LISTS]) if what == "all,lists" else what


def command(args, name, files, output):
    length, chat = SHAPES[name]
    length = args.length or length
    made = [args.atlas, "eval", "-m", models.MODELS[name].path, "--modes", args.modes, "--text", next(iter(files.values())),
            "--tasks", tasks_of(args.tasks), "--lengths", length, "--samples", args.samples, "--questions", args.questions,
            "--distractors", args.questions - 1, "--wording", "varied", "--seed", args.seed, "-o", output]
    made += ["--states", args.states] if args.states != "none" else []
    made += ["--read", args.read] if args.read else []
    made += ["--chat"] if chat else []
    made += ["--threads", args.threads] if args.threads else []
    if args.tail:
        made += ["--perplexity", length, "--tail", args.tail, "--documents", args.documents, "--batch", args.batch, "--kl-positions", 1_000_000]
        for text, file in files.items():
            made += ["--perplexity-text", f"{text}={file}"]
    return [str(part) for part in made] + args.rest


def main():
    arguments = sys.argv[1:]
    rest = []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, rest = arguments[:at], arguments[at + 1:]
    parser = argparse.ArgumentParser(description=__doc__, prog="./dev eval real", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="MODEL", help=f"which (default: all that are there): {', '.join(SHAPES)}")
    parser.add_argument("--atlas", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--modes", default="exact,sparse", help="as for atlas eval (default %(default)s); the first is the measure of the others")
    parser.add_argument("--read", default="", help="the mode that reads for all others; without it each reads for itself")
    parser.add_argument("--states", default="cache", help="folder of what was read (default: the user's cache); none: nothing is kept, and the first question is read in one go with its document")
    parser.add_argument("--tasks", default="all",
                        help="all (facts and needles in one document), facts, needles, ruler (needles and lists), `all,lists`, none, or tasks of atlas eval (default %(default)s)")
    parser.add_argument("--samples", type=int, default=2, help="documents (default %(default)s)")
    parser.add_argument("--questions", type=int, default=8, help="facts of each kind in a document, all asked for (default %(default)s)")
    parser.add_argument("--length", type=int, default=0, help="tokens of a document (default: what suits the model)")
    parser.add_argument("--tail", type=int, default=256, help="tokens at the end of each document scored for perplexity and KL; 0: none (default %(default)s)")
    parser.add_argument("--documents", type=int, default=1, help="documents per text for that (default %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="tokens read at a time there (default %(default)s)")
    parser.add_argument("--text", action="append", default=[], metavar="NAME=FILE", help="one more text for perplexity (fiction, another language …)")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--output", default="atlas-eval", help="folder of the reports, one per model (default %(default)s)")
    args = parser.parse_args(arguments)
    args.rest = rest
    if unknown := [name for name in args.names if name not in SHAPES]:
        parser.error(f"{unknown[0]}: no such model; there are {', '.join(SHAPES)}")
    if args.questions < 1:
        parser.error("--questions needs 1 at least")
    names = args.names or [name for name in SHAPES if models.MODELS[name].path.is_file()]
    missing = [name for name in names if not models.MODELS[name].path.is_file()]
    if missing or not names:
        what = f"{', '.join(missing)}: not fetched yet" if names else "none of the models is there"
        print(f"eval real: {what}: ./dev models {' '.join(missing)}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        try:
            files = write_texts(pathlib.Path(folder), args.text)
        except (ValueError, OSError, lzma.LZMAError) as error:
            parser.error(str(error))
        for name in names:
            print(f"## {name}: {models.MODELS[name].what}\n", flush=True)
            status = subprocess.run(command(args, name, files, pathlib.Path(args.output) / name), check=False).returncode
            if status != 0:
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
