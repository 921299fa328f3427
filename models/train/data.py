"""Batches: book text with tasks planted in it.

Both kinds of batch give tokens, positions, targets and a class for every target:
0 not scored (what cannot be known: planted values), 1 book text, 2 answer, 3 a segment repeated from before.
"""
import random
from dataclasses import dataclass, field

import numpy as np

from tasks import Tasks

NONE, TEXT, ANSWER, REPEAT = 0, 1, 2, 3


@dataclass
class Batch:
    rows: np.ndarray
    pos: np.ndarray
    tails: np.ndarray = None
    tail_pos: np.ndarray = None
    targets: np.ndarray = None  # rows and tails, flattened in this order
    classes: np.ndarray = None
    spans: list = field(default_factory=list)  # (kind, begin, end) of every answer among the targets
    tokens: int = 0


class Books:
    """Token ids of a text and the places where a planted sentence may begin (after a full stop)."""

    def __init__(self, ids, tokenizer):
        self.ids = ids
        vocab = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
        stop = np.array([t.endswith((".", "!", "?", "Ċ")) for t in vocab])
        start = np.array([t.startswith("Ġ") and len(t) > 1 and t[1].isalpha() for t in vocab])
        self.stop, self.start = stop, start

    def window(self, rng, n):
        at = rng.randrange(len(self.ids) - n - 1)
        return self.ids[at:at + n].astype(np.int64)

    def places(self, window):
        ok = np.flatnonzero(self.stop[window[:-1]] & self.start[window[1:]]) + 1
        return ok.tolist() or [len(window) // 2]


class Maker:
    def __init__(self, books, tokenizer, seed, context=32768):
        self.rng = random.Random(seed)
        self.books, self.context = books, context
        self.tasks = Tasks(tokenizer, self.rng)

    def _weave(self, length, inserts, base=None):
        """Book text (the beginning of `base`) of `length` tokens with inserts [(tokens, classes)] at sentence ends."""
        need = sum(len(t) for t, _ in inserts)
        base = self.books.window(self.rng, length) if base is None else base
        base = base[:max(length - need, 16)]
        places = self.books.places(base)
        at = sorted(self.rng.choice(places) for _ in inserts)
        ids, cls, last = [], [], 0
        for p, (t, c) in zip(at, inserts):
            ids += base[last:p].tolist() + t
            cls += [TEXT] * (p - last) + c
            last = p
        ids += base[last:].tolist()
        cls += [TEXT] * (len(base) - last)
        return ids[:length], cls[:length]

    def _plant(self, tokens):
        return tokens, [NONE] * len(tokens)

    def _question(self, q):
        prompt, answer, kind = q
        return prompt + answer, [NONE] * len(prompt) + [ANSWER] * len(answer)

    def _questions(self, length, questions, base=None):
        """A tail: some book text (the beginning of `base`), then questions, text between some of them."""
        rng, spans = self.rng, []
        ids = (self.books.window(rng, rng.randrange(8, 64)) if base is None else base).tolist()
        cls = [TEXT] * len(ids)
        for q in questions:
            t, c = self._question(q)
            if len(ids) + len(t) + 1 > length:
                continue
            spans.append((q[2], len(ids) + len(q[0]), len(ids) + len(t)))
            ids, cls = ids + t, cls + c
            if rng.random() < 0.3:
                more = self.books.window(rng, rng.randrange(4, 32)).tolist()
                ids, cls = ids + more, cls + [TEXT] * len(more)
        more = self.books.window(rng, max(length + 1 - len(ids), 0) + 1).tolist()
        return (ids + more)[:length + 1], (cls + [TEXT] * len(more))[:length + 1], \
            [s for s in spans if s[2] <= length]

    def wide(self, chunks, size, tails, tail_size):
        """One context of chunks x size tokens, every chunk a row of its own, and tails that ask about all of it."""
        rng = self.rng
        tasks, need = [], 0
        for task in self.tasks.mixture(tails * tail_size // 36):
            size_of = sum(len(p) for p in task[0])
            if need + size_of <= chunks * size // 4:
                tasks.append(task)
                need += size_of
        inserts = [[] for _ in range(chunks)]
        room = [size // 2] * chunks
        for plants, _ in tasks:
            for c, p in zip(sorted(rng.choices(range(chunks), k=len(plants))), plants):
                while room[c] < len(p):
                    c = (c + 1) % chunks
                room[c] -= len(p)
                inserts[c].append(self._plant(p))
        # Plants of one chunk keep their order; tasks are mixed by chance of chunk only.
        # Half of the contexts are one passage that the tails continue, so that far text helps to predict text.
        joined = rng.random() < 0.5
        book = self.books.window(rng, chunks * size + tail_size) if joined else None
        rows, cls = [], []
        for c in range(chunks):
            ids, k = self._weave(size + 1, inserts[c], book[c * size:(c + 1) * size + 1] if joined else None)
            rows.append([0] + ids)
            cls.append(k)
        questions = [q for _, qs in tasks for q in qs]
        asked = []
        for _ in range(tails):
            rng.shuffle(questions)
            more = book[chunks * size:][:rng.randrange(8, tail_size // 2)] if joined else None
            asked.append(self._questions(tail_size, questions, more))
        total = chunks * size + tail_size
        gaps = np.sort(np.array([rng.random() for _ in range(chunks)]))
        slack = rng.choice((0, rng.randrange(max(1, self.context - total - 64))))
        start = (gaps * slack).astype(np.int64) + np.arange(chunks) * size + 1
        pos = np.concatenate((np.zeros((chunks, 1), np.int64), start[:, None] + np.arange(size)), 1)
        b = Batch(np.array([r[:size + 1] for r in rows]), pos)
        b.tails = np.array([a[0][:tail_size] for a in asked])
        b.tail_pos = np.tile(pos[-1, -1] + 1 + rng.randrange(max(1, min(64, slack))) + np.arange(tail_size), (tails, 1))
        b.targets = np.concatenate([np.array(r[1:]) for r in rows] + [np.array(a[0][1:]) for a in asked])
        b.classes = np.concatenate([np.array(k) for k in cls] + [np.array(a[1][1:]) for a in asked])
        base = chunks * (size + 1)
        for i, (_, _, spans) in enumerate(asked):
            b.spans += [(kind, base + i * tail_size + s - 1, base + i * tail_size + e - 1) for kind, s, e in spans]
        b.tokens = b.rows.size + b.tails.size
        return b

    def causal(self, rows, size, plain=False):
        """Ordinary rows: plants and questions in the order of the text, repeated segments, position skips (PoSE).

        With `plain`, book text only, and skips in few of the rows.
        """
        rng = self.rng
        b = Batch(np.zeros((rows, size + 1), np.int64), np.zeros((rows, size + 1), np.int64))
        targets, classes = [], []
        for r in range(rows):
            if plain:
                ids, cls, marks = self.books.window(rng, size + 1).tolist(), [TEXT] * (size + 1), []
            elif rng.random() < 0.35:
                ids, cls = self._repeats(size + 1)
                marks = []
            else:
                ids, cls, marks = self._story(size + 1)
            b.rows[r, 1:] = ids[:size]
            targets.append(ids)
            classes.append(cls)
            b.spans += [(kind, r * (size + 1) + s, r * (size + 1) + e) for kind, s, e in marks]
            n = rng.choice((0, 0, 0, 0, 3) if plain else (0, 1, 3, 8))
            cuts = np.sort(np.array([rng.randrange(1, size) for _ in range(n)], dtype=np.int64))
            slack = rng.randrange(self.context - size - 1)
            skips = np.sort(np.array([rng.randrange(slack) for _ in cuts], dtype=np.int64))
            p = np.arange(size) + 1
            for at, skip, before in zip(cuts, skips, np.concatenate(([0], skips))):
                p[at:] += skip - before
            b.pos[r, 1:] = p
        b.targets, b.classes = np.concatenate(targets), np.concatenate(classes)
        b.tokens = b.rows.size
        return b

    def _story(self, length):
        tasks = self.tasks.mixture(max(2, length // 160))
        half = [self._plant(p) for plants, _ in tasks for p in plants]
        questions = [q for _, qs in tasks for q in qs]
        self.rng.shuffle(questions)
        first = min(length * 2 // 3, max(sum(len(t) for t, _ in half) + 64, int(length * self.rng.uniform(0.3, 0.6))))
        while sum(len(t) for t, _ in half) > first - 32:
            half.pop()  # its question then cannot be answered: rare, and only with many plants in a short row
        ids, cls = self._weave(first, half)
        tail, tcls, spans = self._questions(length - first - 1, questions)
        return ids + tail, cls + tcls, [(k, s + first, e + first) for k, s, e in spans]

    def _repeats(self, length):
        rng = self.rng
        if rng.random() < 0.2:
            ids, cls = [rng.randrange(2, len(self.books.stop)) for _ in range(length)], [NONE] * length
        else:
            ids, cls = self.books.window(rng, length).tolist(), [TEXT] * length
        at = rng.randrange(32, 128)
        while at < length - 80:
            n = rng.randrange(12, 64)
            src = rng.randrange(0, at - n) if at > n + 1 else 0
            n = min(n, at - src)
            ids[at:at + n] = ids[src:src + n]
            cls[at:at + n] = [NONE] * min(2, n) + [REPEAT] * (n - min(2, n))
            at += n + rng.randrange(16, 200)
        return ids, cls
