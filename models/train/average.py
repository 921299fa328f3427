"""Weighted mean of models of one run, or of a run and what it started from: OUT.gguf A.gguf=0.7 B.gguf=0.3"""
import argparse

import torch

import gguf_io
import tokenizer as tokenizers_


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("out")
    p.add_argument("models", nargs="+", metavar="FILE[=WEIGHT]")
    a = p.parse_args()
    split = [m.rpartition("=") if "=" in m else (m, "=", "1") for m in a.models]
    parts = [(file, float(weight)) for file, _, weight in split]
    total = sum(w for _, w in parts)
    mean = gguf_io.load(parts[0][0])
    with torch.no_grad():
        for q in mean.parameters():
            q.zero_()
        for file, weight in parts:
            for q, x in zip(mean.parameters(), gguf_io.load(file).parameters(), strict=True):
                q.add_(x, alpha=weight / total)
    gguf_io.save(a.out, mean, tokenizers_.from_gguf(parts[0][0]), "atlas-tiny")


if __name__ == "__main__":
    main()
