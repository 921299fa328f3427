#!/usr/bin/env python3
"""Every relative link of a Markdown page leads to a file of the tree. Exit status 0, or every broken one as FILE:LINE: TARGET."""

import pathlib
import re
import sys

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parents[2])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def pages():
    yield from ROOT.glob("*.md")
    for folder in ("docs", "models", "examples", "tests", "benchmarks"):
        yield from (ROOT / folder).rglob("*.md")


def main():
    broken = []
    links = 0
    for page in sorted(pages()):
        # A link may be broken over two lines.
        text = page.read_text(encoding="utf-8")
        for found in LINK.finditer(text):
            target = found[1].split("#")[0]
            if not target or re.match(r"[a-z]+:", target):
                continue
            links += 1
            if not (page.parent / target).exists():
                line = text.count("\n", 0, found.end()) + 1
                broken.append(f"{page.relative_to(ROOT)}:{line}: {target}: no such file")
    print("\n".join([*broken, f"{links} links, {len(broken)} broken"]))
    return 1 if broken or links == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
