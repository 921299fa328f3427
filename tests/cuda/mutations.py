#!/usr/bin/env python3
"""Takes one line at a time out of the real kernels (a barrier, a fence, a wait for copies, …) and fails when no test notices.

Compiles emulated_kernels.cpp against a changed copy of src/kernels/cuda with the build's own commands, and links it in place of the right one. What was noticed
is kept beside the build by a hash of kernels and tests, so that a run that was ended goes on where it was: the whole takes long.
"""

import argparse
import hashlib
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
KERNELS = ROOT / "src/kernels/cuda"
SPARSE = "Seeds/CudaSparse.OneListInAnySplit/1:Seeds/CudaSparse.EveryShape/1"
PRODUCTS = "Seeds/CudaProducts.RowsAndColumnsAroundBlocks/1"
DEVICE = "Seeds/CudaDevice.EveryKernelAtAnyShape/1:Seeds/CudaDevice.TheSameRowsWhateverTheSplit/1"
NOT_FINITE = "Variants/PrefillTest.ValuesThatAreNotFiniteStayWithTheRowsThatSeeThem/*"

# File, what is replaced (must be there once), by what, the build whose tests must fail, which tests, what is wrong then.
MUTATIONS = [
    ("decode.cuh", "    __syncthreads();\n\n    for (int r = 0; r < s.count", "    for (int r = 0; r < s.count", "tsan", DEVICE,
     "sums of other warps are read before they are there"),
    ("merge.cuh", "    __threadfence();\n    __syncthreads();\n", "    __syncthreads();\n", "tsan", DEVICE, "parts are announced before they are written"),
    ("merge.cuh", "    __threadfence();\n    __syncthreads();\n", "    __threadfence();\n", "tsan", DEVICE, "one thread announces what others still write"),
    ("merge.cuh", "        __threadfence();\n        *shared", "        *shared", "tsan", DEVICE, "parts of other blocks are read without an acquire"),
    ("merge.cuh", "        *shared = before;\n    }\n    __syncthreads();\n", "        *shared = before;\n    }\n", "tsan", DEVICE,
     "the ticket is read before it is drawn"),
    ("merge.cuh", "simt::write(ticket, 0u);", ";", "plain", "Seeds/CudaDevice.TicketsAreLeftAsTheyWereFound/1", "tickets are not given back"),
    ("tiles.cuh", "        simt::copy_wait<1>();\n", "        simt::copy_wait<2>();\n", "tsan", DEVICE, "a tile is read before its copy has arrived"),
    ("tiles.cuh", "        simt::copy_wait<1>();\n        __syncthreads();\n", "        simt::copy_wait<1>();\n", "tsan", DEVICE,
     "a tile is read while other threads' copies are on their way"),
    ("tiles.cuh", "        __syncthreads();  // the tile is read", "        // the tile is read", "tsan", DEVICE, "a tile is overwritten while others read it"),
    ("tiles.cuh", "not_finite);\n    __syncthreads();\n", "not_finite);\n", "tsan", DEVICE, "rows are mended by what other warps have not said yet"),
    ("tiles.cuh", "if (not_finite[row]) mend_row", "if (false) mend_row", "plain", NOT_FINITE, "a NaN that others see stays in a row"),
    ("tiles.cuh", "top = simt::most_over_lanes<1, 4>(top);", "top = simt::most_over_lanes<1, 2>(top);", "plain", DEVICE, "lanes of a row differ in its maximum"),
    ("stream.cuh", "if (!there || (visible.cells[r] >> cell & 1) == 0) continue;", "if (!there) continue;", "plain", DEVICE, "hidden keys count"),
    ("stream.cuh", "simt::sum_over_lanes<1, kLanes>(product)", "simt::sum_over_lanes<1, kLanes / 2>(product)", "plain", DEVICE, "half of a product is lost"),
    ("rows.cuh", "const bool odd = (reinterpret_cast<uintptr_t>(from) & 2) != 0;", "const bool odd = false;", "plain", DEVICE, "words are read off their alignment"),
    ("rows.cuh", "(odd ? 14 : 2)", "(odd ? 16 : 2)", "plain", DEVICE, "bytes of the next block"),
    ("codes.cuh", "sums[r][i] + __shfl_xor_sync(simt::kWholeWarp, sums[r][i], 16)", "sums[r][i]", "plain", SPARSE, "half of the dimensions are lost"),
    ("codes.cuh", "key_scales[i] * more.x", "key_scales[0] * more.x", "plain", SPARSE, "all keys have the first one's scale"),
    ("rotate.cuh", "        __syncwarp();\n        for (int pair", "        for (int pair", "tsan", SPARSE, "a step of the transform overtakes the last"),
    ("rotate.cuh", "    __syncwarp();\n    for (int i = lane; i < d; i += 32) x[i] *= simt::read(signs + i);",
     "    for (int i = lane; i < d; i += 32) x[i] *= simt::read(signs + d - 1 - i);", "plain", "CudaTable.*", "queries and keys turned by other signs than the oracle's"),
    ("encode.cuh", "    __syncthreads();\n    bool bad = false;", "    bool bad = false;", "tsan", SPARSE, "other warps' sums are read before they are there"),
    ("select.cuh", "counters.buckets[i] = 0;\n        __syncthreads();\n", "counters.buckets[i] = 0;\n", "tsan", SPARSE, "buckets are filled while they are emptied"),
    ("select.cuh", "    __syncthreads();\n    unsigned sure = 0;", "    unsigned sure = 0;", "tsan", SPARSE, "rows' attention is read before it is there"),
    ("select.cuh", "        __syncthreads();\n        unsigned in_round = 0;", "        unsigned in_round = 0;", "tsan", SPARSE, "other warps' counts are read before they are there"),
    ("select.cuh", "level = kNoShare;\n        } else", "} else", "plain", SPARSE, "of few pages fewer keys than asked for"),
    ("select.cuh", "(row + 1) % place.group == 0", "(row + 1) % place.rows == 0", "plain", "Seeds/CudaSparse.TilesOfSeveralTokens/1", "shares of several tokens are added"),
    ("select.cuh", "if (w == warp) ahead += found + in_round;", "if (w == warp) ahead += in_round;", "plain", "Seeds/CudaSparse.ManyPages/1",
     "pages of later rounds take the places of earlier ones"),
    ("rest.cuh", "(mine >> i & 1u) != 0 ? 0.0f : ", "", "plain", SPARSE, "selected keys count twice"),
    ("rest.cuh", "    __syncthreads();  // the last rows'", "    // the last rows'", "tsan", SPARSE, "sums are overwritten while others add them up"),
    ("products.cuh", "        __syncthreads();  // the last tile", "        // the last tile", "tsan", PRODUCTS, "activations are overwritten while others read them"),
    ("products.cuh", "        __syncthreads();\n        if (first_row < a.rows)", "        if (first_row < a.rows)", "tsan", PRODUCTS, "activations are read before they are there"),
    ("products.cuh", "- 32.0f * sum_at", "- 31.0f * sum_at", "plain", PRODUCTS, "a wrong middle of six bits"),
    ("rest.cuh", "weights[r] *= simt::power_of_two(simt::larger(-kLn2 * square * noise, -126.0f));", "", "plain", SPARSE, "the estimate is not debiased"),
]


