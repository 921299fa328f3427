#!/usr/bin/env python3
"""Sparse attention through unmodified llama.cpp programs, on the repository's model with a small threshold, so that a thousand tokens
are enough to estimate something. One scenario per call, named by the last argument; that something was estimated, or that nothing was,
is checked in the plug-in's statistics.
"""

import concurrent.futures
import json
import pathlib
import re
import tempfile

import scenarios
from scenarios import Failed, equal, sample

from llama_program import run
from llama_server import LlamaServer

SMALL = {"ATLAS_MODE": "sparse", "ATLAS_THRESHOLD": "256", "ATLAS_WINDOW": "64", "ATLAS_BUDGET_FLOOR": "64", "ATLAS_BUDGET": "64",
         "OMP_WAIT_POLICY": "passive"}
# More than there is: every key is read, through the whole machinery.
COVERING = {**SMALL, "ATLAS_BUDGET_FLOOR": "1048576", "ATLAS_BUDGET": "1048576"}
TOKENS = 24


class Session:
    """A server with Atlas and statistics, or (variables None) without Atlas."""

    def __init__(self, args, variables, *arguments, context=2048, threads=2):
        self._folder = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self._folder.name)
        settings = dict(variables or {"OMP_WAIT_POLICY": "passive"})
        if variables:
            settings["ATLAS_STATS"] = str(self.folder / "stats.json")
        self.server = LlamaServer(args.model, context, threads, args.plugin if variables else None, settings,
                                  ["--no-warmup", "--slot-save-path", self.folder, *arguments])
        self.estimated = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.stop()
        stats = self.folder / "stats.json"
        if stats.exists():
            layers = json.loads(stats.read_text(encoding="utf-8"))["layers"]
            self.estimated = sum(layer["estimated_keys"] for layer in layers)
            self.planned = sum(layer["calls"] - layer["exact_calls"] for layer in layers)
        self._folder.cleanup()

    def answer(self, prompt, slot=0, tokens=TOKENS, **more):
        """The prompt first, alone in its batches; then the answer, which goes on from there."""
        self.server.complete(prompt, 1, id_slot=slot)
        return self.server.complete(prompt, tokens, id_slot=slot, **more)["content"]


def estimates(session):
    if not session.estimated:
        raise Failed("nothing was estimated: this tested exact attention")


def covering(args, *arguments):
    """Budgets that cover everything give the text of llama.cpp alone."""
    with Session(args, None, *arguments) as plain:
        expected = plain.answer(sample(5000))
    with Session(args, COVERING, *arguments) as ours:
        got = ours.answer(sample(5000))
    if not ours.planned or ours.estimated:
        raise Failed(f"{ours.planned} calls were planned and {ours.estimated} keys estimated, expected some and none")
    equal(expected, got, "llama.cpp alone, everything covered")


def quantised(args):
    covering(args, "-ctk", "q8_0", "-ctv", "q8_0", "-fa", "on")
    again(args, "-ctk", "q8_0", "-ctv", "q8_0", "-fa", "on")


def again(args, *arguments, first=None, second=None):
    """Two servers with the same settings (but for those named) give the same text."""
    texts = []
    for more in (first or {}, second or {}):
        with Session(args, SMALL, *arguments, **more) as session:
            texts.append(session.answer(sample(5000)))
        estimates(session)
    equal(*texts, "the same settings twice")


def threads(args):
    again(args, first={"threads": 1}, second={"threads": 2})


def slots(args):
    """Four slots of different lengths that answer at the same time, and each alone in a server of one slot."""
    prompts = [sample(2500 + 900 * slot, 3000 * slot) for slot in range(4)]
    with Session(args, SMALL, "-np", "4", "--no-kv-unified", context=4 * 2048) as session:
        for slot, prompt in enumerate(prompts):
            session.server.complete(prompt, 1, id_slot=slot)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda item: session.server.complete(item[1], TOKENS, id_slot=item[0])["content"], enumerate(prompts)))
    estimates(session)
    for slot, prompt in enumerate(prompts):
        with Session(args, SMALL) as session:
            equal(session.answer(prompt), together[slot], f"slot {slot}: alone, then beside three others")
        estimates(session)


def slot_save(args):
    """A slot saved, emptied and put back answers as before."""
    with Session(args, SMALL) as session:
        prompt = sample(5000)
        session.server.complete(prompt, 1, id_slot=0)
        session.server.ask("/slots/0?action=save", filename="slot.bin")
        before = session.server.complete(prompt, TOKENS, id_slot=0)["content"]
        session.server.ask("/slots/0?action=erase")
        session.server.ask("/slots/0?action=restore", filename="slot.bin")
        after = session.server.complete(prompt, TOKENS, id_slot=0)
        if after["timings"]["prompt_n"] > 16:
            raise Failed(f"{after['timings']['prompt_n']} tokens were computed again: nothing was put back")
        equal(before, after["content"], "before and after")
    estimates(session)


def context_shift(args, *arguments):
    """Generation far beyond the context: covered, it is llama.cpp's text; sparse, it ends well and twice the same."""
    shift = ("--context-shift", "--keep", "8", *arguments)

    def long_answer(variables, length):
        with Session(args, variables, *shift, context=512) as session:
            content = session.answer(sample(900), tokens=length, ignore_eos=True)
        if variables:
            estimates(session) if variables is SMALL else None
        return content

    equal(long_answer(None, 400), long_answer(COVERING, 400), "llama.cpp alone, everything covered")
    one = long_answer(SMALL, 1200)
    if len(one) < 1200:
        raise Failed(f"only {len(one)} characters in 1200 tokens")
    equal(one, long_answer(SMALL, 1200), "twice")


def backend_ops(args):
    """The operator's own cases through pages and the planner, everything covered."""
    if not args.backend_ops:
        scenarios.skip("test-backend-ops is not installed")
    pattern = r"hsk=(64|128),hsv=(64|128),nh=4,nr23=.[14],1.,kv=(512|1024),nb=(1|3|35),.*type_K=(f16|q8_0)"
    result = run([args.backend_ops, "test", "-b", "ATLAS0", "-o", "FLASH_ATTN_EXT", "-p", pattern], args.plugin, 800,
                 **{**COVERING, "ATLAS_THRESHOLD": "64", "ATLAS_SINKS": "1", "ATLAS_WINDOW": "1", "ATLAS_PAGE_ALL": "1"})
    found = re.search(r"(\d+)/(\d+) tests passed", re.sub(r"\x1b\[[0-9;]*m", "", result.stdout))
    if result.returncode != 0 or not found or found[1] != found[2] or int(found[1]) < 20:
        raise Failed(f"status {result.returncode}, {found and found[0]}\n{result.stdout[-3000:]}\n{result.stderr[-1000:]}")
    print(found[0])


SCENARIOS = {"covering": covering, "q8_0": quantised, "threads": threads, "slots": slots, "slot_save": slot_save,
             "context_shift": context_shift,
             "context_shift_q8_0": lambda args: context_shift(args, "-ctk", "q8_0", "-ctv", "q8_0", "-fa", "on"), "backend_ops": backend_ops}


if __name__ == "__main__":
    scenarios.main(__doc__, SCENARIOS, backend_ops="test-backend-ops; its scenario is skipped without")
