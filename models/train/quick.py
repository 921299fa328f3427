"""A quick look at models in PyTorch: perplexity and answers right, on held-out text with planted tasks (fixed seed)."""
import argparse
from collections import defaultdict

import numpy as np
import torch

import data
import gguf_io
import tokenizer as tokenizers_
from train import losses, perplexity


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("models", nargs="+")
    p.add_argument("--tokens", required=True, help="valid.npy of a run")
    p.add_argument("--contexts", default="8192,16384")
    p.add_argument("--batches", type=int, default=3)
    p.add_argument("--rows", type=int, default=64, help="rows of 512 tokens for the perplexity")
    a = p.parse_args()
    ids = np.load(a.tokens, mmap_mode="r")
    for file in a.models:
        model, tok = gguf_io.load(file).eval(), tokenizers_.from_gguf(file)
        maker, seen = data.Maker(data.Books(ids, tok), tok, 99), defaultdict(lambda: [0, 0])
        for context in map(int, a.contexts.split(",")):
            for _ in range(a.batches):
                b = maker.wide(context // 512, 512, 3, 384)
                with torch.no_grad():
                    right = losses(model, b, "cpu", torch.bfloat16)[3]
                for kind, s, e in b.spans:
                    hits = seen[f"{kind}@{context // 1024}K"]
                    hits[0] += bool(right[s:e].all())
                    hits[1] += 1
        ppl = {n: round(perplexity(model, ids, n, a.rows * 512 // n, "cpu", torch.bfloat16), 2) for n in (512, 2048)}
        print(file, ppl, {k: f"{h}/{n}" for k, (h, n) in sorted(seen.items())}, flush=True)


if __name__ == "__main__":
    main()