def run(command, **options):
    return subprocess.run(command, capture_output=True, text=True, **options)


class Build:
    """Commands of one instrumented build of test_cuda_kernels."""

    def __init__(self, folder, name):
        self.folder = folder
        target = f"test_cuda_kernels_{name}"
        commands = json.loads((folder / "compile_commands.json").read_text(encoding="utf-8"))
        self.compile = next(shlex.split(entry["command"]) for entry in commands
                            if entry["file"].endswith("emulated_kernels.cpp") and f"{target}.dir" in entry["command"])
        link = run(["ninja", "-C", str(folder), "-t", "commands", "-s", f"tests/cuda/{target}"]).stdout.strip().splitlines()[-1]
        self.link = [word for word in shlex.split(link) if word not in (":", "&&")]
        self.object = self.compile[self.compile.index("-o") + 1]
        self.program = self.link[self.link.index("-o") + 1]

    def program_of(self, sources, scratch):
        """The program with kernels out of `sources`, or None where they do not compile."""
        compiled, program = scratch / "kernels.o", scratch / "program"
        command = [word for word in self.compile if not word.endswith("ccache")]
        command[command.index("-o") + 1] = str(compiled)
        # Before all other folders of headers.
        done = run([command[0], f"-I{sources}", *command[1:]], cwd=self.folder)
        if done.returncode != 0:
            return None, done.stderr
        link = [str(compiled) if word == self.object else str(program) if word == self.program else word for word in self.link]
        done = run(link, cwd=self.folder)
        return (program, "") if done.returncode == 0 else (None, done.stderr)


