#!/usr/bin/env python3
"""What unmodified llama.cpp programs do when Atlas is given bad settings, too small a budget, or no memory. One scenario per call.

The rule: one clear line that names the value, then the program goes on without Atlas, or the decode fails and the program ends or goes on
by its own means. Never a signal, never a hang.
"""

import itertools
import pathlib
import platform
import re
import subprocess
import tempfile
import time

import scenarios
from scenarios import ROOT, Failed, require, sample

import llama_program
from llama_server import LlamaServer, Refused

PROMPT = "It was a dark night and the old man walked along the road to the village, where nobody had seen him for years."
SECONDS = 120


def run(args, command, **variables):
    """The finished process; one that had to be stopped, or died of a signal, is a failure already."""
    told = " ".join([*(f"{name}={value}" for name, value in variables.items()), *map(str, command)])
    try:
        result = llama_program.run(command, args.plugin, SECONDS, **variables)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{told}: still running after {SECONDS} s") from error
    if result.returncode < 0:
        raise Failed(f"{told}: ended by signal {-result.returncode}\n{result.stderr[-3000:]}")
    return result


def completion(args, tokens, *extra, prompt=PROMPT, **variables):
    return run(args, ["llama-completion", "-m", args.model, "-n", tokens, "--temp", "0", "-no-cnv", "-t", "2", "--simple-io", "--no-warmup",
                      "-p", prompt, *extra], **variables)


def atlas_lines(result):
    return llama_program.atlas_lines(result.stderr) + llama_program.atlas_lines(result.stdout)


def refused(args, names, **variables):
    """Declined with one line that has all of `names`; the program lists its other devices and ends well."""
    result = run(args, ["llama-completion", "--list-devices"], **variables)
    lines = [line for line in atlas_lines(result) if "not loaded" in line]
    require(result.returncode == 0, f"{variables}: status {result.returncode}\n{result.stderr}")
    require("ATLAS" not in result.stdout.split("Available devices")[-1], f"{variables}: accepted\n{result.stdout}")
    require(len(lines) == 1 and all(name in lines[0] for name in names), f"{variables}: {lines}, wanted one line with {names}")


def malformed(args):
    """Every variable with a table row: a value outside of what the row allows."""
    table = (ROOT / "docs/options.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(ATLAS_\w+)` \| ([^|]*) \|", table, re.MULTILINE)
    require(len(rows) > 30, f"{len(rows)} variables in docs/options.md")
    tried = 0
    for name, allowed in rows:
        span = re.search(r"`(-?[\d.]+)` to `([\d.]+)`", allowed)
        if "file" in allowed or "model" in allowed:
            continue
        if span:
            values = [str(float(span[2]) * 2 + 1) if "." in span[2] else str(int(span[2]) + 1), "-1", "nan", "1x"]
        elif "bytes" in allowed:
            values = ["12Q", "-5", "99999999999999999999G"]
        else:
            values = ["banana", "owner,accel"]
        for value in values[:2 if tried > 12 else None]:
            refused(args, [f"{name}={value}", "allowed is"], **{name: value})
        tried += 1
    require(tried > 30, f"only {tried} variables were tried")
    absent = "neon" if platform.machine() == "x86_64" else "avx512"
    refused(args, [absent], ATLAS_KERNEL=absent)
    print(f"{tried} variables")


def contradictory(args):
    for variables, names in [
        ({"ATLAS_BUDGET_FLOOR": "600", "ATLAS_BUDGET": "500"}, ["ATLAS_BUDGET_FLOOR=600", "ATLAS_BUDGET=500"]),
        ({"ATLAS_DEVICE": "accel", "ATLAS_MODE": "sparse"}, ["ATLAS_DEVICE=accel", "ATLAS_MODE=sparse"]),
        ({"ATLAS_DEVICE": "accel", "ATLAS_KV_RAM": "1G"}, ["ATLAS_DEVICE=accel", "ATLAS_KV_RAM=1G"]),
        ({"ATLAS_MODE": "exact", "ATLAS_MEMORY": "1"}, ["ATLAS_MODE=exact", "ATLAS_MEMORY=1"]),
    ]:
        refused(args, names, **variables)
    # It not only lists devices but computes as if Atlas were not there.
    text = completion(args, 16, ATLAS_BUDGET_FLOOR="600", ATLAS_BUDGET="500").stdout
    require(len(text) > len(PROMPT) + 10, text)


