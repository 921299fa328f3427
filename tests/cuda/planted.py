#!/usr/bin/env python3
"""Runs the planted faults of planted.cpp in every build and order, and fails when one goes unnoticed or a right kernel is reported.

Which build must notice what is the table below: what the emulator sees by itself stands under "plain" and must be seen there.
"""

import argparse
import os
import re
import subprocess
import sys

MUST_REPORT = {
    "plain": {
        "divergent_barrier": r"simt: deadlock in block",
        "two_barriers": r"simt: threads of a block meet in different barriers",
        "wrong_mask": r"simt: deadlock in block|simt: lanes of one mask meet",
        "lane_outside": r"simt: shuffle reads a lane outside its mask",
        "mixed_collectives": r"simt: lanes of one mask meet in different warp operations",
        "too_much_shared": r"simt: kernel carves more shared memory",
        "never_written": r"simt: result 0 is -?nan",
        "misaligned": r"simt: misaligned read of device memory",
        "no_copy_wait": r"simt: result \d+ is (-?nan|2.4973)",
    },
    "asan": {
        "shared_past_end": r"AddressSanitizer: use-after-poison",
        "device_past_end": r"AddressSanitizer: heap-buffer-overflow",
        "overflow": r"runtime error: signed integer overflow",
    },
    "tsan": {
        "no_barrier": r"ThreadSanitizer: data race",
        "no_syncwarp": r"ThreadSanitizer: data race",
        "blocks_race": r"ThreadSanitizer: data race",
        "no_fence": r"ThreadSanitizer: data race",
        "no_copy_wait": r"ThreadSanitizer: data race",
        "no_barrier_after_copy": r"ThreadSanitizer: data race",
        "copy_over_readers": r"ThreadSanitizer: data race",
    },
}
RIGHT = ("right_barrier", "right_syncwarp", "right_fence", "right_copy", "right_copy_again")
SEEDS = ("0", "1", "2")
ENVIRONMENT = {"TSAN_OPTIONS": "halt_on_error=1", "UBSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=0"}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("programs", nargs="+", metavar="BUILD=PROGRAM")
    programs = dict(item.split("=", 1) for item in parser.parse_args().programs)
    checked, wrong = 0, []

    def run(build, name, seed):
        done = subprocess.run([programs[build], name, seed], env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, timeout=120)
        return done.returncode, done.stdout + done.stderr

    for build in programs:
        for name, report in MUST_REPORT[build].items():
            for seed in SEEDS[:2]:
                code, text = run(build, name, seed)
                checked += 1
                if code == 0 or not re.search(report, text):
                    wrong.append(f"{name} in {build}, seed {seed}: '{report}' is not in its report (status {code}): {text[:400]}")
        for name in RIGHT:
            for seed in SEEDS:
                code, text = run(build, name, seed)
                checked += 1
                if code != 0 or text:
                    wrong.append(f"{name} in {build}, seed {seed}: nothing is wrong with it, status {code}: {text[:400]}")
    for line in wrong:
        print(line)
    print(f"{checked} runs, {len(wrong)} wrong")
    return 1 if wrong or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