class Noticed:
    """Which mutations were noticed, by what they and the tests are made of."""

    def __init__(self, folder):
        self.file = folder / "tests/cuda/mutations.json"
        self.found = set(json.loads(self.file.read_text(encoding="utf-8"))) if self.file.exists() else set()
        sources = hashlib.sha256()
        for path in sorted([*KERNELS.iterdir(), *(ROOT / "tests/cuda").rglob("*")]):
            if path.suffix in (".cpp", ".cuh", ".h", ".def"):
                sources.update(path.name.encode() + b"\0" + path.read_bytes())
        self.sources = sources.hexdigest()

    def key(self, mutation):
        return hashlib.sha256((self.sources + repr(mutation)).encode()).hexdigest()[:24]

    def add(self, mutation):
        self.found.add(self.key(mutation))
        self.file.write_text(json.dumps(sorted(self.found)), encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("build", type=pathlib.Path, help="the folder of a release build")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of mutations")
    arguments = parser.parse_args()
    builds, unnoticed = {}, []
    before = Noticed(arguments.build.resolve())
    chosen = arguments.only if arguments.only is not None else range(len(MUTATIONS))
    for number in chosen:
        file, old, new, build, tests, fault = MUTATIONS[number]
        if before.key(MUTATIONS[number]) in before.found:
            print(f"{'before':10} {file}, {build}: {fault}", flush=True)
            continue
        text = (KERNELS / file).read_text(encoding="utf-8")
        if text.count(old) != 1:
            unnoticed.append(f"{number}: {file} has {text.count(old)} times {old!r}: mutations.py is stale")
            continue
        if build not in builds:
            builds[build] = Build(arguments.build.resolve(), build)
        with tempfile.TemporaryDirectory() as folder:
            scratch = pathlib.Path(folder)
            changed = scratch / "kernels/cuda"
            changed.mkdir(parents=True)
            for path in KERNELS.iterdir():
                if path.suffix in (".cuh", ".h", ".def"):
                    (changed / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
            (changed / file).write_text(text.replace(old, new), encoding="utf-8")
            program, errors = builds[build].program_of(scratch, scratch)
            if not program:
                unnoticed.append(f"{number}: {fault}: does not compile: {errors[:500]}")
                continue
            # The first report is enough.
            done = run([str(program), f"--gtest_filter={tests}"], timeout=1800, env={**os.environ, "TSAN_OPTIONS": "halt_on_error=1"})
            noticed = done.returncode != 0 and "0 tests from 0" not in done.stdout
            print(f"{'noticed' if noticed else 'UNNOTICED':10} {file}, {build}: {fault}", flush=True)
            if noticed:
                before.add(MUTATIONS[number])
            else:
                unnoticed.append(f"{number}: {file}: {fault}")
    for line in unnoticed:
        print(line)
    print(f"{len(list(chosen))} mutations, {len(unnoticed)} unnoticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