# By default the programs try first whether the model fits into memory, which takes time here.
NO_FIT = ["-fit", "off"]


def page_bytes(args):
    """Bytes of a page, told by the refusal of the first one."""
    result = completion(args, 1, *NO_FIT, ATLAS_KV_RAM="1")
    found = re.search(r"KV page of (\d+) bytes: 0 bytes of the budget ATLAS_KV_RAM=1 are in use", result.stderr)
    require(found and result.returncode > 0, f"status {result.returncode}\n{result.stderr[-2000:]}")
    return int(found[1])


def block_budget(args, blocks):
    """Bytes of pages that `blocks` times 64 cells take: found by asking, since the shape of the model is the host's business."""
    page = page_bytes(args)
    for pages in range(2, 400, 2):
        if completion(args, 1, *NO_FIT, ATLAS_KV_RAM=str(page * pages)).returncode == 0:
            return page * pages * blocks
    raise Failed("no budget was enough for one block")


def budget(args):
    """The prompt fits, what is generated does not: text until then, one error with the budget, an orderly end."""
    for blocks, extra in [(1, []), (2, []), (1, ["-ctk", "q8_0", "-ctv", "q8_0"])]:
        room = block_budget(args, blocks)
        if extra:
            room = room * 34 // 64
        # The text of a session that breaks off can be lost on its way to the output, as its end often is (llama_program.py, agree).
        for _ in range(6):
            result = completion(args, 200, "--ignore-eos", "-c", "512", *NO_FIT, *extra, ATLAS_KV_RAM=str(room))
            if len(result.stdout) > len(PROMPT) + 20:
                break
        lines = [line for line in atlas_lines(result) if f"ATLAS_KV_RAM={room}" in line]
        require(len(lines) == 1, f"{blocks} blocks: {lines}\n{result.stderr[-2000:]}")
        require(result.returncode > 0, f"{blocks} blocks: status {result.returncode} although the decode failed")
        require(len(result.stdout) > len(PROMPT) + 20, f"{blocks} blocks: nothing was generated\n{result.stdout}")
        print(f"{blocks} blocks: {len(result.stdout)} characters, then: {lines[0]}")


def outcome(server, prompt, tokens=24, **more):
    """The text of an answer, or None if the server refused."""
    try:
        return server.complete(prompt, tokens, timeout=SECONDS, **more)["content"]
    except Refused:
        return None


def server_for(args, **variables):
    return LlamaServer(args.model, 1024, 2, args.plugin, {"OMP_WAIT_POLICY": "passive", **variables}, ["--no-warmup", *NO_FIT])


def budget_server(args):
    """A request that does not fit fails; those before and after it are served alike."""
    room = block_budget(args, 2)
    with server_for(args, ATLAS_KV_RAM=str(room)) as server:
        first = outcome(server, PROMPT)
        require(first, f"the request that fits was refused\n{server.log()[-2000:]}")
        for _ in range(3):
            require(outcome(server, " ".join([PROMPT] * 12)) is None, "a prompt beyond the budget was served")
            require(outcome(server, PROMPT, cache_prompt=False) == first, f"after the refusal: another text\n{server.log()[-2000:]}")
        require(f"ATLAS_KV_RAM={room}" in server.log(), "no line names the budget")


def failing(args, report=None, first=0, count=1, arm=None):
    variables = {"LD_PRELOAD": args.fail_alloc, "FAIL_ALLOC_LIBRARY": "libggml-atlas", "FAIL_ALLOC_FIRST": str(first),
                 "FAIL_ALLOC_COUNT": str(count)}
    if report:
        variables["FAIL_ALLOC_REPORT"] = str(report)
    if arm:
        variables["FAIL_ALLOC_ARM"] = str(arm)
    return variables


