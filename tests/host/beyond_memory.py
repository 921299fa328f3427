"""What the tests share in which weights or the KV cache are larger than the memory they may take: a folder on a disk, programs, and what these say."""

import contextlib
import json
import pathlib
import re
import tempfile

from scenarios import require, sample

from llama_program import atlas_lines, run
from llama_server import LlamaServer

CONTEXT = 4096
TOKENS = 16


@contextlib.contextmanager
def folder():
    # Not /tmp, which may be memory.
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="atlas-beyond-") as path:
        yield path


def errors(log):
    return [line for line in atlas_lines(log) if "[error]" in line]


def serve(args, variables, *arguments, model=None):
    return LlamaServer(model or args.model, CONTEXT, 2, args.plugin, {"OMP_WAIT_POLICY": "passive", "ATLAS_LOG_LEVEL": "info", **variables},
                       ["--no-warmup", "-fit", "off", "-b", "512", *arguments])


def answers(args, variables, work, *arguments, model=None):
    """What `work` makes of a server, and Atlas's statistics."""
    with folder() as path:
        stats = pathlib.Path(path, "stats.json")
        with serve(args, {**variables, "ATLAS_STATS": stats}, *arguments, model=model) as server:
            result = work(server)
            log = server.log()
        require(server.process.returncode in (0, -15), f"the server ended with status {server.process.returncode}\n{log[-3000:]}")
        require(not errors(log), f"{errors(log)}")
        return result, json.loads(stats.read_text(encoding="utf-8"))


def said(answer):
    """The text, and the probabilities behind it: these tell more of a difference."""
    return [answer["content"], [[token["token"], token["logprob"]] for token in answer["completion_probabilities"]]]


def talk(server, prompt):
    """A text is continued, and what was read of it is used for another one."""
    return [said(server.complete(text, TOKENS, n_probs=1)) for text in (prompt, prompt + " And then")]


def three_slots(server, characters):
    """Three texts at once, each continued twice."""
    prompts = [sample(characters + 300 * i, 2000 * i) for i in range(3)]
    return [[said(server.complete(prompt, TOKENS, id_slot=slot, n_probs=1)) for slot, prompt in enumerate(prompts)] for _ in range(2)]


def complete(args, prompt, **variables):
    """A program that says eight tokens and ends."""
    return run(["llama-completion", "-m", args.model, "-p", prompt, "-n", "8", "-c", str(CONTEXT), "-b", "512", "--temp", "0", "-no-cnv", "--simple-io",
                "--no-warmup", "-fit", "off", "-t", "2"], args.plugin, **variables)


def refused(args, cases):
    """Settings with which Atlas is not loaded, each with the reason that is given; the program runs without it."""
    for variables, reason in cases:
        result = complete(args, "One", **variables)
        require(result.returncode == 0, f"{variables}: status {result.returncode}\n{result.stderr[-2000:]}")
        require(re.search("not loaded: .*" + reason, result.stderr), f"{variables}:\n{result.stderr[:3000]}")
