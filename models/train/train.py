"""Trains the model; README.md beside this file says how. Resumes from RUN/last.pt when that exists."""
import argparse
import json
import math
import os
import signal
import sys
import time
from collections import defaultdict

import numpy as np
import torch
import torch.nn.functional as F

import data
import gguf_io
import optim
import tokenizer as tokenizers_
from model import Config, Model


def arguments():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--run", required=True, help="folder for tokens, checkpoints and the log")
    p.add_argument("--text", required=True, help="training text (UTF-8, .xz or not)")
    p.add_argument("--valid", required=True, help="text held out, for perplexity only")
    p.add_argument("--init-from", help="GGUF file to go on from (its tokenizer is used too)")
    p.add_argument("--vocab", type=int, default=4096, help="size of a new tokenizer, without --init-from")
    for name, default in Config().as_dict().items():
        if name not in ("vocab", "rope_base", "eps", "context"):
            p.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    p.add_argument("--minutes", type=float, default=110, help="training time in all; the learning rate is then 0")
    p.add_argument("--tokens", type=float, help="end after this many tokens instead (then the curve repeats exactly)")
    p.add_argument("--end-at", help="end at this time of day instead, HH:MM, however fast the machine is until then")
    p.add_argument("--steps", type=int, help="stop after this many steps in all, even before the end")
    p.add_argument("--plain", type=float, default=0.0, help="share of the steps that are book text and nothing else")
    p.add_argument("--warm", type=int, default=60, help="steps in which the learning rate rises")
    p.add_argument("--decay", type=float, default=0.6, help="share of the run in which it falls, linearly, to 0")
    p.add_argument("--log-every", type=int, default=25, help="steps")
    p.add_argument("--valid-every", type=int, default=200, help="steps")
    p.add_argument("--muon-lr", type=float, default=0.02)
    p.add_argument("--adam-lr", type=float, default=2e-3)
    p.add_argument("--answers", type=float, default=1.0, help="weight of the answers' loss beside the text's")
    p.add_argument("--batch", type=int, default=8192, help="tokens of one batch, about")
    p.add_argument("--accumulate", type=int, default=1, help="batches of one step")
    p.add_argument("--save-every", type=float, default=120, help="seconds")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return p.parse_args()


def tokens_of(path, tok, out):
    """Token ids of a text, made once. Encoded in pieces that end with a paragraph."""
    if not os.path.exists(out):
        text = tokenizers_.open_text(path).read()
        cuts = [0]
        while cuts[-1] < len(text):
            end = text.find("\n\n", cuts[-1] + (1 << 18))
            cuts.append(len(text) if end < 0 else end + 2)
        parts = []
        for i in range(0, len(cuts) - 1, 32):
            pieces = [text[a:b] for a, b in zip(cuts[i:i + 32], cuts[i + 1:i + 33])]
            parts += [np.array(e.ids, dtype=np.uint16) for e in tok.encode_batch(pieces)]
        ids = np.concatenate(parts or [np.zeros(0, np.uint16)])
        if len(ids) < 40000 and "train" in os.path.basename(out) or len(ids) < 2:
            sys.exit(f"{path} is too short: {len(ids)} tokens")
        with open(out + ".tmp", "wb") as f:
            np.save(f, ids)
        os.replace(out + ".tmp", out)
    return np.load(out, mmap_mode="r")


def end_of(clock):
    """The next time that the clock shows HH:MM, in seconds since the epoch."""
    now = time.time()
    h, m = map(int, clock.split(":"))
    at = time.mktime(time.localtime(now)[:3] + (h, m, 0, 0, 0, -1))
    return at if at > now else at + 86400


