#!/usr/bin/env python3
"""Models that memory has no room for: an unmodified llama-completion in a memory cgroup of a share of the model's file, with its own mmap and with
ATLAS_WEIGHTS_RAM. Prints a table per model. Beside it, in the same run, what the disk gives to direct reads of the file, and all in memory without a limit.

Without -m two models of random weights, made anew: a dense one, and one of which each token uses 8 of 64 experts per layer, some much more often than
others. "Of what can be": a token takes at least what it takes with all weights in memory, and at least as long as the disk needs for the bytes that were
read for it; 1.00 is the larger of the two.

"First token" is from the start of the program, loading included. Each run is noted in a file beside --scratch's models (--again: not looked at), with the
plug-in's hash, so that a measurement that was ended goes on where it was.

Linux cgroups of version 1 and 2, as root. What weights may take is the limit less --reserve, which is for everything else in the process. The file is
dropped from the system's cache before every run. Runs outside of the root that ./dev makes, where cgroups cannot be made, and starts programs in there.
"""

import argparse
import concurrent.futures
import contextlib
import ctypes
import dataclasses
import hashlib
import json
import mmap
import os
import pathlib
import re
import shlex
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
READ = 2 << 20
CGROUP = pathlib.Path("/sys/fs/cgroup")
PROMPT = "The history of the lighthouse begins with fires that were lit on hills, so that ships found"


