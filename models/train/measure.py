"""Retrieval with exact attention in unmodified llama.cpp: the table of ../README.md.

Starts llama-server on the model, writes facts into windows of a held-out text, asks for each, and scores by exact match
of the whole value or list. `single`: a document has four facts, each the only one of its form, each asked on its own;
`multi-key`: nine facts of one form, six of them asked (eight distractors); `chain`: variables copied twice, asked back;
`multi-value`, `multi-query`, `holders`, `common`, `copy`: the other tasks of FORMS.md.
The same seed gives the same documents.
"""
import argparse
import json
import math
import os
import random
import sys
import time

import tokenizer as tokenizers_
from tasks import Tasks

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../scripts"))
from llama_server import LlamaServer, ServerError  # noqa: E402

# Kinds in the training's own wording (FORMS.md): how a few of a document's four questions are made, and their kind there.
OTHERS = {"multi-value": (lambda t: t.multi_value(2, 2), "values"),
          "multi-query": (lambda t: t.multi_query(4, 1), "query"),
          "holders": (lambda t: t.variables(2, 2), "holders"), "common": (lambda t: t.common(), "common"),
          "copy": (lambda t: t.copying(1), "copy")}
FORMS = ("secret code", "locker number", "ticket number", "magic number")


def wilson(hits, n, z=1.96):
    """95% interval of a share."""
    if n == 0:
        return 0.0, 1.0
    p, d = hits / n, 1 + z * z / n
    mid, half = (p + z * z / (2 * n)) / d, z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / d
    return mid - half, mid + half


class Haystack:
    def __init__(self, text, tok, rng):
        self.text, self.tok, self.rng = text, tok, rng

    def document(self, tokens, plants):
        """About `tokens` tokens of text with the plants, in their order, after full stops spread over all depths."""
        at = self.rng.randrange(len(self.text) - tokens * 8)
        enc = self.tok.encode(self.text[at:at + tokens * 8])
        need = sum(len(self.tok.encode(p).ids) for p in plants)
        text = self.text[at:at + enc.offsets[tokens - need - 80][1]]
        places = [i + 1 for i in range(len(text) - 1) if text[i] == "." and text[i + 1] == " "]
        where = sorted(places[min(int((i + self.rng.random()) / len(plants) * len(places)), len(places) - 1)]
                       for i in range(len(plants)))
        out, last = [], 0
        for p, w in zip(plants, where):
            out += [text[last:w], p]
            last = w
        return "".join(out) + text[last:]


def trials(kind, tasks, rng):
    """Plants of a document and what is asked: [(question, value)]."""
    if kind == "chain":
        names = ["".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(3)) for _ in range(6)]
        plants, asked = [], []
        for hop in range(3):
            for c in (0, 1):
                a = names[3 * c:3 * c + 3]
                if hop == 0:
                    asked.append((a, tasks.number(5)))
                plants.append(f" VAR {a[0]} = {asked[c][1]}." if hop == 0 else f" VAR {a[hop]} = VAR {a[hop - 1]}.")
        return plants, [(f"\n\nWhat is the value of VAR {a[2]}? VAR {a[2]} =",
                         f"VAR {a[1]}, VAR {a[1]} = VAR {a[0]}, VAR {a[0]} = {v}") for a, v in asked]
    if kind in OTHERS:
        make, of = OTHERS[kind]
        plants, asked = [], []
        while len(asked) < 4:
            more, questions = make(tasks)
            questions = [(tasks.tok.decode(q), tasks.tok.decode(a).strip(" .")) for q, a, k in questions if k == of]
            if questions:
                plants, asked = plants + [tasks.tok.decode(p) for p in more], asked + questions
        return plants, asked[:4]
    n = 9 if kind == "multi-key" else 4
    known = [(who, tasks.number(5)) for who in tasks.names(n)]
    form = lambda i: FORMS[0] if kind == "multi-key" else FORMS[i]
    order = rng.sample(range(n), n)
    plants = [f" The {form(i)} of {known[i][0]} is {known[i][1]}." for i in order]
    asked = [(f"\n\nWhat is the {form(i)} of {known[i][0]}? The {form(i)} of {known[i][0]} is", known[i][1])
             for i in range(n)]
    return plants, rng.sample(asked, 6) if kind == "multi-key" else asked


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("model")
    p.add_argument("--text", required=True, help="haystack, not seen in training")
    p.add_argument("--plan", default="single:2048:12,single:8192:12,multi-key:8192:8,chain:8192:12,single:16384:6,"
                                     "single:32000:6", help="kind:tokens:documents, comma separated")
    p.add_argument("--seed", type=int, default=2026)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--server", default="llama-server")
    p.add_argument("--json", help="write the result here")
    a = p.parse_args()
    if not os.path.getsize(a.text):
        sys.exit(f"{a.text} is empty")
    plan = [(k, int(n), int(d)) for k, n, d in (x.split(":") for x in a.plan.split(","))]
    tok = tokenizers_.from_gguf(a.model)
    server = LlamaServer(a.model, max(n for _, n, _ in plan) + 512, a.threads, arguments=["-ngl", "0"], binary=a.server)
    result = []
    try:
        text = open(a.text, encoding="utf-8").read()
        for kind, length, documents in plan:
            rng = random.Random(f"{a.seed}/{kind}/{length}")
            tasks, hay = Tasks(tok, rng), Haystack(text, tok, rng)
            hits = n = digits = 0
            began = time.time()
            for _ in range(documents):
                plants, asked = trials(kind, tasks, rng)
                doc = hay.document(length, plants)
                for question, value in asked:
                    answer = server.complete(doc + question, 12 if kind in ("single", "multi-key") else 80, stop=["."])
                    got, used = answer["content"].strip(), answer["tokens_evaluated"]
                    n += 1
                    hits += got == value
                    digits += sum(x == y for x, y in zip(got, value)) / len(value)
            low, high = wilson(hits, n)
            row = dict(task=kind, tokens=length, hits=hits, trials=n, accuracy=round(hits / n, 3),
                       low=round(low, 3), high=round(high, 3), characters=round(digits / n, 3),
                       last_prompt=used, seconds=round(time.time() - began))
            result.append(row)
            print(f"{kind:10} {length:6} tokens: {hits}/{n} = {hits / n:.1%}  (95%: {low:.1%} to {high:.1%}; "
                  f"characters {digits / n:.1%}; {row['seconds']} s)", flush=True)
    finally:
        server.stop()
    if a.json:
        json.dump(result, open(a.json, "w"), indent=1)


if __name__ == "__main__":
    try:
        main()
    except ServerError as problem:
        sys.exit(str(problem))
