#!/usr/bin/env python3
"""Sessions of unmodified llama.cpp programs beyond one greedy text, in exact mode: several clients and models, embeddings, saved slots, and what
goes wrong around them. The expectation is always what the same program does without Atlas. One scenario per call.
"""

import concurrent.futures
import math
import pathlib
import re
import tempfile

import scenarios
from scenarios import equal, require, sample

from llama_program import agree, atlas_lines, run
from llama_server import LlamaServer, Refused

PASSIVE = {"OMP_WAIT_POLICY": "passive"}
TOKENS = 24


def serve(args, with_atlas, *arguments, context=2048, folder=None, **variables):
    """A server that must run on Atlas if it is to, and must not otherwise."""
    settings = {**PASSIVE, **variables}
    if with_atlas:
        settings["ATLAS_LOG_LEVEL"] = "info"
    more = ["--no-warmup", "-fit", "off", *arguments]
    if folder:
        more += ["--slot-save-path", folder]
    server = LlamaServer(args.model, context, 2, args.plugin if with_atlas else None, settings, more)
    require(("atlas: [info]" in server.log()) == with_atlas, f"Atlas is {'not ' if with_atlas else ''}in it:\n{server.log()[-2000:]}")
    return server


def both(args, work, *arguments, **more):
    """What `work` makes of a server without Atlas, and of one with it."""
    results = []
    for with_atlas in (False, True):
        with serve(args, with_atlas, *arguments, **more) as server:
            results.append(work(server))
        require(server.process.returncode in (0, -15), f"the server ended with status {server.process.returncode}\n{server.log()[-2000:]}")
    return results


# Natural log of how much likelier the first of two tokens may be where rounding decides between them, with quantised keys alone: on a processor without
# AVX-512 two tokens that were 0.004 apart changed places.
TIE = 0.05


def equal_but_for_ties(answers, texts, what, kv):
    """Texts are those of the answers (with n_probs=2), or leave them first where the answer's two likeliest tokens were as good as equal."""
    for answer, text in zip(answers, texts, strict=True):
        if answer["content"] == text:
            continue
        if "-ctk" not in kv:
            equal(answer["content"], text, what)
        written = ""
        for token in answer["completion_probabilities"]:
            written += token["token"]
            if not text.startswith(written):
                first, second = (entry["logprob"] for entry in token["top_logprobs"][:2])
                require(first - second < TIE, f"{what}: differs at {written[-20:]!r}, {first - second:.3f} ahead:\n{answer['content']}\n{text}")
                print(f"{what}: a tie at {written[-20:]!r}, {first - second:.4f} ahead")
                break
        else:
            equal(answer["content"], text, what)


def clients(args):
    """Eight clients on four slots, all at once, several requests each; then the same texts one after the other."""
    prompts = [sample(300 + 170 * i, 1500 * i) for i in range(8)]

    def ask(server, prompt):
        return server.complete(prompt, TOKENS, cache_prompt=False, n_probs=2)

    def together(server):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            return [[answer["content"] for answer in pool.map(lambda prompt: ask(server, prompt), prompts)] for _ in range(3)]

    def alone(server):
        return [ask(server, prompt) for prompt in prompts]

    for kv in ([], ["-ctk", "q8_0", "-ctv", "q8_0"], ["--kv-unified"]):
        right, ours = both(args, alone, "-np", "4", *kv, context=4096)
        equal_but_for_ties(right, [answer["content"] for answer in ours], f"one after the other {kv}", kv)
        with serve(args, True, "-np", "4", *kv, context=4096) as server:
            for texts in together(server):
                equal_but_for_ties(right, texts, f"alone without Atlas, together with it {kv}", kv)


def slot_save(args):
    """A slot saved with Atlas is read without, and the other way round; half-written files are refused."""
    prompt = sample(2000)

    with tempfile.TemporaryDirectory() as folder:
        def save(server):
            server.complete(prompt, 1, id_slot=0)
            server.ask("/slots/0?action=save", filename="slot.bin")
            return server.complete(prompt, TOKENS, id_slot=0)["content"]

        def restore(server):
            server.ask("/slots/0?action=restore", filename="slot.bin")
            answer = server.complete(prompt, TOKENS, id_slot=0)
            require(answer["timings"]["prompt_n"] < 20, f"{answer['timings']['prompt_n']} tokens were computed again: nothing was put back")
            return answer["content"]

        texts = []
        for saver, loader in [(False, False), (True, False), (False, True), (True, True)]:
            with serve(args, saver, folder=folder) as server:
                texts.append(save(server))
            with serve(args, loader, folder=folder) as server:
                texts.append(restore(server))
                path = pathlib.Path(folder, "slot.bin")
                path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
                try:
                    server.ask("/slots/0?action=restore", filename="slot.bin")
                    raise scenarios.Failed("half a file was accepted")
                except Refused:
                    pass
                texts.append(server.complete(prompt, TOKENS, id_slot=0)["content"])
        for text in texts:
            equal(texts[0], text, "saved and restored, with and without Atlas")


