"""Runs the system's unmodified llama-bench, or deep_bench on the system's libllama, with and without Atlas, and reads the results."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass


@dataclass
class Run:
    """One llama-bench test of one variant."""

    variant: str
    depth: int
    prompt: int
    generate: int
    tokens_per_second: list  # one per repetition
    peak_rss_mib: float

    whole: bool = False  # a prompt read from the beginning, longer than the pieces read at a depth

    @property
    def test(self):
        return "whole" if self.whole else "prefill" if self.prompt else "decode"

    @property
    def size(self):
        """What the costs of this test are drawn over: tokens in the context, or in the prompt."""
        return self.prompt if self.whole else self.depth

    @property
    def median(self):
        ordered = sorted(self.tokens_per_second)
        middle = len(ordered) // 2
        return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def environment(plugin, extra):
    result = {name: value for name, value in os.environ.items() if not name.startswith("ATLAS_") and name != "GGML_BACKEND_PATH"}
    if plugin:
        result["GGML_BACKEND_PATH"] = plugin
        result.update(extra)
    return result


def run_program(what, command, plugin, extra, timeout):
    """Lines of JSON and the peak of memory, or RuntimeError with the program's own last words."""
    process = subprocess.Popen(command, env=environment(plugin, extra), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        output, errors, rss = communicate(process, timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise RuntimeError(f"{what}: longer than {timeout} s") from None
    if process.returncode != 0:
        raise RuntimeError(f"{what}: ended with {process.returncode}: {errors.strip()[-300:]}")
    if plugin and "ATLAS" not in errors:
        raise RuntimeError(f"{what}: {plugin} was not loaded: {errors.strip()[-300:]}")
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")], rss


def run_llama_bench(variant, plugin, extra, model, depth, prompt, generate, threads, repetitions, kv_type, timeout):
    """A list of Run. Without `generate` the prompt is a whole one, which is not also read to warm up."""
    command = ["llama-bench", "-m", model, "-p", str(prompt), "-n", str(generate), "-d", str(depth), "-t", str(threads),
               "-r", str(repetitions), "-fa", "1", "-ctk", kv_type, "-ctv", kv_type, "-o", "jsonl"]
    if not plugin:
        command += ["-ngl", "0"]
    if not generate:
        command += ["--no-warmup"]
    rows, rss = run_program(f"llama-bench, {variant}, depth {depth}", command, plugin, extra, timeout)
    return [Run(variant, depth, row["n_prompt"], row["n_gen"], row["samples_ts"], rss, not generate) for row in rows]


def run_deep_bench(program, variant, plugin, extra, model, depth, prompt, generate, threads, repetitions, kv_type, timeout):
    """A list of Run, and the first logits of one token at that depth, the same token after the same ones in all variants."""
    command = [program, "-m", model, "-p", str(prompt), "-n", str(generate), "-d", str(depth), "-t", str(threads), "-r", str(repetitions),
               "--kv-type", kv_type]
    rows, rss = run_program(f"deep_bench, {variant}, depth {depth}", command, plugin, extra, timeout)
    return ([Run(variant, depth, row["n_prompt"], row["n_gen"], row["samples_ts"], rss) for row in rows if "samples_ts" in row],
            next(row["logits"] for row in rows if "logits" in row))


def communicate(process, timeout):
    """communicate() that also samples the peak resident size, which the kernel keeps per process."""
    peak = 0
    deadline = time.monotonic() + timeout
    status = f"/proc/{process.pid}/status"
    while True:
        try:
            with open(status, encoding="ascii") as lines:
                peak = max([peak] + [int(line.split()[1]) for line in lines if line.startswith("VmHWM")])
        except (OSError, ValueError):
            pass
        try:
            output, errors = process.communicate(timeout=0.2)
            return output, errors, peak / 1024
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                raise


def progress(done, total, text):
    print(f"\r[{done}/{total}] {text:<70}", end="" if done < total else "\n", file=sys.stderr, flush=True)