def sweep(args, tokens, points, extra, **variables):
    """Allocation N of the plug-in fails, or all from N on, N all over the session. A session that ends well has the right text."""
    def session(first=0, count=1, report=None):
        return completion(args, tokens, *extra, **failing(args, report, first, count), **variables)

    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder, "count")
        whole = session(report=report)
        require(whole.returncode == 0 and whole.stdout.strip(), f"without failures: status {whole.returncode}\n{whole.stderr[-2000:]}")
        total = int(report.read_text(encoding="ascii"))
    require(total > 100, f"only {total} allocations were counted, so the library does not see the plug-in's")
    # The first ones one by one: loading, the context, the first graph.
    chosen = sorted({*range(1, points // 2), *(max(1, total * i // points) for i in range(1, points + 1))})
    failed = survived = 0
    for count in (1, 1 << 40):
        for first in chosen:
            result = session(first, count)
            if result.returncode == 0:
                survived += 1
                # The last tokens may be missing from the output. Without Atlas, or in a cache of the host's, attention is exact: in the
                # other modes only a session that says nothing must be the same.
                if "ATLAS_MODE" in variables and any("[error]" in line for line in atlas_lines(result)):
                    continue
                texts = itertools.chain([result.stdout], iter(lambda first=first, count=count: session(first, count).stdout, None))
                different = not llama_program.only_end_differs(whole.stdout, result.stdout) and llama_program.agree(
                    lambda: whole.stdout, lambda texts=texts: next(texts))
                require(not different, f"allocation {first} of {total} ({count} fail): another text\n{different}\n{result.stderr[-2000:]}")
            else:
                failed += 1
                require(any("memory" in line for line in atlas_lines(result)),
                        f"allocation {first}: status {result.returncode}, no word of memory\n{result.stderr[-2000:]}")
    require(failed > len(chosen) // 2, f"of {2 * len(chosen)} sessions only {failed} failed")
    print(f"{total} allocations; {failed} sessions ended with an error, {survived} went on")


def allocation(args):
    sweep(args, 80, 24, ["-c", "512"])


def allocation_sparse(args):
    sweep(args, 8, 16, ["-c", "2048", "-p", sample(3000)],
          ATLAS_MODE="sparse", ATLAS_MEMORY="1", ATLAS_THRESHOLD="128", ATLAS_WINDOW="64", ATLAS_BUDGET_FLOOR="64", ATLAS_WARM_UP="32")


def allocation_server(args):
    """Allocations fail in the middle of requests; the next request is served as the first was."""
    with tempfile.TemporaryDirectory() as folder:
        arm = pathlib.Path(folder, "arm")
        for first, count in [(1, 1), (1, 1 << 40), (7, 3), (20, 1 << 40), (50, 5)]:
            with server_for(args, **failing(args, None, first, count, arm)) as server:
                right = outcome(server, PROMPT, cache_prompt=False)
                require(right, "refused although nothing failed")
                for _ in range(2):
                    arm.touch()
                    spoilt = outcome(server, PROMPT + " " + PROMPT, 60, cache_prompt=False)
                    arm.unlink()
                    time.sleep(0.2)
                    after = outcome(server, PROMPT, cache_prompt=False)
                    require(after == right, f"allocations {first}…: afterwards {after!r} instead of {right!r}\n{server.log()[-3000:]}")
                print(f"allocation {first}, {count} of them: {'refused' if spoilt is None else 'served'}")
            require(server.process.returncode in (0, -15), f"the server ended with status {server.process.returncode}")


SCENARIOS = {function.__name__: function
             for function in (malformed, contradictory, budget, budget_server, allocation, allocation_sparse, allocation_server)}


if __name__ == "__main__":
    scenarios.main(__doc__, SCENARIOS, fail_alloc="the library that makes allocations fail")
