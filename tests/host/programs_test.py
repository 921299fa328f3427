#!/usr/bin/env python3
"""Unmodified llama.cpp programs with Atlas loaded give what they give without it. One scenario per call, named by the last argument.

Greedy sampling on the repository's model; the text without Atlas is the expectation. That Atlas really served the run is checked by
the device list and, in the scenarios of refusal, by its absence.
"""

import json
import pathlib
import re
import shutil
import tempfile

import scenarios
from scenarios import Failed

from llama_program import agree, atlas_lines, run

PROMPT = ("The secret code of Karodin is 48213. It was a dark night and the old man walked along the road to the village, where nobody "
          "had seen him for years. What is the secret code of Karodin? The secret code of Karodin is")
GREEDY = {
    "greedy": [],
    "greedy_fa_off": ["-fa", "off"],
    "greedy_q8_0": ["-ctk", "q8_0", "-ctv", "q8_0"],
    "greedy_f32": ["-ctk", "f32", "-ctv", "f32"],
    "greedy_bf16": ["-ctk", "bf16", "-ctv", "bf16"],
    # A context has at least 256 cells: two shifts.
    "greedy_context_shift": ["-c", "256", "--context-shift", "--keep", "4", "-n", "400", "--ignore-eos"],
    "greedy_context_shift_q8_0": ["-c", "256", "--context-shift", "-ctk", "q8_0", "-ctv", "q8_0", "-n", "400", "--ignore-eos"],
    "greedy_no_kv_offload": ["--no-kv-offload"],
    "greedy_one_layer_outside": ["-ngl", "2"],
    "greedy_no_layer": ["-ngl", "0"],
    "greedy_split_row": ["-sm", "row"],
    "greedy_group_attention": ["-c", "256", "--grp-attn-n", "4", "--grp-attn-w", "64", "-n", "96"],
}

# Word, most nats of mean KL, bits of a weight with its share of scales.
FORMATS = [("int4", 0.04, 4.5), ("auto:6", 0.006, 6.0), ("int8+head", 0.001, 8.5), ("fp8", 0.01, 8.125)]

# Every type; one expert of a token and more, with a column each or one for all; rows that fill no panel; few tokens and many.
EXPERT_CASES = (r"type_b=f32,(n_mats=4,n_used=2,b=0,m=(512,n=(1|32)|64,n=16|8,n=1|8,n=16),|n_mats=4,n_used=[14],b=[01],m=512,n=(5|129),|"
                r"n_mats=8,n_used=4,b=[01],m=512,n=17,|n_mats=16,|n_mats=4,n_used=4,b=0,m=16,)")


def completion(args, extra, plugin=None, prompt=PROMPT, **variables):
    result = run(["llama-completion", "-m", args.model, "-n", "32", "--temp", "0", "--seed", "1", "-no-cnv", "-t", "2", "--simple-io",
                  "--no-warmup", "-p", prompt, *extra], plugin, **variables)
    if result.returncode != 0 or not result.stdout.strip():
        raise Failed(f"llama-completion {' '.join(extra)}: status {result.returncode}\n{result.stderr[-3000:]}")
    return result.stdout


def devices(plugin, **variables):
    return run(["llama-completion", "--list-devices"], plugin, **variables).stdout


def expect_same(args, extra, **variables):
    name = "ATLAS" if variables.get("ATLAS_DEVICE") == "accel" else "ATLAS0"
    if name == "ATLAS0" and name not in devices(args.plugin, **variables):
        raise Failed(f"device {name} is not listed")
    different = agree(lambda: completion(args, extra), lambda: completion(args, extra, args.plugin, **variables))
    if different:
        raise Failed(f"{' '.join(extra)} {variables}: texts differ\n--- without\n{different[0]}\n--- with\n{different[1]}")


