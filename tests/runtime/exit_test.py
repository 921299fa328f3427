#!/usr/bin/env python3
"""exit_test.py PROGRAM main|static|never: a host ends well and ATLAS_STATS is written, whenever its context ends. Under AddressSanitizer: nothing is used
after it is gone."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

SPARSE = {"ATLAS_MODE": "sparse", "ATLAS_THRESHOLD": "256", "ATLAS_WINDOW": "64", "ATLAS_BUDGET_FLOOR": "64", "ATLAS_BUDGET": "64",
          "ATLAS_MEMORY": "1"}


def run(program, when, **variables):
    """The ended program and its statistics, None where nothing was written."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ATLAS_") and name != "GGML_BACKEND_PATH"}
    with tempfile.TemporaryDirectory() as folder:
        stats = pathlib.Path(folder, "stats.json")
        result = subprocess.run([program, when], env={**clean, **SPARSE, "ATLAS_STATS": str(stats), **variables}, capture_output=True, text=True,
                                check=False, timeout=100)
        if result.returncode != 0 or "Sanitizer" in result.stderr or "runtime error" in result.stderr:
            sys.exit(f"{when} {variables}: status {result.returncode}\n{result.stderr[-4000:]}")
        return result, json.loads(stats.read_text(encoding="utf-8")) if stats.exists() else None


def require(condition, what):
    """Ends the test with the reason."""
    if not condition:
        sys.exit(what)


def main():
    """One way to end, with sparse attention that works, that has too short a text, and into the log."""
    program, when = sys.argv[1:]
    result, stats = run(program, when)
    require(stats and len(stats["layers"]) == 1 and stats["layers"][0]["estimated_keys"] > 0, f"{when}: {stats}")
    require(stats["absent"] == [], f"{when}: {stats}")
    require("takes no part" not in result.stderr, result.stderr)

    result, stats = run(program, when, ATLAS_THRESHOLD="100000")
    require(stats and [one["reason"] for one in stats["absent"]] == ["below_threshold"], f"{when}, a short text: {stats}")

    result, stats = run(program, when, ATLAS_MODE="exact", ATLAS_MEMORY="0")
    require(stats and stats["layers"] and all(0 < one["calls"] == one["exact_calls"] for one in stats["layers"]), f"{when}, exact: {stats}")

    result, stats = run(program, when, ATLAS_STATS="1")
    require(stats is None and 'atlas: [info] attention: {"layers": [' in result.stderr, f"{when}, into the log:\n{result.stderr}")


if __name__ == "__main__":
    main()
