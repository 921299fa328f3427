#!/usr/bin/env python3
"""The words of the command line that are atlas's own: info (of a file, of statistics, of a running server), doctor (well and on broken set-ups), run,
serve, bench, completion."""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

failures = []


def check(right, text):
    if not right:
        failures.append(text)


def atlas(args, *arguments, seconds=240, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ATLAS_") and name != "GGML_BACKEND_PATH"}
    environment.update({"OMP_WAIT_POLICY": "passive", "ATLAS_LIBRARY": args.plugin, **variables})
    return subprocess.run([args.atlas, *map(str, arguments)], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                          timeout=seconds, check=False)


def info(args, folder):
    done = atlas(args, "info", args.model)
    for part in ("architecture llama (family llama)", "KV heads of", "trained; KV cache (f16)", "none beside the model"):
        check(part in done.stdout, f"info: {part!r} is missing:\n{done.stdout}{done.stderr}")
    facts = json.loads(atlas(args, "info", args.model, "--json").stdout)
    check(facts["family"] == "llama" and facts["parameters"] > 1e6 and facts["kv_bytes_per_token"] ==
          facts["layers"] * facts["kv_heads"] * facts["head_dim"] * 4 and facts["fitting_context"] == facts["context"], f"{facts}")
    version = atlas(args, "--version")
    check(version.returncode == 0 and re.fullmatch(r"atlas \d+\.\d+\.\d+(, commit [0-9a-f]{7,}(-dirty)?)?\ntested with ggml 0\.\d+ to 0\.\d+\n", version.stdout),
          f"--version: {version.stdout}{version.stderr}")
    # Where the processor and the system have tiles, they are named; that they are used is tests/kernels' part.
    has_tiles = "amx_tile" in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    check(re.search(r"^CUDA +\S.*; not used by graphs yet$", atlas(args, "info").stdout, re.M), "info: no line of CUDA")
    for variables, tiles in (({}, has_tiles), ({"ATLAS_KERNEL": "reference"}, False)):
        shown = atlas(args, "info", **variables).stdout
        check(("AMX tiles" in shown) == tiles, f"info, tiles {tiles}: {shown}")
    stats = folder / "stats.json"
    short = ["llama-completion", "-m", args.model, "-p", "One", "-n", 2, "-no-cnv", "--simple-io", "--no-warmup", "-t", 2]
    done = atlas(args, *short, ATLAS_MODE="sparse", ATLAS_STATS=stats)
    shown = atlas(args, "info", "--stats", stats)
    check(done.returncode == 0 and shown.returncode == 0 and re.search(r"^absent +below_threshold: .*; [1-9]\d* contexts, [1-9]\d* calls$", shown.stdout, re.M),
          f"info --stats: {shown.stdout}{shown.stderr}{done.stderr[-1000:]}")
    done = atlas(args, *short, ATLAS_STATS=stats)
    shown = atlas(args, "info", "--stats", stats)
    check(re.search(r"^attention +\d+ layers, ([1-9]\d*) calls, of which \1 exact; 100.0 %", shown.stdout) and "nothing that was asked for" in shown.stdout,
          f"info --stats, exact: {shown.stdout}{shown.stderr}")
    as_json = json.loads(atlas(args, "info", "--stats", stats, "--json").stdout)
    whole = as_json["attention"]
    check(whole["calls"] == whole["exact_calls"] == sum(layer["calls"] for layer in as_json["layers"]) > 0 and whole["share_read"] == 1 and
          whole["layers"] == len(as_json["layers"]) and as_json["absent"] == [], f"info --stats --json: {as_json}")
    stats.write_text("[1]", encoding="utf-8")
    for file, said in ((stats, "is no file of statistics"), (folder / "no.json", "cannot be read")):
        done = atlas(args, "info", "--stats", file)
        check(done.returncode == 1 and said in done.stderr and len(done.stderr.splitlines()) == 1, f"info --stats {file}: {done.stderr}")
    damaged = folder / "damaged.gguf"
    damaged.write_bytes(pathlib.Path(args.model).read_bytes()[:1000])
    for model, said in ((folder / "none.gguf", "is not there"), (__file__, "is no GGUF file"), (damaged, "is damaged")):
        done = atlas(args, "info", model)
        check(done.returncode == 1 and said in done.stderr and len(done.stderr.splitlines()) == 1, f"info {model}: {done.stderr}")


def doctor(args, folder):
    done = atlas(args, "doctor", "--disk", folder)
    check(done.returncode == 0 and "Atlas works here." in done.stdout and "BAD" not in done.stdout, f"doctor: {done.stdout}{done.stderr}")
    for part in ("llama-server sees Atlas's device", "kernels", "libggml-base.so", "MB/s"):
        check(part in done.stdout, f"doctor: {part!r} is missing:\n{done.stdout}")

    text = folder / "libggml-atlas.so"
    text.write_text("no library\n")
    empty = folder / "empty"
    empty.mkdir()
    script = folder / "bin" / "llama-server"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\necho 'version: 1 (made up)'\n")
    script.chmod(0o755)
    read_only = folder / "none"
    broken = {
        "no library": ({"ATLAS_LIBRARY": str(folder / "nowhere.so")}, [], "BAD   library   libggml-atlas.so is not there", "→ install Atlas as a whole"),
        "a library that is none": ({"ATLAS_LIBRARY": str(text)}, [], "does not load", "→ its own line above says why"),
        "no llama.cpp": ({"PATH": str(empty)}, [], "neither llama-server nor llama-cli is in PATH", "→ install llama.cpp"),
        "ggml within the program": ({"PATH": f"{script.parent}:/usr/bin:/bin"}, [], "has ggml within itself", "→ a plug-in needs ggml as shared libraries"),
        "a setting that is not allowed": ({"ATLAS_KV_RAM": "lots"}, [], "BAD   library", "→"),
        "a folder that is not there": ({}, ["--disk", str(read_only)], "no file can be made", "→ ATLAS_KV_DISK needs a folder"),
    }
    for name, (variables, more, said, advice) in broken.items():
        done = atlas(args, "doctor", *more, **variables)
        check(done.returncode == 1 and said in done.stdout and advice in done.stdout and "does not work here" in done.stdout,
              f"doctor, {name}: status {done.returncode}\n{done.stdout}{done.stderr}")
    done = atlas(args, "doctor", GGML_BACKEND_PATH="/no/such/file.so")
    check(done.returncode == 0 and "mind  variable" in done.stdout, f"doctor, another plug-in: {done.stdout}")
    done = atlas(args, "doctor", ATLAS_KERNEL="reference")
    check(done.returncode == 0 and "mind  kernels   reference" in done.stdout, f"doctor, slow kernels: {done.stdout}")


def recipes(args):
    for word in ("run", "serve", "bench"):
        done = atlas(args, word)
        check(done.returncode == 1 and f"atlas {word} MODEL" in done.stderr, f"{word} without a model: {done.stderr}")
        done = atlas(args, word, "/no/such.gguf")
        check(done.returncode == 1 and "/no/such.gguf is not there" in done.stderr, f"{word} of nothing: {done.stderr}")
    done = atlas(args, "bench", args.model, "-p", "64", "-n", "8", "-r", "1", "-t", "2")
    lines = done.stdout.splitlines()
    check(done.returncode == 0 and len(lines) == 3 and "prompt of 64" in lines[1] and "writing 8" in lines[2] and lines[1].endswith("x"),
          f"bench: {done.stdout}{done.stderr}")
    # The context is chosen by what the user bounds: 6 KiB a token and layer of atlas-tiny's cache.
    facts = json.loads(atlas(args, "info", args.model, "--json").stdout)
    for bound, extra, variables in (("a switch", ("--atlas-kv-ram", "20M"), {}), ("the environment", (), {"ATLAS_KV_RAM": "20M"})):
        done = atlas(args, "run", args.model, "--version", *extra, **variables)
        chosen = re.search(r" -c (\d+)", done.stderr)
        most = 20 * 2**20 / (facts["layers"] * facts["kv_heads"] * facts["head_dim"] * 4)
        check(chosen and most / 2 < int(chosen[1]) <= most < facts["context"], f"run with ATLAS_KV_RAM by {bound}: {most}; {done.stderr}")
    done = atlas(args, "run", args.model, "-p", "Once", "-n", "4", "-st", "-c", "512", "--atlas-level", "1", ATLAS_LOG_LEVEL="info")
    check(done.returncode == 0 and "ATLAS_LEVEL=1" in done.stderr and "llama-cli -m" in done.stderr and "atlas: [info]" in done.stderr,
          f"run: status {done.returncode}\n{done.stdout[-500:]}{done.stderr[-1500:]}")


def running(args, pid, address):
    """A server that lives: what info says of it before and after it wrote something."""
    before = json.loads(atlas(args, "info", "--running", pid, "--json").stdout)
    body = json.dumps({"prompt": "Once upon a time", "n_predict": 8, "temperature": 0}).encode()
    with urllib.request.urlopen(urllib.request.Request(address + "/completion", body, {"Content-Type": "application/json"}), timeout=120) as answer:
        check(json.load(answer)["content"], "serve: an empty answer")
    after = json.loads(atlas(args, "info", "--running", pid, "--json").stdout)
    calls = [{module["name"]: module["calls"] for module in facts["modules"]} for facts in (before, after)]
    for name in ("exact-attention", "weights"):
        check(calls[1][name] > calls[0][name], f"info --running: {name} did nothing: {calls}")
    check(set(calls[1]) == {"exact-attention", "sparse-attention", "atlas-memory", "tiered-kv", "weights", "activation-sparsity", "hybrid-weights", "streaming"}, f"info --running: {calls[1]}")
    check(after["pid"] == pid and after["nodes"]["atlas"] > 0 and after["memory"]["kv"] > 0 and after["speedup"] > 0 and "disk" not in after and
          re.fullmatch(r"127\.0\.0\.1:\d+", after["address"]) and after["kernels"], f"info --running: {after}")
    shown = atlas(args, "info", "--running", pid)
    check(shown.returncode == 0 and re.search(r"^module +weights +[1-9]\d* calls, .* times as fast as the host over \d+ samples$", shown.stdout, re.M) and
          re.search(r"^memory +KV \d.*; limit none$", shown.stdout, re.M), f"info --running: {shown.stdout}{shown.stderr}")


def not_running(args):
    """Processes of which there is nothing to say: none, one without Atlas, one without metrics."""
    done = atlas(args, "info", "--running", 2**22 + 1)
    check(done.returncode == 1 and "is not there" in done.stderr, f"info --running of nobody: {done.stderr}")
    done = atlas(args, "info", "--running", os.getpid())
    check(done.returncode == 1 and "has no Atlas loaded" in done.stderr, f"info --running of Python: {done.stderr}")
    code = f"import ctypes, time; ctypes.CDLL({args.plugin!r}); print('loaded', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as silent:
        silent.stdout.readline()
        done = atlas(args, "info", "--running", silent.pid)
        silent.kill()
    check(done.returncode == 1 and "has Atlas and no metrics: start it with ATLAS_METRICS=127.0.0.1:0" in done.stderr, f"info --running without metrics: {done.stderr}")


def serve(args):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ATLAS_")}
    environment.update({"OMP_WAIT_POLICY": "passive", "ATLAS_LIBRARY": args.plugin, "ATLAS_LOG_LEVEL": "info", "ATLAS_METRICS": "127.0.0.1:0"})
    port = str(20000 + os.getpid() % 20000)
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen([args.atlas, "serve", args.model, "--port", port, "--no-warmup"], env=environment, stdin=subprocess.DEVNULL, stdout=log,
                                  stderr=subprocess.STDOUT)
        try:
            healthy = False
            for _ in range(300):
                time.sleep(0.2)
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                        healthy = answer.status == 200
                except OSError:
                    pass
                if healthy or server.poll() is not None:
                    break
            if healthy:
                running(args, server.pid, f"http://127.0.0.1:{port}")
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
        log.seek(0)
        said = log.read()
    for part in ("atlas: a context of", "--host 0.0.0.0", "--atlas-metrics", "llama-server -m", "atlas: [info]"):
        check(part in said, f"serve: {part!r} is missing:\n{said[:3000]}")
    check(healthy, f"serve: no answer:\n{said[-2000:]}")


def launcher(args):
    done = atlas(args, "llama-bench", "--list-devices", "--atlas-enable", "0", GGML_BACKEND_PATH=args.plugin)
    check("ATLAS0" not in done.stdout + done.stderr, f"--atlas-enable 0: {done.stdout}")
    done = atlas(args, "llama-bench", "--list-devices", "--atlas-enable")
    check("ATLAS0" in done.stdout + done.stderr, f"--atlas-enable: {done.stdout}{done.stderr}")
    done = atlas(args, "llama-bench", "--list-devices", "--atlas-arch", "nobody", "--atlas-memory-pool", "512M", "--atlas-level", "2")
    check("ATLAS_ARCH=nobody: allowed is one of auto, llama" in done.stderr, f"--atlas-arch nobody: {done.stderr}")
    done = atlas(args, "llama-bench", "--list-devices", "--atlas-sparsity", "1.5")
    check("ATLAS_SPARSITY=1.5: allowed is " in done.stderr, f"--atlas-sparsity: {done.stderr}")
    help_text = atlas(args, "--help").stdout
    check(len(help_text.splitlines()) <= 56 and max(map(len, help_text.splitlines())) <= 120, f"help: {len(help_text.splitlines())} lines")
    check("127.0.0.1:9464" in help_text, f"a line of help ends within an address: {help_text}")


def completion(args, folder):
    for shell, check_syntax in (("bash", ["bash", "-n"]), ("zsh", ["zsh", "-n"]), ("fish", ["fish", "-n"])):
        done = atlas(args, "completion", shell)
        check(done.returncode == 0 and "atlas-memory-pool" in done.stdout and "doctor" in done.stdout, f"completion {shell}: {done.stdout[:300]}")
        script = folder / f"completion.{shell}"
        script.write_text(done.stdout)
        if shutil.which(check_syntax[0]):
            parsed = subprocess.run([*check_syntax, script], capture_output=True, text=True, check=False)
            check(parsed.returncode == 0, f"completion {shell}: {parsed.stderr}")
    if shutil.which("bash"):
        words = subprocess.run(["bash", "-c", f"source {folder}/completion.bash; COMP_WORDS=(atlas --atlas-me); COMP_CWORD=1; _atlas; echo ${{COMPREPLY[@]}}"],
                               capture_output=True, text=True, check=False).stdout
        check("--atlas-memory-pool" in words.split() and "--atlas-metrics" in words.split() and "--atlas-mode" not in words.split(), f"bash completes: {words}")
    done = atlas(args, "completion", "tcsh")
    check(done.returncode == 1 and "bash, zsh and fish" in done.stderr, f"completion tcsh: {done.stderr}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--atlas", required=True)
    parser.add_argument("--plugin", required=True)
    parser.add_argument("--model", required=True)
    args = parser.parse_args()
    # Not /tmp, which may be memory.
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="atlas-commands-") as name:
        folder = pathlib.Path(name)
        info(args, folder)
        doctor(args, folder)
        recipes(args)
        serve(args)
        not_running(args)
        launcher(args)
        completion(args, folder)
    print(*failures, sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
