"""Parts of models/train: attention, tails, positions, optimiser, batches, GGUF, stopping and resuming."""
import json
import lzma
import os
import random
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

HERE = os.path.dirname(os.path.abspath(__file__))
TRAIN = os.path.join(HERE, "../../models/train")
SHIPPED = os.path.join(HERE, "../../models/atlas-tiny.gguf")
sys.path.insert(0, TRAIN)
try:
    import numpy as np
    import torch
    import data
    import gguf_io
    import model as model_
    import optim
    import tokenizer as tokenizers_
    import train as train_
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(77)

torch.set_num_threads(1)


def small(**kw):
    torch.manual_seed(3)
    sizes = dict(vocab=97, layers=2, width=32, heads=4, kv_heads=2, head_dim=8, ffn=48)
    return model_.Model(model_.Config(**{**sizes, **kw}))


class Attention(unittest.TestCase):
    def test_value_and_gradient_against_autograd(self):
        torch.manual_seed(0)
        g, rows, n, d = 3, 5, 11, 4
        q, k, v = (torch.randn(2, 2, m, d, dtype=torch.float64, requires_grad=True) for m in (g * rows, n, n))
        mask = torch.full((rows, rows), -torch.inf, dtype=torch.float64).triu(1)
        full = torch.cat((torch.zeros(rows, n - rows, dtype=torch.float64), mask), 1).repeat(g, 1)
        want = torch.softmax(q @ k.mT + full, -1) @ v
        got = model_._Attend.apply(q, k, v, mask)
        self.assertLess((want - got).abs().max(), 1e-12)
        w = torch.randn_like(want)
        grads = [torch.autograd.grad((x * w).sum(), (q, k, v)) for x in (want, got)]
        for a, b in zip(*grads):
            self.assertLess((a - b).abs().max(), 1e-12)

    def test_a_tail_equals_the_end_of_one_long_row(self):
        m = small()
        ids = torch.randint(97, (1, 24))
        ids[0, 0] = 0
        pos = torch.arange(24)[None] * 3
        whole = m(ids, pos, dtype=torch.float32)
        parts = m(ids[:, :15], pos[:, :15], ids[:, 15:], pos[:, 15:], dtype=torch.float32)
        self.assertLess((whole - parts).abs().max(), 1e-5)

    def test_a_tail_sees_every_chunk(self):
        m = small()
        rows = torch.randint(1, 97, (3, 9))
        rows[:, 0] = 0
        pos = torch.cat((torch.zeros(3, 1, dtype=torch.long), torch.arange(24).view(3, 8) + 1), 1)
        tail, tail_pos = torch.randint(97, (2, 4)), torch.arange(4).expand(2, -1) + 25
        before = m(rows, pos, tail, tail_pos, dtype=torch.float32)
        for r in range(3):
            other = rows.clone()
            other[r, 4] = (other[r, 4] + 1) % 97
            after = m(other, pos, tail, tail_pos, dtype=torch.float32)
            self.assertTrue(((before - after)[27:].abs().amax(-1) > 1e-6).all())
            untouched = [i for i in range(3) if i != r]
            self.assertEqual((before - after)[:27].view(3, 9, -1)[untouched].abs().max(), 0)

    def test_only_distances_matter(self):
        m = small()
        ids = torch.randint(97, (1, 16))
        near, far = (m(ids, torch.arange(16)[None] + s, dtype=torch.float32) for s in (0, 30000))
        self.assertLess((near - far).abs().max(), 1e-3)


class Optimiser(unittest.TestCase):
    def test_orthogonalise(self):
        for shape in ((2, 16, 40), (3, 40, 16)):
            s = torch.linalg.svdvals(optim.orthogonalise(torch.randn(shape)))
            self.assertGreater(s.min(), 0.5)
            self.assertLess(s.max(), 1.35)

    def test_loss_falls(self):
        m = small()
        opts = optim.build(m, 0.02, 1e-2)
        ids = torch.randint(1, 97, (4, 33))
        pos = torch.arange(32).expand(4, -1)
        first = last = None
        for _ in range(40):
            h = m(ids[:, :-1], pos)
            loss = torch.nn.functional.cross_entropy(m.logits(h), ids[:, 1:].reshape(-1))
            first, last = first if first is not None else loss.item(), loss.item()
            m.zero_grad()
            loss.backward()
            for o in opts:
                o.step()
        self.assertLess(last, 0.5 * first)