def next_batch(maker, progress, batch, from_scratch, plain):
    """The curriculum. From scratch: short rows with repeats until recall has formed (a quarter of the time)."""
    r = maker.rng
    if r.random() < plain:
        size = r.choice((512, 512, 1024, 1024, 2048))
        return maker.causal(max(1, batch // size), size, plain=True)
    if from_scratch and progress < 0.25:
        size = r.choice((256, 512)) if progress < 0.12 else r.choice((256, 512, 1024))
        return maker.causal(max(1, batch // size), size)
    x = r.random()
    if x < 0.40:
        size = r.choice((512, 1024, 1024, 2048, 2048, 4096))
        return maker.causal(max(1, batch // size), size)
    # Contexts grow with the run; the longest are rare because their tails cost most.
    total = r.choice((4096, 8192, 8192)) if progress < 0.15 else r.choice((8192,) * 4 + (16384,) * 3 + (30720,))
    tails = {4096: 4, 8192: 3, 16384: 3, 30720: 2}[total]
    size = r.choice((512, 512, 1024))
    return maker.wide(total // size, size, tails, 384)


def losses(model, b, device, dtype):
    put = lambda a: None if a is None else torch.from_numpy(np.ascontiguousarray(a)).to(device)
    hidden = model(put(b.rows), put(b.pos), put(b.tails), put(b.tail_pos), dtype=dtype)
    cls = put(b.classes)
    keep = (cls != data.NONE).nonzero()[:, 0]
    targets, cls = put(b.targets)[keep], cls[keep]
    logits = model.logits(hidden[keep])
    each = F.cross_entropy(logits, targets, reduction="none")
    mean = lambda k: each[cls == k].mean() if (cls == k).any() else each.new_zeros(())
    right = torch.zeros(b.targets.size, dtype=torch.bool, device=device)
    right[keep] = logits.detach().argmax(-1) == targets
    return mean(data.TEXT), mean(data.ANSWER), mean(data.REPEAT), right


@torch.no_grad()
def perplexity(model, ids, length, rows, device, dtype):
    n = min(rows, len(ids) // length)
    x = torch.from_numpy(ids[:n * length].astype(np.int64)).view(n, length).to(device)
    total = 0.0
    for row in x:
        h = model(torch.cat((row.new_zeros(1), row))[None, :-1], torch.arange(length, device=device)[None], dtype=dtype)
        total += F.cross_entropy(model.logits(h), row, reduction="sum").item()
    return math.exp(total / (n * length))


def settle():
    """Starts this program anew with what makes it fast on CPUs, where the caller has not chosen otherwise.

    glibc and OpenMP read these at start only: large temporaries are reused instead of mapped anew, and threads do not
    burn their share of a busy machine while they wait for each other.
    """
    wanted = dict(MALLOC_MMAP_MAX_="0", MALLOC_TRIM_THRESHOLD_="100000000000", OMP_WAIT_POLICY="passive",
                  GOMP_SPINCOUNT="0")
    if any(name not in os.environ for name in wanted):
        os.environ.update({k: v for k, v in wanted.items() if k not in os.environ})
        os.execv(sys.executable, [sys.executable, *sys.argv])


def main():
    a = arguments()
    if a.device == "cpu":
        settle()
    if a.threads:
        torch.set_num_threads(a.threads)
    os.makedirs(a.run, exist_ok=True)
    for name in [] if os.path.exists(os.path.join(a.run, "train.npy")) else [a.text, a.valid]:
        if not os.path.isfile(name):
            sys.exit(f"no file {name}")
    at = lambda name: os.path.join(a.run, name)
    dtype = torch.bfloat16
    if a.init_from:
        tok, model = tokenizers_.from_gguf(a.init_from), gguf_io.load(a.init_from)
    else:
        if not os.path.exists(at("tokenizer.json")):
            tokenizers_.train_tokenizer(a.text, a.vocab).save(at("tokenizer.json"))
        tok = tokenizers_.Tokenizer.from_file(at("tokenizer.json"))
        torch.manual_seed(a.seed)
        model = Model(Config(vocab=tok.get_vocab_size(), layers=a.layers, width=a.width, heads=a.heads,
                             kv_heads=a.kv_heads, head_dim=a.head_dim, ffn=a.ffn))
    model.to(a.device)
    opts = optim.build(model, a.muon_lr, a.adam_lr)
    rates = [[g["lr"] for g in o.param_groups] for o in opts]
    state = dict(step=0, tokens=0, seconds=0.0, progress=0.0)
    if os.path.exists(at("last.pt")):
        saved = torch.load(at("last.pt"), map_location=a.device, weights_only=True)
        model.load_state_dict(saved["model"])
        for o, s in zip(opts, saved["optimisers"]):
            o.load_state_dict(s)
        state.update(saved["state"])
        print(f"resumed at step {state['step']}", flush=True)
    train_ids, valid_ids = tokens_of(a.text, tok, at("train.npy")), tokens_of(a.valid, tok, at("valid.npy"))
    maker = data.Maker(data.Books(train_ids, tok), tok, a.seed, model.c.context)
    end = end_of(a.end_at) if a.end_at else None
    stopping = []
    for s in (signal.SIGTERM, signal.SIGINT):
        signal.signal(s, lambda *_: stopping.append(True))
    log = open(at("log.jsonl"), "a")

    def save():
        torch.save(dict(model=model.state_dict(), optimisers=[o.state_dict() for o in opts], state=state),
                   at("last.pt.tmp"))
        os.replace(at("last.pt.tmp"), at("last.pt"))
        gguf_io.save(at("last.gguf.tmp"), model, tok, "atlas-tiny")
        os.replace(at("last.gguf.tmp"), at("last.gguf"))

    seen, last_save, sums = defaultdict(lambda: [0, 0]), time.time(), defaultdict(list)
    while state["progress"] < 1 and not stopping and not (a.steps and state["step"] >= a.steps):
        began = time.time()
        progress = state["progress"]
        factor = min(1.0, (state["step"] + 1) / a.warm) * min(1.0, (1 - progress) / a.decay)
        for o, base in zip(opts, rates):
            for g, lr in zip(o.param_groups, base):
                g["lr"] = lr * factor
        maker.rng.seed(f"{a.seed}/{state['step']}")  # a resumed run sees what an uninterrupted one would have seen
        for _ in range(a.accumulate):
            b = next_batch(maker, progress, a.batch, not a.init_from, a.plain)
            text, answer, repeat, right = losses(model, b, a.device, dtype)
            ((text + a.answers * answer + 0.3 * repeat) / a.accumulate).backward()
            for kind, s, e in b.spans:
                hits = seen[f"{kind}@{'causal' if b.tails is None else b.rows.size // 1024}"]
                hits[0] += bool(right[s:e].all())
                hits[1] += 1
            sums["text" if b.spans or repeat else "plain"].append(text.item())
            sums["answer"].append(answer.item())
            sums["repeat"].append(repeat.item())
            state["tokens"] += b.tokens
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if torch.isfinite(norm):
            for o in opts:
                o.step()
        model.zero_grad(set_to_none=True)
        state["step"] += 1
        state["seconds"] += min(time.time() - began, 60)  # a pause (SIGSTOP) counts for a minute at most
        if a.tokens:
            state["progress"] = state["tokens"] / a.tokens
        elif end:  # what is left of the way is spread over what is left of the time, so pauses make no jump
            left = end - began
            state["progress"] += (1 - progress) * min(1.0, (time.time() - began) / left) if left > 0 else 1.0
        else:
            state["progress"] = state["seconds"] / (a.minutes * 60)
        if state["step"] % a.log_every == 0:
            row = dict(state, lr=round(factor, 4), **{k: round(float(np.mean([x for x in v if x] or [0])), 4)
                                                      for k, v in sums.items()},
                       **{k: f"{h}/{n}" for k, (h, n) in sorted(seen.items())})
            if state["step"] % a.valid_every == 0:
                row["valid"] = {n: round(perplexity(model, valid_ids, n, 16384 // n, a.device, dtype), 2)
                                for n in (512, 2048)}
            row = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
            print(json.dumps(row), flush=True)
            log.write(json.dumps(row) + "\n")
            log.flush()
            seen.clear()
            sums.clear()
        if time.time() - last_save > a.save_every:
            save()
            last_save = time.time()
    save()


if __name__ == "__main__":
    main()
