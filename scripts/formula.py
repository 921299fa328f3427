#!/usr/bin/env python3
"""Makes the Homebrew formula of this tree's version: the archive is written beside it, and the formula says at which address brew finds it.

    formula.py URL OUTPUT-FOLDER [--homepage URL]
"""

import argparse
import hashlib
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="where the archive will be, or with / at its end the folder; may be file://…")
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--homepage", help="default: the archive's address without its last part")
    args = parser.parse_args()
    version = re.search(r"project\(atlas VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"))[1]
    args.output.mkdir(parents=True, exist_ok=True)
    archive = args.output / f"ggml-atlas-{version}.tar.gz"
    # Of what is committed, as brew would get it.
    done = subprocess.run(["git", "-C", ROOT, "-c", f"safe.directory={ROOT}", "archive", "--format=tar.gz", f"--prefix=ggml-atlas-{version}/",
                           "-o", archive.resolve(), "HEAD"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"formula: git archive: {done.stderr.strip()}")
    url = args.url + archive.name if args.url.endswith("/") else args.url
    values = {"URL": url, "VERSION": version, "SHA256": hashlib.sha256(archive.read_bytes()).hexdigest(),
              "HOMEPAGE": args.homepage or url.rsplit("/", 1)[0]}
    text = (ROOT / "packaging/homebrew/ggml-atlas.rb.in").read_text(encoding="utf-8")
    text = re.sub(r"@([A-Z0-9]+)@", lambda match: values[match[1]], text)
    formula = args.output / "ggml-atlas.rb"
    formula.write_text(text, encoding="utf-8")
    print(f"{formula} of {archive}, {archive.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
