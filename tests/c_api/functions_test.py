#!/usr/bin/env python3
"""The public headers, the C test, the table of functions by name and what the library exports have the same functions."""

import argparse
import pathlib
import re
import subprocess
import sys


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plugin", required=True)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[2])
    args = parser.parse_args()
    declared = set()
    for header in sorted((args.root / "include/atlas").glob("*.h")):
        text = re.sub(r"/\*.*?\*/", "", header.read_text(encoding="utf-8"), flags=re.DOTALL)
        declared |= set(re.findall(r"^ATLAS_API[^;(]*?\b(\w+)\(", text, re.MULTILINE))
    test = (args.root / "tests/c_api/every_function.c").read_text(encoding="utf-8")
    called = {name for name in declared if re.search(rf"\b{name}\(", test)}
    table = set(re.findall(r"^ *FUNCTION\((\w+)\),", (args.root / "src/host/public_functions.cpp").read_text(encoding="utf-8"), re.MULTILINE))
    symbols = subprocess.run(["nm", "-D", "--defined-only", args.plugin], capture_output=True, text=True, check=True).stdout
    exported = {name for name in re.findall(r" T (\w+)(?:@@ATLAS_RUNTIME_1)?$", symbols, re.MULTILINE) if re.match(r"atlas_|llama_", name)}
    wrong = []
    for what, have in [("called in every_function.c", called), ("offered by public_functions.cpp", table), ("exported", exported)]:
        wrong += [f"{name}: declared and not {what}" for name in sorted(declared - have)]
        wrong += [f"{name}: {what} and not declared" for name in sorted(have - declared)]
    print(*wrong, f"{len(declared)} functions", sep="\n")
    return 1 if wrong or len(declared) < 20 else 0


if __name__ == "__main__":
    sys.exit(main())
