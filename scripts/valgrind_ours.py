"""Reads a log of valgrind and fails when an error or a leak has a frame of libggml-atlas in its stack; the host's own are counted only."""

import re
import sys

BLOCK = re.compile(r"^==\d+== ?$", re.MULTILINE)


def main(path):
    with open(path, encoding="utf-8", errors="replace") as log:
        text = log.read()
    if "LEAK SUMMARY" not in text and "no leaks are possible" not in text:
        print(f"{path}: no leak summary, so the program did not run to its end under valgrind")
        return 1
    ours, others = [], 0
    for block in BLOCK.split(text):
        if "   at 0x" not in block:
            continue
        if "libggml-atlas" in block or re.search(r"\batlas::", block):
            ours.append(block)
        else:
            others += 1
    for block in ours:
        print(block)
    print(f"valgrind: {len(ours)} reports with a frame of Atlas, {others} of the host alone")
    return 1 if ours else 0


sys.exit(main(sys.argv[1]))
