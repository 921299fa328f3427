"""The exported model in llama.cpp against PyTorch in float32: logits of prompts' last tokens, and 200 greedy tokens.

Both read the same f16 weights from the GGUF file. llama.cpp's KV cache is kept in f32 for this, so that what is left is
rounding inside llama.cpp's f16 matrix products.
"""
import argparse
import os
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import torch

    import gguf_io
    import tokenizer as tokenizers_
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(77)


def torch_logits(model, ids):
    rows = torch.tensor([ids])
    with torch.no_grad():
        h = model(rows, torch.arange(len(ids))[None], dtype=torch.float32)
        return model.logits(h[-1]).numpy()


def torch_greedy(model, ids, n, guess):
    """n greedy tokens after ids. Tokens guessed right cost one pass together instead of one each."""
    start = len(ids)
    while len(ids) < start + n:
        rows = torch.tensor([ids + guess])
        with torch.no_grad():
            h = model(rows, torch.arange(rows.shape[1])[None], dtype=torch.float32)
            best = model.logits(h[len(ids) - 1:]).argmax(-1).tolist()
        right = next((i for i, (a, b) in enumerate(zip(guess, best)) if a != b), len(guess))
        ids, guess = ids + best[:right + 1], []
    return ids[start:start + n]


def llama_logits(binary, path, prompt):
    with tempfile.TemporaryDirectory() as out:
        text = os.path.join(out, "prompt.txt")
        with open(text, "w", encoding="utf-8") as f:
            f.write(prompt)
        subprocess.run([binary, "-m", path, "-f", text, "--save-logits", "--logits-output-dir", out, "-ngl", "0", "-c",
                        "4096", "-ctk", "f32", "-ctv", "f32", "-fa", "off", "--no-warmup"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        found = [f for f in os.listdir(out) if f.endswith(".bin") and "token" not in f]
        return np.fromfile(os.path.join(out, found[0]), dtype=np.float32)


def llama_greedy(binary, path, prompt, n):
    run = subprocess.run([binary, "-m", path, "-p", prompt, "-n", str(n), "--temp", "0", "-c", "4096", "-ngl", "0",
                          "-ctk", "f32", "-ctv", "f32", "-fa", "off", "--no-display-prompt", "-no-cnv", "--ignore-eos",
                          "--no-warmup"], check=True, capture_output=True)
    return run.stdout.decode("utf-8", "replace")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("model")
    p.add_argument("--text", required=True)
    p.add_argument("--prompts", type=int, default=6)
    p.add_argument("--greedy", type=int, default=200)
    p.add_argument("--tolerance", type=float, default=0.05)
    p.add_argument("--tools", default="", help="folder of llama-debug and llama-completion, if not on the path")
    a = p.parse_args()
    tool = lambda name: os.path.join(a.tools, name) if a.tools else name
    tok, model = tokenizers_.from_gguf(a.model), gguf_io.load(a.model).eval()
    text = open(a.text, encoding="utf-8").read()
    worst = 0.0
    for i in range(a.prompts):
        at = (i + 1) * len(text) // (a.prompts + 2)
        prompt = text[at:at + 40 * 4 ** (i % 4)].strip()
        mine = torch_logits(model, [0] + tok.encode(prompt).ids)
        theirs = llama_logits(tool("llama-debug"), a.model, prompt)
        diff = float(np.abs(mine - theirs).max())
        worst = max(worst, diff)
        print(f"{len(tok.encode(prompt).ids) + 1:5} tokens: largest difference of {len(mine)} logits {diff:.5f} "
              f"(their standard deviation {mine.std():.2f})")
    prompt = text[len(text) // 2:len(text) // 2 + 200].strip()
    theirs = llama_greedy(tool("llama-completion"), a.model, prompt, a.greedy + 4)
    mine = tok.decode(torch_greedy(model, [0] + tok.encode(prompt).ids, a.greedy, tok.encode(theirs).ids[:a.greedy]))
    same = theirs.strip().startswith(mine.strip())
    print(f"{a.greedy} greedy tokens: {'identical' if same else 'DIFFERENT'}")
    if not same:
        print(repr(mine), repr(theirs), sep="\n")
    print(f"largest difference of all: {worst:.5f}")
    return 0 if same and worst <= a.tolerance else 1


if __name__ == "__main__":
    sys.exit(main())