def over_budget(args):
    """A saved state that does not fit into ATLAS_KV_RAM: who continues it is told, in one line, and other work goes on."""
    prompt, short = sample(2000), sample(200, 5000)
    pages = {"ATLAS_KV_RAM": "1M"}  # of the model's 12 caches: 5 pages each, 320 tokens
    lost = re.compile(r"'cache_[kv]_l\d+' does not hold what the host put there[^\n]*ATLAS_KV_RAM=1048576")

    with tempfile.TemporaryDirectory() as folder:
        command = ["llama-completion", "-m", args.model, "-p", prompt, "-n", "8", "-c", "2048", "--temp", "0", "-no-cnv", "--simple-io", "--no-warmup",
                   "-fit", "off", "-t", "2", "--prompt-cache", pathlib.Path(folder, "state.bin")]
        saved = run(command, args.plugin)
        require(saved.returncode == 0, f"saving: status {saved.returncode}\n{saved.stderr[-2000:]}")
        restored = run(command, args.plugin, **pages)
        require(restored.returncode != 0, f"a state of which a part is missing was continued:\n{restored.stdout}")
        told = [line for line in atlas_lines(restored.stderr) if lost.search(line)]
        require(len(told) == 1, f"{told}\n{restored.stderr[-3000:]}")
        enough = run(command, args.plugin, ATLAS_KV_RAM="8M")
        require(enough.returncode == 0 and saved.stdout.startswith(enough.stdout[:len(prompt)]), f"with room: {enough.stderr[-2000:]}")

        with serve(args, True, folder=folder) as server:
            server.complete(prompt, 1, id_slot=0)
            server.ask("/slots/0?action=save", filename="slot.bin")
        with serve(args, False) as server:
            right = server.complete(short, TOKENS)["content"]
        with serve(args, True, "-np", "1", folder=folder, **pages) as server:
            server.ask("/slots/0?action=restore", filename="slot.bin")
            try:
                answer = server.complete(prompt, TOKENS, id_slot=0)
                raise scenarios.Failed(f"a slot of which a part is missing was continued: {answer['content']}")
            except Refused:
                pass
            require(lost.search(server.log()), server.log()[-3000:])
            equal(right, server.complete(short, TOKENS, id_slot=0)["content"], "another prompt on the slot that could not be restored")
            try:
                server.complete(prompt, TOKENS, id_slot=0)
                raise scenarios.Failed("a prompt beyond the budget was computed")
            except Refused:
                pass
            for _ in range(5):
                equal(right, server.complete(short, TOKENS, id_slot=0)["content"], "after a prompt that did not fit")


def shifts(args):
    """Keys that move: parts of a prompt that are used again elsewhere (--cache-reuse), and two slots that run over their contexts side by side."""
    text = sample(2400)
    gap = [text.index(" ", at) for at in (300, 700)]  # between words, so that the tokens behind it stay the same

    def reuse(server):
        server.complete(text, 8, id_slot=0)
        answer = server.complete(text[:gap[0]] + text[gap[1]:], TOKENS, id_slot=0, n_cache_reuse=64, n_probs=2)
        require(answer["timings"]["prompt_n"] < 100, f"{answer['timings']['prompt_n']} tokens were computed again: nothing was moved")
        return [answer]

    def run_over(server):
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda slot: server.complete(sample(900, 3000 * slot), 300, id_slot=slot, ignore_eos=True, n_probs=2), range(2)))

    for kv in ([], ["-ctk", "q8_0", "-ctv", "q8_0"], ["-ctk", "q4_0"]):
        for what, work, arguments in (("reused", reuse, ["-np", "1", "--cache-reuse", "64"]),
                                      ("two slots", run_over, ["-np", "2", "--no-kv-unified", "--context-shift"])):
            right, ours = both(args, work, *arguments, *kv, context=1024)
            equal_but_for_ties(right, [answer["content"] for answer in ours], f"{what} {kv}", kv)


def draft(args):
    """A second model in the process proposes tokens: the text is that of the first alone."""
    with tempfile.TemporaryDirectory() as folder:
        small = pathlib.Path(folder, "draft.gguf")
        made = run(["llama-quantize", "--allow-requantize", args.model, small, "q4_0", "2"])
        require(made.returncode == 0, made.stdout[-1000:] + made.stderr[-1000:])
        prompt = sample(900)
        plain = both(args, lambda server: server.complete(prompt, 64)["content"])
        drafted = both(args, lambda server: [server.complete(prompt, 64) for _ in range(2)][1], "-md", small, "--spec-type", "draft-simple")
        for answer in drafted:
            require(answer["timings"].get("draft_n_accepted", 0) > 4, f"nothing was drafted: {answer['timings']}")
            equal(plain[0], answer["content"], "without and with a draft")
        equal(plain[0], plain[1], "without a draft")
        command = ["llama-speculative", "-m", args.model, "-md", small, "-p", prompt, "-n", "48", "--temp", "0", "-t", "2", "-c", "1024"]
        different = agree(lambda: run(command).stdout, lambda: run(command, args.plugin).stdout)
        require(not different, f"llama-speculative: {different}")