def drop(path):
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def ceiling(args, path, depth=8):
    """GB/s of direct reads of the file in its order, `depth` of them under way, as a loader of everything would make them."""
    if args.disk_bench:
        return float(subprocess.run(in_root([args.disk_bench, path, READ, depth, args.seconds, "ordered"]), check=True, capture_output=True, text=True).stdout)
    seconds = args.seconds
    size = os.path.getsize(path) // READ * READ
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    lock, place, end = threading.Lock(), [0], time.monotonic() + seconds
    # Large pages: with small ones some devices give half.
    memory = mmap.mmap(-1, (depth + 1) * READ, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    first = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % READ
    view = memoryview(memory)

    def read(number):
        part, count = view[first + number * READ:first + (number + 1) * READ], 0
        while time.monotonic() < end:
            with lock:
                offset = place[0]
                place[0] = (offset + READ) % size
            count += os.preadv(fd, [part], offset)
        return count

    try:
        begin = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(depth) as pool:
            total = sum(pool.map(read, range(depth)))
        return total / (time.monotonic() - begin) / 1e9
    finally:
        os.close(fd)


class Limit:
    """A memory cgroup of so many bytes; 0: none."""

    def __init__(self, limit):
        self.limit, self.folder = limit, None

    def __enter__(self):
        if self.limit:
            first = (CGROUP / "memory").is_dir()
            self.folder = CGROUP / ("memory" if first else "") / f"atlas-streaming-{os.getpid()}"
            if not first:
                with contextlib.suppress(OSError):
                    (CGROUP / "cgroup.subtree_control").write_text("+memory", encoding="ascii")
            self.folder.mkdir()
            (self.folder / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(self.limit), encoding="ascii")
            self.peak_file = self.folder / ("memory.max_usage_in_bytes" if first else "memory.peak")
        return self

    def prefix(self):
        return f"echo $$ > {shlex.quote(str(self.folder / 'cgroup.procs'))} && exec " if self.folder else "exec "

    def peak(self):
        with contextlib.suppress(OSError, AttributeError):
            return int(self.peak_file.read_text(encoding="ascii")) / 2**20
        return 0.0

    def __exit__(self, *_):
        if self.folder:
            for _ in range(50):
                with contextlib.suppress(OSError):
                    self.folder.rmdir()
                    return
                time.sleep(0.1)


def environment(plugin, variables):
    result = {name: value for name, value in os.environ.items() if not name.startswith("ATLAS_") and name != "GGML_BACKEND_PATH"}
    result.update({name: value for name, value in os.environ.items() if name.startswith("ATLAS_DEV_")})
    if plugin:
        result["GGML_BACKEND_PATH"] = plugin
    result.update({name: str(value) for name, value in variables.items()})
    return result


@dataclasses.dataclass
class Run:
    seconds: float  # of the whole program
    first: float    # of them until the first token
    prompt: float   # tokens/s
    decode: float
    text: str
    weights: dict   # Atlas's statistics of them
    peak: float     # MiB in the cgroup
    disk: float     # GB/s, measured before and after


def in_root(command):
    outside = not os.environ.get("ATLAS_DEV_INSIDE") and os.environ.get("ATLAS_DEV_ROOT") != "system"
    return [str(part) for part in ([ROOT / "dev", "shell", *command] if outside else command)]


def complete(args, model, limit, plugin, variables, repetition=0):
    """The run, or what was noted of the same one."""
    key = json.dumps([args.state, model.name, os.path.getsize(model.path), model.temp, limit, bool(plugin), variables, args.generate, args.threads, repetition])
    notes = pathlib.Path(args.scratch, "atlas-streaming-runs.jsonl")
    if not args.again and notes.exists():
        for line in notes.read_text(encoding="utf-8").splitlines():
            known, run = json.loads(line)
            if known == key:
                return Run(**run)
    run = complete_now(args, model, limit, plugin, variables)
    with notes.open("a", encoding="utf-8") as file:
        file.write(json.dumps([key, dataclasses.asdict(run)]) + "\n")
    return run


def complete_now(args, model, limit, plugin, variables):
    before = ceiling(args, model.path)
    drop(model.path)
    command = in_root(["llama-completion", "-m", model.path, "-p", PROMPT, "-n", args.generate, "-c", 512, "-b", 64, "-ub", 64, "--temp", model.temp,
                       "--seed", 1, "--ignore-eos", "-no-cnv", "--simple-io", "--no-warmup", "-fit", "off", "-t", args.threads, "-fa", "on",
                       # llama.cpp would copy weights of some types into memory of its own, and be ended by the cgroup.
                       *(() if plugin else ("--no-repack",))])
    with Limit(limit) as cgroup:
        stats = pathlib.Path(args.scratch, f"stats-{os.getpid()}.json")
        stats.unlink(missing_ok=True)
        begin = time.monotonic()
        process = subprocess.run(["sh", "-c", cgroup.prefix() + shlex.join(command)], cwd=args.scratch, stdin=subprocess.DEVNULL,
                                 capture_output=True, text=True, errors="replace", check=False, timeout=args.timeout,
                                 env=environment(plugin, {**variables, "ATLAS_STATS": stats} if plugin else variables))
        seconds, peak = time.monotonic() - begin, cgroup.peak()
    if process.returncode != 0:
        raise RuntimeError(f"status {process.returncode}: {process.stderr[-1500:]}")
    found = json.loads(stats.read_text(encoding="utf-8")).get("weights") if plugin else None
    stats.unlink(missing_ok=True)
    prompt, decode = (float(re.search(name + r" time =.*?([\d.]+) tokens per second", process.stderr)[1]) for name in (r"prompt eval", r"[^t] +eval"))
    after = ceiling(args, model.path)
    return Run(seconds, seconds - (args.generate - 1) / decode, prompt, decode, process.stdout, found or {}, peak, (before + after) / 2)


@dataclasses.dataclass
class Model:
    name: str
    path: str
    temp: float = 0.0


# Of random weights: a name, and what make_model.py is told. Texts by chance, so that the choice of experts differs from token to token.
MADE = {
    "dense": ("dense, q8_0, the shape of Llama 3.2 1B, random weights", ["--shape", "1b", "--type", "q8_0"]),
    "moe": ("8 of 64 experts, q4_0, 6 layers, random weights", ["--shape", "moe64", "--layers", "6", "--skew", "0.3"]),
}


@contextlib.contextmanager
def made(args, name):
    title, shape = MADE[name]
    if args.size and name == "dense":
        # 231 MB a layer, and the vocabulary twice.
        layers = max(1, round((args.size * 1e9 - 2 * 139e6) / 231e6))
        title, shape = f"dense, q8_0, {layers} layers of Llama 3 8B, random weights", ["--shape", "8b-4l", "--type", "q8_0", "--layers", str(layers)]
    path = os.path.join(args.scratch, f"atlas-streaming-{name}.gguf")
    if not (args.keep and os.path.exists(path)):
        subprocess.run(in_root(["python3", ROOT / "benchmarks/end_to_end/make_model.py", *shape, path]), check=True, stdout=subprocess.DEVNULL)
    try:
        yield Model(title, path, 1.0)
    finally:
        if not args.keep:
            os.unlink(path)


def middle(runs, field):
    return statistics.median(getattr(run, field) for run in runs)


def row(memory, who, runs, resident=None, right=None):
    """One line. `resident`: runs with all weights in memory; `right`: their text, where it must be the same."""
    decode, disk = middle(runs, "decode"), middle(runs, "disk")
    of_all = megabytes = hits = "–"
    found = runs[-1].weights
    if found.get("decoded_tokens"):
        per_token = statistics.median(run.weights["decoded_read_bytes"] / run.weights["decoded_tokens"] for run in runs)
        megabytes = f"{per_token / 1e6:.0f}"
        of_all = f"{max(1 / middle(resident, 'decode'), per_token / disk / 1e9) * decode:.2f}"
        if experts := found.get("experts"):
            hits = f"{experts['hits'] / max(experts['hits'] + experts['misses'], 1):.2f}"
    least, most = min(run.decode for run in runs), max(run.decode for run in runs)
    same = "–" if right is None else "yes" if all(run.text == right for run in runs) else "NO"
    print(f"| {memory} | {who} | {middle(runs, 'prompt'):.2f} | {decode:.2f} ({least:.2f}–{most:.2f}) | {of_all} | {megabytes} | {disk:.2f} | {hits} | "
          f"{middle(runs, 'first'):.1f} | {middle(runs, 'seconds'):.1f} | {max(run.peak for run in runs):.0f} | {same} |", flush=True)


def shadows(runs):
    """What other rules of who leaves memory would have found of the same choices."""
    experts = runs[-1].weights.get("experts")
    if experts:
        found = ", ".join(f"{name} {hits / max(experts['choices'], 1):.3f}" for name, hits in experts["shadow_hits"].items() if name != "belady")
        print(f"Of {experts['choices']} choices of an expert the shadow caches found, as they would have from the first on: {found}; followed at the end: "
              f"{experts['policy']}. Belady's rule, which knows the choices to come: {experts['shadow_hits'].get('belady', 0) / max(experts['choices'], 1):.3f}.")


def draw(path, points):
    """points: {model: [[memory, who, tokens/s], …]}; one part of the picture each."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plot
    figure, parts = plot.subplots(1, len(points), figsize=(5.5 * len(points), 3.4), squeeze=False)
    for part, (title, bars) in zip(parts[0], points.items()):
        names = [f"{who}\n{memory}" for memory, who, _ in bars]
        drawn = part.barh(names[::-1], [speed for *_, speed in bars][::-1], color=["C1" if "llama" in name else "C0" for name in names][::-1])
        part.bar_label(drawn, fmt="%.2f", padding=3)
        part.set_xlabel("decode, tokens/s")
        part.set_title(title, fontsize=9)
        part.margins(x=0.15)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def measure(args, model):
    """Its table; what a picture shows of it."""
    size = os.path.getsize(model.path)
    print(f"{model.name}: {size / 1e9:.2f} GB, {args.threads} threads, {args.generate} tokens, medians (least–most) of {args.repetitions}\n")
    print("| memory | weights | prompt t/s | decode t/s | of what can be | disk, MB/token | disk, GB/s | experts found | first token, s | whole run, s | peak MiB | same text |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|")
    above = {"ATLAS_WEIGHTS_RAM": 2 * size}
    mapped, fitting = [], []
    for i in range(args.repetitions):
        mapped.append(complete(args, model, 0, args.plugin, {}, i))
        fitting.append(complete(args, model, 0, args.plugin, above, i))
    right = mapped[0].text
    row("no limit", "Atlas, mapped", mapped, right=right)
    row("no limit", "Atlas, a budget above the model's size", fitting, right=right)
    ratios, bars = [], [["all", "Atlas", middle(mapped, "decode")]]
    for share in (float(part) for part in args.shares.split(",")):
        limit = int(size * share)
        ours, host = [], []
        for i in range(args.repetitions):
            ours.append(complete(args, model, limit, args.plugin, {"ATLAS_WEIGHTS_RAM": int(limit - args.reserve * 2**20)}, i))
            host.append(complete(args, model, limit, None, {}, i))
        row(f"{share:g} of the file", "Atlas, streamed", ours, mapped, right)
        row(f"{share:g} of the file", "llama.cpp, mmap", host)
        bars += [[f"{share:g} of the file", who, middle(runs, "decode")] for who, runs in (("Atlas", ours), ("llama.cpp, mmap", host))]
        ratios.append(f"With {share:g} of the file Atlas decodes at {middle(ours, 'decode') / middle(host, 'decode'):.1f}× of llama.cpp's mmap in the same "
                      f"memory; the whole run, loading included, is {middle(host, 'seconds') / middle(ours, 'seconds'):.1f}× as fast.")
        last = ours
    print()
    print("\n".join(ratios))
    shadows(last)
    print(flush=True)
    return bars


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plugin", default="")
    parser.add_argument("-m", "--model", help="a model instead of those of random weights")
    parser.add_argument("--made", default=",".join(MADE), help="which models of random weights (default %(default)s)")
    parser.add_argument("--size", type=float, help="GB of a dense model to make instead of the usual one, in layers of Llama 3 8B; 4 to 8 take some minutes")
    parser.add_argument("--disk-bench", default="", help="the program that measures the disk; without it threads of Python's do")
    parser.add_argument("--again", action="store_true", help="measure anew what an earlier run has noted")
    parser.add_argument("--keep", action="store_true", help="keep these, and take those that are there")
    parser.add_argument("--shares", default="0.5,0.33", help="limits of memory, of the model's file (default %(default)s)")
    parser.add_argument("--reserve", type=float, default=160, help="MiB of the limit that are not for weights (default %(default)s)")
    parser.add_argument("--generate", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement of the disk, before and after every run (default %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--scratch", default="/tmp", help="a folder on a disk that programs in ./dev's root see too (default %(default)s)")
    parser.add_argument("--output", help="a folder for a picture, streaming.png")
    parser.add_argument("--draw", help=argparse.SUPPRESS)
    parser.add_argument("--timeout", type=int, default=1800, help="seconds for one run (default %(default)s)")
    args = parser.parse_args()
    if args.draw:
        draw(args.draw, json.load(sys.stdin))
        return
    if not os.access(CGROUP, os.W_OK) or os.geteuid() != 0:
        sys.exit("streaming: memory cgroups can be made by root only, outside of ./dev shell")
    args.scratch = os.path.abspath(args.scratch)
    args.disk_bench = args.disk_bench if os.path.exists(args.disk_bench) else ""
    # What was noted counts for this plug-in and this program alone.
    args.state = hashlib.sha256(b"".join(pathlib.Path(file).read_bytes() for file in (args.plugin, __file__) if file)).hexdigest()[:16]
    points = {}
    if args.model:
        points[os.path.basename(args.model)] = measure(args, Model(os.path.basename(args.model), os.path.abspath(args.model)))
    else:
        for name in args.made.split(","):
            with made(args, name) as model:
                points[model.name.replace(", random weights", "")] = measure(args, model)
    if args.output:
        # Where matplotlib is.
        subprocess.run(in_root(["python3", os.path.abspath(__file__), "--draw", os.path.join(os.path.abspath(args.output), "streaming.png")]),
                       input=json.dumps(points), text=True, check=True)


if __name__ == "__main__":
    main()
