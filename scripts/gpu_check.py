"""What gpu_check.sh does on a machine with a GPU. Python 3.8 and later, nothing else."""

import argparse
import ctypes
import json
import pathlib
import re
import shutil
import subprocess
import sys
import time

BUDGET = 600  # seconds for all
# Small shapes: compute-sanitizer makes kernels some hundred times slower.
SANITIZED = "Variants/AttentionTest.Groups/*:Variants/PrefillTest.ValuesThatAreNotFiniteStayWithTheRowsThatSeeThem/*"
TOOLS = ("memcheck", "racecheck", "synccheck")
# A time may be so much worse than its prediction, which came before any GPU was seen.
SLACK = 1.5


class Check:
    def __init__(self, folder):
        self.folder = folder
        self.started = time.monotonic()
        self.results = {"checks": [], "times": []}
        loader = sorted((folder / "lib").glob("ld-linux*")) if (folder / "lib").is_dir() else []
        self.prefix = [str(loader[0]), "--library-path", str(folder / "lib")] if loader else []

    def note(self, name, right, said=""):
        self.results["checks"].append({"name": name, "right": right, "said": said})
        print(f"{'ok' if right else 'WRONG':6} {name}{': ' + said if said else ''}", flush=True)

    def run(self, program, *arguments, tool=()):
        left = BUDGET - (time.monotonic() - self.started)
        command = [*tool, *self.prefix, str(self.folder / program), *arguments]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, universal_newlines=True, timeout=max(1, left))
            return done.returncode, done.stdout
        except subprocess.TimeoutExpired:
            return 124, f"not done within the {BUDGET} seconds for all checks"

    def tests(self):
        status, text = self.run("test_cuda_gpu", "--gtest_filter=Variants/*")
        passed = re.search(r"\[  PASSED  \] (\d+) tests", text)
        failed = re.findall(r"\[  FAILED  \] (\S+)", text)
        ran = int(passed[1]) if passed else 0
        # Tests that skip themselves (no GPU) are none.
        self.note("results on the device", status == 0 and ran > 0 and "SKIPPED" not in text,
                  f"{ran} tests passed" + (f", failed: {' '.join(sorted(set(failed)))}" if failed else "") + ("" if status == 0 else f", status {status}"))

    def sanitizers(self):
        tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
        if not tool:
            self.note("compute-sanitizer", False, "is not on the path: it comes with CUDA's toolkit")
            return
        for name in TOOLS:
            status, text = self.run("test_cuda_gpu", f"--gtest_filter={SANITIZED}", tool=(tool, "--tool", name, "--error-exitcode", "9"))
            summary = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: .*", text)
            self.note(name, status == 0 and bool(summary), summary[-1] if summary else text[-300:])

    def times(self, predictions):
        status, text = self.run("cuda_times")
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        if status != 0 or not lines:
            self.note("times", False, text[-300:])
            return
        device, shapes = lines[0], lines[1:]
        self.results["device"] = device
        card = next((card for card in predictions["cards"] if re.search(card["name"], device["device"])), None)
        for shape in shapes:
            shape["gb_per_s"] = round(shape["bytes"] / shape["us"] / 1e3, 1)
            shape["tflops"] = round(shape["flops"] / shape["us"] / 1e6, 2)
            said = f"{shape['us']:.0f} µs ({shape['least_us']:.0f} to {shape['most_us']:.0f}), {shape['gb_per_s']} GB/s, {shape['tflops']} TFLOP/s"
            right = shape["finite"]
            if card:
                shape["predicted_us"] = predicted_us(card, predictions["launch_us"], shape)
                right = right and shape["us"] <= SLACK * shape["predicted_us"]
                said += f", predicted {shape['predicted_us']:.0f} µs"
            self.note(shape["shape"], right, said)
        self.results["times"] = shapes
        if not card:
            print(f"no predictions for {device['device']}: times were not compared")


def predicted_us(card, launch_us, shape):
    """A kernel takes what its bytes or its products take, whichever is more, at the part of the card's peak that its kind is predicted to reach."""
    kind = shape["shape"].split()[0]
    share = card["share"][kind + " " + shape["shape"].split()[1].rstrip(",")]
    return round(launch_us * shape.get("launches", 1) + max(shape["bytes"] / card["gb_per_s"] / 1e3 / (share if kind != "prompt" else 1),
                                 shape["flops"] / card["tflops"] / 1e6 / (share if kind == "prompt" else 1)), 1)


def table(predictions, shapes):
    """The predictions of all cards, for docs/design/cuda.md."""
    for shape in shapes:
        print("| " + " | ".join([shape["shape"]] + [f"{predicted_us(card, predictions['launch_us'], shape):.0f}" for card in predictions["cards"]]) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path, nargs="?", help="with the programs (default: where this file is, or build/tests/cuda)")
    parser.add_argument("--json", type=pathlib.Path, default=pathlib.Path("gpu_check.json"))
    parser.add_argument("--table", type=pathlib.Path, help="print predictions for the shapes of this file of cuda_times's lines, and nothing else")
    arguments = parser.parse_args()
    here = pathlib.Path(__file__).resolve().parent
    folder = (arguments.folder or (here if (here / "cuda_times").exists() else here.parent / "build/tests/cuda")).resolve()
    beside = folder / "predictions.json"
    predictions = json.loads((beside if beside.exists() else here.parent / "tests/cuda/gpu/predictions.json").read_text(encoding="utf-8"))
    if arguments.table:
        table(predictions, [json.loads(line) for line in arguments.table.read_text(encoding="utf-8").splitlines() if '"shape"' in line])
        return 0
    # What the machine lacks comes first: where there is no GPU it does not matter whether the programs are there and start.
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        print("no NVIDIA driver: libcuda.so.1 is not there")
        return 2
    for program in ("test_cuda_gpu", "cuda_times"):
        if not (folder / program).exists():
            print(f"{folder} has no {program}: build the targets test_cuda_gpu and cuda_times, where nvcc is")
            return 2
    check = Check(folder)
    status, text = check.run("cuda_times", "1", "64")
    if status == 127 or "error while loading shared libraries" in text:
        print(f"{text.strip()}: gpu_check.sh --pack takes the libraries of the programs along")
        return 2
    if status == 2:
        print(text.strip())
        return 2
    check.times(predictions)
    check.tests()
    check.sanitizers()
    wrong = [one["name"] for one in check.results["checks"] if not one["right"]]
    check.results["seconds"] = round(time.monotonic() - check.started, 1)
    check.results["wrong"] = wrong
    arguments.json.write_text(json.dumps(check.results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(check.results['checks'])} checks, {len(wrong)} wrong, {check.results['seconds']} s, written to {arguments.json}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