def cosine(one, other):
    return sum(a * b for a, b in zip(one, other)) / math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))


def embeddings(args):
    texts = [sample(80), sample(1400, 3000), sample(700, 9000)]
    for pooling in ("mean", "last"):
        vectors = both(args, lambda server: [item["embedding"] for item in sorted(
            server.ask("/v1/embeddings", input=texts)["data"], key=lambda item: item["index"])],
                       "--embeddings", "--pooling", pooling, "-b", "1024", "-ub", "1024")
        for one, other in zip(*vectors):
            require(cosine(one, other) > 0.99999, f"{pooling}: cosine {cosine(one, other)}")
        require(cosine(vectors[0][0], vectors[0][1]) < 0.999, "all texts have the same embedding: nothing was tested")
    # Every token sees every other one; and its output is long enough not to be lost whole at exit.
    command = ["llama-embedding", "-m", args.model, "-p", texts[1], "--pooling", "mean", "--attention", "non-causal", "-c", "1024", "-b", "1024",
               "-ub", "1024", "-t", "2", "--embd-output-format", "array"]
    one, other = ([float(number) for number in re.findall(r"-?\d+\.\d{5,}", run(command, plugin).stdout)] for plugin in (None, args.plugin))
    common = min(len(one), len(other))
    require(common > 50 and cosine(one[:common], other[:common]) > 0.99999, f"non-causal: {one[:5]} {other[:5]}, {common} numbers")


def rerank(args):
    """Scores from a model that pools to a rank: the order and the scores are the same."""
    documents = [sample(200, at) for at in (0, 2500, 5000, 7500)]
    scores = both(args, lambda server: [item["relevance_score"] for item in sorted(
        server.ask("/v1/rerank", query=sample(60), documents=documents)["results"], key=lambda item: item["index"])],
                  "--embeddings", "--pooling", "rank", "--reranking")
    for one, other in zip(*scores):
        require(math.isclose(one, other, rel_tol=2e-3, abs_tol=2e-3), f"{scores}")


def broken_models(args):
    """Files that are no model: the same status with Atlas and without, and no line of ours."""
    whole = pathlib.Path(args.model).read_bytes()
    garbage = bytes((i * i * 31 + i // 7) & 255 for i in range(300000))
    with tempfile.TemporaryDirectory() as folder:
        for name, content in [("zero", b""), ("garbage", garbage), ("header", whole[:24]), ("metadata", whole[:5000]), ("weights", whole[:200000]),
                              ("last bytes missing", whole[:-100]), ("magic", b"GGUF" + garbage), ("missing", None)]:
            path = pathlib.Path(folder, name)
            if content is not None:
                path.write_bytes(content)
            for program in (["llama-completion", "-p", "x", "-no-cnv", "-n", "4"], ["llama-bench", "-p", "8", "-n", "4", "-r", "1"]):
                alone, ours = (run([*program, "-m", path], plugin, 120) for plugin in (None, args.plugin))
                require(ours.returncode == alone.returncode > 0, f"{name}: {program[0]} ended with {ours.returncode}, without Atlas {alone.returncode}")
                require("atlas: [" not in ours.stdout + ours.stderr, f"{name}: {ours.stderr[-2000:]}")


def full_disk(args):
    """Statistics that cannot be written: one line, and the session is not spoilt."""
    command = ["llama-completion", "-m", args.model, "-p", sample(1500), "-n", "8", "-c", "1024", "--temp", "0", "-no-cnv", "--simple-io"]

    def session(path):
        result = run(command, args.plugin, ATLAS_STATS=path, ATLAS_MODE="sparse", ATLAS_THRESHOLD="64", ATLAS_WINDOW="64")
        require(result.returncode == 0, f"ATLAS_STATS={path}: status {result.returncode}\n{result.stderr[-2000:]}")
        return result

    def spoilt(path):
        result = session(path)
        lines = [line for line in atlas_lines(result.stderr) if path in line]
        require(len(lines) == 1, f"ATLAS_STATS={path}: {lines}\n{result.stderr[-2000:]}")
        return result.stdout

    with tempfile.TemporaryDirectory() as folder:
        good = pathlib.Path(folder, "stats.json")
        for path in ("/dev/full", folder + "/no/such/folder/stats.json", folder, "/proc/version"):
            different = agree(lambda: session(good).stdout, lambda path=path: spoilt(path))
            require(not different, f"ATLAS_STATS={path}: another text than with a good path: {different}")
        require(good.stat().st_size > 100, "the good path has no statistics")


SCENARIOS = {function.__name__: function for function in (clients, slot_save, over_budget, shifts, draft, embeddings, rerank, broken_models, full_disk)}


if __name__ == "__main__":
    scenarios.main(__doc__, SCENARIOS)
