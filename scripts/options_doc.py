#!/usr/bin/env python3
"""Writes docs/options.md from src/base/options.def. --check: status 1 if the page is another one than would be written."""

import argparse
import pathlib
import re
import sys

TOP = pathlib.Path(__file__).resolve().parents[1]
HEAD = """# Options

Written by `python3 scripts/options_doc.py` from `src/base/options.def`; a test fails when it is
stale.

An option is an environment variable, parsed once when the library is loaded; the `atlas` launcher
has a switch for each (`--atlas-mode sparse` for `ATLAS_MODE=sparse`). A value that is not allowed
makes the plug-in refuse to load, with one line that names the variable, the value and what is
allowed; the host then goes on without Atlas. A variable that begins with `ATLAS_` and is no option
is named in a warning.

A program can give one context values of its own, while it runs, with
[`llama_set_atlas_option`](api.md). Where the column "when" says `load`, an option counts only when
the library is loaded.

Refused too, naming both: `ATLAS_BUDGET_FLOOR` above `ATLAS_BUDGET` when both are set (of one alone,
the other follows); `ATLAS_MODE` other than `exact`, an `ATLAS_LEVEL` that asks for one, an
`ATLAS_KV_RAM`, an `ATLAS_WEIGHTS_RAM` or an `ATLAS_RAM` with `ATLAS_DEVICE=accel`, which has no
pages and no weights; the last two with `ATLAS_WEIGHTS=host`; an `ATLAS_WEIGHT_FORMAT` with either
device or weights so, or with `ATLAS_WEIGHTS_RAM` or `ATLAS_RAM`; an `ATLAS_WEIGHT_CACHE` without
such a format; an `ATLAS_RAM` beside one of the two that it stands for; an `ATLAS_KV_DISK` without
`ATLAS_KV_RAM` and `ATLAS_RAM`; `ATLAS_MEMORY=1` with an `ATLAS_MODE` other than `sparse` (a blend
goes with `window` too).
"""
SECTIONS = {"user": "## For users", "expert": "## For experts\n\nFor experiments. Nobody has to turn these.", "test": "## For tests"}


def split_arguments(text):
    """The arguments of a macro call whose parenthesis has just been opened, and where it ends. Strings and inner parentheses are kept whole."""
    arguments, depth, start, at = [], 0, 0, 0
    while True:
        letter = text[at]
        if letter == '"':
            at = re.compile(r'"(?:[^"\\]|\\.)*"').match(text, at).end()
            continue
        if letter in "(":
            depth += 1
        elif letter == ")" and depth > 0:
            depth -= 1
        elif depth == 0 and letter in ",)":
            arguments.append(text[start:at].strip())
            start = at + 1
            if letter == ")":
                return arguments, at
        at += 1


def unquote(text):
    """Adjacent C string literals as one text."""
    return "".join(re.sub(r"\\(.)", r"\1", part) for part in re.findall(r'"((?:[^"\\]|\\.)*)"', text))


def rows_of(table):
    """The rows of options.def as dictionaries; what is malformed raises ValueError."""
    table = re.sub(r"^//[^\n]*", "", table, flags=re.MULTILINE)
    rows = []
    for match in re.finditer(r"^ATLAS_OPTION\(", table, re.MULTILINE):
        arguments, _ = split_arguments(table[match.end():])
        if len(arguments) != 8:
            raise ValueError(f"a row of {len(arguments)} columns: {arguments}")
        group, field, name, kind, default, audience, when, text = arguments
        if audience not in SECTIONS:
            raise ValueError(f"{name}: audience {audience}")
        if when != "CONTEXT" and not re.fullmatch(r'LOAD\("[^"]+"\)', when):
            raise ValueError(f"{name}: when {when}")
        rows.append({"group": group, "field": field, "name": unquote(name), "kind": kind, "default": default, "audience": audience,
                     "when": "load" if when.startswith("LOAD") else "any time", "help": unquote(text)})
    return rows


def allowed(kind):
    """The column `allowed` of a row's type."""
    word, _, rest = kind.partition("(")
    inner = split_arguments(rest)[0] if rest else []
    if word == "FLAG":
        return "`0`, `1`"
    if word in ("INTEGER", "REAL"):
        return f"`{inner[0]}` to `{inner[1]}`"
    if word == "ONE_OF":
        return ", ".join(f"`{number}`" for number in inner)
    if word == "BYTES":
        return "bytes, with `K`, `M` or `G` behind it if wanted"
    if word in ("CHOICE", "WORD"):
        return ", ".join(f"`{unquote(part)}`" for part in inner[1 if word == "CHOICE" else 0:])
    if word in ("TEXT", "TEXT_OR_1"):
        return unquote(inner[0])
    raise ValueError(f"unknown type {kind}")


def page_of(rows):
    """The whole page."""
    text = HEAD
    for audience, title in SECTIONS.items():
        text += f"\n{title}\n\n| variable | allowed | default | when | meaning |\n|---|---|---|---|---|\n"
        for row in rows:
            if row["audience"] == audience:
                default = f"`{row['default']}`" if row["default"] else ""
                meaning = row["help"].replace("|", "\\|")
                text += f"| `{row['name']}` | {allowed(row['kind'])} | {default} | {row['when']} | {meaning} |\n"
    return text


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--root", type=pathlib.Path, default=TOP)
    args = parser.parse_args()
    page = args.root / "docs/options.md"
    text = page_of(rows_of((args.root / "src/base/options.def").read_text(encoding="utf-8")))
    if not args.check:
        page.write_text(text, encoding="utf-8")
        return 0
    if page.exists() and page.read_text(encoding="utf-8") == text:
        return 0
    print("docs/options.md is not what src/base/options.def says: run python3 scripts/options_doc.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