def backend_ops(args, device, operation, pattern, minimum, **variables):
    """Every case that the pattern picks passes, none is unsupported, and there are enough of them to mean something."""
    if not args.backend_ops:
        scenarios.skip("test-backend-ops is not installed")
    command = [args.backend_ops, "test", "-b", device, "-o", operation, *(["-p", pattern] if pattern else [])]
    result = run(command, args.plugin, ATLAS_DEVICE="accel" if device == "ATLAS" else "owner", **variables)
    text = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)
    found = re.search(r"(\d+)/(\d+) tests passed", text)
    if result.returncode != 0 or not found or found[1] != found[2] or int(found[1]) < minimum:
        raise Failed(f"{' '.join(command)}: status {result.returncode}, {found and found[0]}\n{text[-3000:]}\n{result.stderr[-1000:]}")
    # The list behind it names every backend that lacks the case; those that the CPU lacks too are none of ours.
    lacking = [line for line in text.splitlines() if "not supported" in line and "CPU" not in line.rsplit("[", 1)[-1]]
    if lacking:
        raise Failed("\n".join(lacking))
    print(found[0])


def expect_close(args, extra, most, **variables):
    """
    Distributions of next tokens over some hundred tokens of text are within `most` nats (mean KL) of the host's own. For caches of few bits:
    a text cannot be compared, since rounding decides between likeliest tokens that are as good as equal. The mean is that of the last row
    printed, one a chunk: what follows the rows can be lost at exit (see `agree` in scripts/llama_program.py).
    """
    if not shutil.which("llama-perplexity"):
        scenarios.skip("llama-perplexity is not installed")
    text = pathlib.Path(__file__).parents[1] / "models" / "sample.txt"
    with tempfile.TemporaryDirectory() as folder:
        base = pathlib.Path(folder, "logits")
        command = [str(part) for part in ["llama-perplexity", "-m", args.model, "-f", text, "-c", "512", "-b", "512", "--chunks", "3", "-t", "2", "-fa", "on", *extra,
                   "--kl-divergence-base", base]]
        without = run(command)
        if without.returncode != 0 or not base.is_file():
            raise Failed(f"{command}: status {without.returncode}\n{without.stderr[-3000:]}")
        result = run([*command, "--kl-divergence"], args.plugin, **variables)
    rows = re.findall(r"^ +\d+ +\S+ ± +\S+ +\S+ ± +\S+ +(\S+) ±", result.stdout, re.MULTILINE)
    if result.returncode != 0 or not rows:
        raise Failed(f"{command}: status {result.returncode}\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
    print(f"mean KL {rows[-1]} of {len(rows)} chunks")
    # None at all would be the host itself.
    if not 1e-5 < float(rows[-1]) < most:
        raise Failed(f"{' '.join(extra)} {variables}: mean KL to the host without Atlas is {rows[-1]}, not between 1e-5 and {most}")


def bench(args):
    """llama-bench computes a prompt and tokens on our device."""
    result = run(["llama-bench", "-m", args.model, "-p", "64", "-n", "16", "-r", "1", "-t", "2", "-o", "json"], args.plugin)
    rows = json.loads(result.stdout) if result.returncode == 0 else []
    if len(rows) != 2 or not all("ATLAS" in row["backends"] and row["avg_ts"] > 0 for row in rows):
        raise Failed(f"status {result.returncode}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}")


def experts(args):
    """A model of experts. Measured: 0.0015 nats, and 0.0017 where the host multiplies with the experts."""
    with tempfile.TemporaryDirectory() as folder:
        args.model = scenarios.model_of_experts(pathlib.Path(folder, "experts.gguf"))
        expect_same(args, ["--ignore-eos"])
        expect_close(args, [], 0.005)


def weight_formats(args):
    """Weights in f16 are rounded while they are loaded, and no more of them than that; a model that holds none, or is not mapped, is said."""
    with tempfile.TemporaryDirectory() as folder:
        stats = pathlib.Path(folder, "stats.json")
        for word, most, bits in FORMATS:
            expect_close(args, [], most, ATLAS_WEIGHT_FORMAT=word, ATLAS_STATS=stats)
            found = json.loads(stats.read_text(encoding="utf-8"))["formats"]
            if found["matrices"] < 14 or found["bits_each"] > bits + 0.01:
                raise Failed(f"{word}: {found}")
            print(f"{word}: {found}")
        kept = {"ATLAS_WEIGHT_FORMAT": "int4", "ATLAS_WEIGHT_CACHE": folder, "ATLAS_STATS": stats}
        texts = [completion(args, [], args.plugin, **kept) for _ in range(2)]
        found = json.loads(stats.read_text(encoding="utf-8"))["formats"]
        caches = list(pathlib.Path(folder).glob("*.int4.atlas-weights"))
        if found["cached"] != found["matrices"] or found["matrices"] < 14 or len(caches) != 1 or not agree(lambda: texts[0], lambda: texts[1]) is None:
            raise Failed(f"rounded weights that were kept: {found}, {caches}, {texts}")
        print(f"kept: {found}, {caches[0].stat().st_size} bytes")
        result = run(["llama-bench", "-m", args.model, "-p", "16", "-n", "2", "-r", "1", "-lm", "none"], args.plugin, ATLAS_WEIGHT_FORMAT="int8")
        if result.returncode != 0 or "ATLAS_WEIGHT_FORMAT takes no part: the program has not mapped" not in result.stdout + result.stderr:
            raise Failed(f"not mapped: status {result.returncode}\n{result.stdout}{result.stderr}")
        args.model = scenarios.model_of_experts(pathlib.Path(folder, "experts.gguf"), "f16")
        expect_close(args, [], 0.02, ATLAS_WEIGHT_FORMAT="int8", ATLAS_STATS=stats)
        found = json.loads(stats.read_text(encoding="utf-8"))["formats"]
        # Four layers: attention, and three matrices of eight experts each that are one.
        if found["matrices"] != 4 * 7:
            raise Failed(f"experts: {found}")
        print(f"experts: {found}")
    bad = run(["llama-completion", "--list-devices"], args.plugin, ATLAS_WEIGHT_FORMAT="int8", ATLAS_WEIGHTS_RAM="64M")
    if "ATLAS_WEIGHT_FORMAT=int8: allowed is native with ATLAS_WEIGHTS_RAM" not in bad.stdout + bad.stderr:
        raise Failed(bad.stdout + bad.stderr)


def prompt_cache(args):
    """State saved by a session with Atlas is read by one without, and the other way round."""
    with tempfile.TemporaryDirectory() as folder:
        cache = pathlib.Path(folder, "session.bin")

        def saved_and_loaded(saver, loader):
            cache.unlink(missing_ok=True)
            completion(args, ["--prompt-cache", cache], saver)
            if cache.stat().st_size < 1000:
                raise Failed("the session file is empty")
            return completion(args, ["--prompt-cache", cache], loader)

        for first, second in [(args.plugin, None), (None, args.plugin), (args.plugin, args.plugin)]:
            different = agree(lambda: saved_and_loaded(None, None), lambda first=first, second=second: saved_and_loaded(first, second))
            if different:
                raise Failed(f"with {first} then {second}:\n{different[1]}\n--- without\n{different[0]}")


def refusals(args):
    """Bad settings: one line that names the value, no device, and the program goes on without Atlas."""
    for variable, value in [("ATLAS_DEVICE", "both"), ("ATLAS_KERNEL", "sse9"), ("ATLAS_THREADS", "-1"), ("ATLAS_KV_RAM", "lots")]:
        bad = {variable: value}
        result = run(["llama-completion", "--list-devices"], args.plugin, **bad)
        if "ATLAS0" in result.stdout:
            raise Failed(f"{variable}={value} was accepted")
        if f"{variable}={value}" not in result.stdout + result.stderr:
            raise Failed(f"{variable}={value}: no line names it\n{result.stdout}{result.stderr}")
        if agree(lambda: completion(args, []), lambda bad=bad: completion(args, [], args.plugin, **bad)):
            raise Failed(f"{variable}={value}: the host did not go on as without Atlas")


def logging(args):
    """Levels: silent when off, the choice of kernel at info, more at trace; an unknown level is named."""
    command = ["llama-completion", "--list-devices"]
    texts = {level: run(command, args.plugin, ATLAS_LOG_LEVEL=level) for level in ("off", "info", "trace")}
    said = {level: atlas_lines(result.stdout) + atlas_lines(result.stderr) for level, result in texts.items()}
    if said["off"]:
        raise Failed(f"ATLAS_LOG_LEVEL=off: {said['off']}")
    if not any("kernels" in line for line in said["info"]) or len(said["trace"]) < len(said["info"]):
        raise Failed(f"info: {said['info']}\ntrace: {said['trace']}")


def parallel(args):
    """Several sequences in one cache: split, copied and removed by llama-batched-bench. It ends well, and the rows up to the batch of four are
    there; those behind it are only there to be lost at exit (see `agree` in scripts/llama_program.py)."""
    result = run(["llama-batched-bench", "-m", args.model, "-c", "2048", "-npp", "64", "-ntg", "8", "-npl", "1,4,2,1,1,1", "-pps", "-t", "2"],
                 args.plugin)
    batches = re.findall(r"^\|\s+64 \|\s+8 \|\s+(\d+) \|", result.stdout, re.MULTILINE)
    if result.returncode != 0 or batches[:2] != ["1", "4"]:
        raise Failed(result.stdout[-2000:] + result.stderr[-2000:])


SCENARIOS = {
    **{name: (lambda args, extra=extra: expect_same(args, extra)) for name, extra in GREEDY.items()},
    # Measured: 0.0008 nats. Processors round keys of four bits differently.
    "divergence_q4_0": lambda args: expect_close(args, ["-ctk", "q4_0", "-ctv", "q4_0"], 0.002),
    "accel": lambda args: expect_same(args, ["-fa", "on"], ATLAS_DEVICE="accel"),
    "accel_q8_0": lambda args: expect_same(args, ["-fa", "on", "-ctk", "q8_0", "-ctv", "q8_0"], ATLAS_DEVICE="accel"),
    "kernel_avx2": lambda args: expect_same(args, [], ATLAS_KERNEL="avx2"),
    "kernel_reference": lambda args: expect_same(args, [], ATLAS_KERNEL="reference"),
    "threads": lambda args: expect_same(args, [], ATLAS_THREADS="1"),
    # The default is "own": every other scenario runs it.
    "weights_host": lambda args: expect_same(args, [], ATLAS_WEIGHTS="host"),
    "weights_no_mmap": lambda args: expect_same(args, ["--load-mode", "none"]),
    "weights_one_layer_outside": lambda args: expect_same(args, ["-ngl", "2"]),
    "weights_host_context_shift_q8_0": lambda args: expect_same(args, GREEDY["greedy_context_shift_q8_0"], ATLAS_WEIGHTS="host"),
    # What stands between products: with the whole graph these are operations of ours.
    "rms_norm_ops": lambda args: backend_ops(args, "ATLAS0", "RMS_NORM", "", 40),
    "gated_ops": lambda args: backend_ops(args, "ATLAS0", "SWIGLU", "", 30),
    "rope_ops": lambda args: backend_ops(
        args, "ATLAS0", "ROPE", r"type=f32,ne_a=.128,32,2,1.,n_dims=128,mode=[02],n_ctx=512,fs=1\.4\d*,ef=0\.7\d*,af=1\.4\d*,ff=[01],", 4),
    "mat_mul_ops": lambda args: backend_ops(args, "ATLAS0", "MUL_MAT", "type_b=f32,m=16,n=[1-9],k=256,bs=.1,1.,nr=.1,1.,", 100),
    "mat_mul_id_ops": lambda args: backend_ops(args, "ATLAS0", "MUL_MAT_ID", EXPERT_CASES, 130),
    "attention_ops": lambda args: backend_ops(args, "ATLAS0", "FLASH_ATTN_EXT", "hsk=64,hsv=64,nh=4,nr23=.4,1.,kv=512,nb=3,", 8),
    "attention_ops_paged": lambda args: backend_ops(args, "ATLAS0", "FLASH_ATTN_EXT", "hsk=64,hsv=64,nh=4,nr23=.4,1.,kv=512,nb=3,", 8,
                                                    ATLAS_PAGE_ALL="1"),
    "attention_ops_accel": lambda args: backend_ops(args, "ATLAS", "FLASH_ATTN_EXT", "hsk=64,hsv=64,nh=4,nr23=.4,1.,kv=512,nb=3,", 8),
    "set_rows_ops": lambda args: backend_ops(args, "ATLAS0", "SET_ROWS", "", 100),
    "set_rows_ops_paged": lambda args: backend_ops(args, "ATLAS0", "SET_ROWS", "", 100, ATLAS_PAGE_ALL="1"),
    "set_rows_ops_accel": lambda args: backend_ops(args, "ATLAS", "SET_ROWS", "", 100),
    "bench": bench,
    "experts": experts,
    "weight_formats": weight_formats,
    "prompt_cache": prompt_cache,
    "refusals": refusals,
    "logging": logging,
    "parallel": parallel,
}


if __name__ == "__main__":
    scenarios.main(__doc__, SCENARIOS, backend_ops="test-backend-ops; scenarios that need it are skipped without")