class Batches(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tok = tokenizers_.from_gguf(SHIPPED)
        text = Path(HERE, "sample.txt").read_text(encoding="utf-8")
        cls.books = data.Books(np.array(cls.tok.encode(text * 8).ids, dtype=np.uint16), cls.tok)

    def check(self, b):
        n, t = b.rows.shape
        np.testing.assert_array_equal(b.targets[:n * t].reshape(n, t)[:, :-1], b.rows[:, 1:])
        self.assertTrue((b.rows[:, 0] == 0).all() and (b.pos[:, 0] == 0).all())
        self.assertTrue((np.diff(b.pos, axis=1) > 0).all())
        self.assertLess(b.pos.max(), 32768)
        self.assertEqual(len(b.targets), b.tokens)
        for _, s, e in b.spans:
            self.assertTrue((b.classes[s:e] == data.ANSWER).all() and e > s)

    def test_shapes_and_targets(self):
        maker = data.Maker(self.books, self.tok, 1)
        for _ in range(20):
            self.check(maker.causal(3, 700))
            b = maker.wide(8, 512, 3, 384)
            self.check(b)
            m, u = b.tails.shape
            np.testing.assert_array_equal(b.targets[b.rows.size:].reshape(m, u)[:, :-1], b.tails[:, 1:])
            self.assertGreater(b.tail_pos.min(), b.pos.max())

    def test_facts_asked_in_a_tail_are_in_the_context(self):
        maker, asked = data.Maker(self.books, self.tok, 2), 0
        for _ in range(10):
            b = maker.wide(8, 512, 2, 384)
            context = self.tok.decode(b.rows.reshape(-1).tolist())
            for kind, s, e in b.spans:
                if kind == "fact":
                    asked += 1
                    self.assertIn(self.tok.decode(b.targets[s:e].tolist()), context)
        self.assertGreater(asked, 50)

    def test_plain_rows_are_passages_of_the_text(self):
        b = data.Maker(self.books, self.tok, 4).causal(4, 300, plain=True)
        self.check(b)
        self.assertTrue((b.classes == data.TEXT).all() and not b.spans)
        whole = self.books.ids.astype(np.int64)
        for row in b.rows[:, 1:]:
            self.assertTrue(any((whole[i:i + 300] == row).all() for i in np.flatnonzero(whole[:-300] == row[0])))

    def test_half_of_the_contexts_are_one_passage_that_the_tail_continues(self):
        maker, joined = data.Maker(self.books, self.tok, 6), 0
        whole = "".join(map(chr, self.books.ids.astype(np.int64) + 1))
        for _ in range(40):
            b = maker.wide(4, 512, 2, 384)
            # The passage goes on for at least 8 tokens in every tail, in place of some other passage in each.
            begins = ["".join(map(chr, t[:8] + 1)) for t in b.tails]
            last = "".join(map(chr, b.rows[-1, 1:9] + 1))
            joined += begins[0] == begins[1] and begins[0] in whole and last in whole
        self.assertTrue(10 <= joined <= 30, joined)

    def test_the_same_seed_gives_the_same_batch(self):
        a, b = (data.Maker(self.books, self.tok, 5).wide(4, 512, 2, 384) for _ in range(2))
        np.testing.assert_array_equal(a.targets, b.targets)


class Files(unittest.TestCase):
    def test_gguf_round_trip(self):
        m, tok = gguf_io.load(SHIPPED), tokenizers_.from_gguf(SHIPPED)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "copy.gguf")
            gguf_io.save(path, m, tok, "copy")
            again = gguf_io.load(path)
            self.assertEqual(again.c, m.c)
            for (name, a), (_, b) in zip(m.named_parameters(), again.named_parameters()):
                self.assertTrue(torch.equal(a, b), name)
            self.assertEqual(tokenizers_.from_gguf(path).get_vocab(), tok.get_vocab())


