"""models/train/measure.py: what is asked can be answered from what is planted, documents have the length asked for."""
import os
import random
import re
import sys
import unittest
from collections import Counter
from pathlib import Path

HERE = os.path.dirname(os.path.abspath(__file__))
SHIPPED = os.path.join(HERE, "../../models/atlas-tiny.gguf")
sys.path.insert(0, os.path.join(HERE, "../../models/train"))
try:
    import measure
    import tokenizer as tokenizers_
    from tasks import Tasks
except ImportError as e:
    print(f"skipped: {e}")
    sys.exit(77)


def solve(kind, plants, question):
    """Answers by plain text search, as a reader would: independent of how the task was made."""
    text = "".join(plants)
    if kind in ("single", "multi-key"):
        what, who = re.search(r"What is the (.*) of (\w+)\?", question).groups()
        return re.search(rf" The {what} of {who} is (\d+)\.", text).group(1)
    if kind == "chain":
        name, out = re.search(r"the value of VAR (\w+)\?", question).group(1), []
        while not name.isdigit():
            name = re.search(rf"VAR {name} = (?:VAR )?(\w+)\.", text).group(1)
            out.append(name)
        return ", ".join([f"VAR {b}, VAR {b} = " for b in out[:-1]]).replace("= , ", "= ") + out[-1]
    if kind == "multi-value":
        n, what, who = re.search(r"What are the (\d) (.*)s of (\w+)\?", question).groups()
        values = re.findall(rf" One {what} of {who} is (\d+)\.", text)
        assert len(values) == int(n)
        return ", ".join(values[:-1]) + " and " + values[-1]
    if kind == "multi-query":
        what, who = re.search(r"What are the (.*)s of (.*)\?", question).groups()
        return ", ".join(f"{w} is " + re.search(rf" The {what} of {w} is (\d+)\.", text).group(1)
                         for w in re.split(", | and ", who))
    if kind == "holders":
        held = [re.search(r"the value (\d+)\.", question).group(1)]
        while found := re.search(rf"VAR (\w+) = (?:VAR )?{held[-1]}\.", text):
            held.append(found.group(1))
        return ", ".join(held[1:])
    if kind == "common":
        mark = re.search(r"list of (\w+)\?", question).group(1)
        words = re.search(rf" The list of {mark}: (.*?)\.", text).group(1)
        return Counter(words.split(", ")).most_common(1)[0][0]
    return re.search(r"Repeat these words: (.*)\.", question).group(1)


class Measure(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tok = tokenizers_.from_gguf(SHIPPED)
        cls.text = Path(HERE, "sample.txt").read_text(encoding="utf-8") * 3

    def test_what_is_asked_can_be_answered(self):
        for kind in ("single", "multi-key", "chain", *measure.OTHERS):
            rng = random.Random(kind)
            tasks = Tasks(self.tok, rng)
            for _ in range(5):
                plants, asked = measure.trials(kind, tasks, rng)
                self.assertEqual(len(asked), {"multi-key": 6, "chain": 2}.get(kind, 4))
                for question, value in asked:
                    self.assertEqual(solve(kind, plants, question), value, (kind, plants, question))

    def test_documents(self):
        rng = random.Random(1)
        hay = measure.Haystack(self.text, self.tok, rng)
        plants = [f" The secret code of Karodin is {i}." for i in range(10000, 10004)]
        for _ in range(5):
            doc = hay.document(1500, plants)
            n = len(self.tok.encode(doc).ids)
            self.assertTrue(1380 < n <= 1500, n)  # room of 80 is left for the question
            at = [doc.index(p) / len(doc) for p in plants]
            self.assertEqual(at, sorted(at))
            self.assertTrue(at[0] < 0.4 and at[-1] > 0.6, at)

    def test_interval(self):
        low, high = measure.wilson(48, 48)
        self.assertAlmostEqual(low, 0.926, places=3)
        self.assertAlmostEqual(high, 1.0, places=9)
        self.assertEqual(measure.wilson(0, 0), (0.0, 1.0))


if __name__ == "__main__":
    unittest.main()