class Training(unittest.TestCase):
    """train.py itself, with a model of two layers and a width of 32."""

    SIZES = ("--vocab 400 --layers 2 --width 32 --heads 2 --kv-heads 1 --head-dim 16 --ffn 64 --batch 512 --threads 1 "
             "--device cpu --warm 4 --log-every 1 --plain 0.5 --seed 11").split()

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder, self.sample = folder.name, os.path.join(HERE, "sample.txt")
        self.text = os.path.join(self.folder, "text.txt.xz")
        with lzma.open(self.text, "wt", encoding="utf-8") as f:
            f.write(Path(self.sample).read_text(encoding="utf-8") * 12)

    def command(self, run, *more):
        return [sys.executable, os.path.join(TRAIN, "train.py"), "--run", os.path.join(self.folder, run), "--text",
                self.text, "--valid", self.sample, *self.SIZES, *more]

    def train(self, run, *more):
        out = subprocess.run(self.command(run, *more), capture_output=True, text=True)
        self.assertEqual(out.returncode, 0, out.stderr[-2000:])
        return out.stdout

    def log(self, run):
        """The log's rows without what depends on the machine's speed."""
        with open(os.path.join(self.folder, run, "log.jsonl"), encoding="utf-8") as f:
            rows = [json.loads(line) for line in f]
        for r in rows:
            del r["seconds"]
        return rows

    def weights(self, run):
        return torch.load(os.path.join(self.folder, run, "last.pt"), weights_only=True)["model"]

    def test_the_loss_falls_from_nothing(self):
        self.train("a", "--tokens", "100000", "--valid-every", "30", "--plain", "1", "--muon-lr", "0.05",
                   "--adam-lr", "0.01")
        rows = self.log("a")
        first, last = (np.mean([r["plain"] for r in part]) for part in (rows[:3], rows[-10:]))
        # Chance is log 400 = 5.99 nats, knowing how frequent each token is 4.90: less is learnt from context.
        self.assertGreater(first, 5.8)
        self.assertLess(last, 4.5)
        perplexities = [r["valid"]["512"] for r in rows if "valid" in r]
        self.assertGreaterEqual(len(perplexities), 3)
        self.assertEqual(perplexities, sorted(perplexities, reverse=True))
        self.assertEqual(max(r["lr"] for r in rows), 1.0)
        self.assertLess(rows[-1]["lr"], 0.05)
        self.assertEqual(gguf_io.load(os.path.join(self.folder, "a", "last.gguf")).c.vocab, 400)

    def test_a_resumed_run_repeats_the_curve_of_an_uninterrupted_one(self):
        length = ("--tokens", "40000", "--accumulate", "2")
        self.train("whole", *length)
        self.train("parts", *length, "--steps", "5")
        self.assertEqual([r["step"] for r in self.log("parts")], [1, 2, 3, 4, 5])
        self.assertIn("resumed at step 5", self.train("parts", *length))
        self.assertGreater(len(self.log("whole")), 10)
        self.assertEqual(self.log("whole"), self.log("parts"))
        for name, w in self.weights("whole").items():
            self.assertTrue(torch.equal(w, self.weights("parts")[name]), name)
        # Nothing is left to do: the same command once more changes nothing.
        self.train("parts", *length)
        self.assertEqual(self.log("whole"), self.log("parts"))

    def test_a_run_told_to_stop_leaves_a_checkpoint_to_go_on_from(self):
        p = subprocess.Popen(self.command("s", "--minutes", "30"), stdout=subprocess.PIPE, text=True)
        self.addCleanup(p.stdout.close)
        self.assertIn('"step": 1', p.stdout.readline())
        p.terminate()
        p.communicate(timeout=60)
        self.assertEqual(p.returncode, 0)
        done = len(self.log("s"))
        self.train("s", "--minutes", "30", "--steps", str(done + 2))
        self.assertEqual([r["step"] for r in self.log("s")], list(range(1, done + 3)))

    def test_a_run_that_starts_from_a_model_keeps_what_it_knows(self):
        run = os.path.join(self.folder, "b")
        self.train("b", "--init-from", SHIPPED, "--plain", "1", "--steps", "2", "--valid-every", "1",
                   "--muon-lr", "1e-4", "--adam-lr", "1e-5")
        self.assertLess(self.log("b")[0]["valid"]["512"], 100)  # 4096 for a model that knows nothing
        self.assertEqual(gguf_io.load(os.path.join(run, "last.gguf")).c, gguf_io.load(SHIPPED).c)

    def test_the_clock_ends_a_run(self):
        end = train_.end_of(time.strftime("%H:%M", time.localtime(time.time() + 3600)))
        self.assertTrue(3500 < end - time.time() <= 3600, end - time.time())
        before = train_.end_of(time.strftime("%H:%M", time.localtime(time.time() - 3600)))
        self.assertTrue(80000 < before - time.time() < 86400)

    def test_bad_input_is_told(self):
        empty = os.path.join(self.folder, "empty.txt")
        Path(empty).touch()
        for text, said in (("/nowhere.txt", "nowhere.txt"), (empty, "too short")):
            out = subprocess.run([sys.executable, os.path.join(TRAIN, "train.py"), "--run",
                                  os.path.join(self.folder, "c"), "--text", text, "--valid", self.sample,
                                  *self.SIZES], capture_output=True, text=True)
            self.assertNotEqual(out.returncode, 0)
            self.assertIn(said, out.stderr)
            self.assertNotIn("Traceback", out.stderr)


if __name__ == "__main__":
    unittest.main()
