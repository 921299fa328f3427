#!/usr/bin/env python3
"""`atlas eval` through the real plug-in and the shipped model: what it writes, and what it says to bad input."""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
import llama_program  # noqa: E402

ARGS = None


def evaluate(*arguments, **variables):
    return llama_program.run([ARGS.atlas, "eval", *arguments], seconds=300, ATLAS_LIBRARY=ARGS.plugin, **variables)


class Eval(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.text = self.folder / "text.txt"
        self.text.write_text(" ".join(f"The {word} number {n} went along the long road to the village." for n in range(120)
                                      for word in ("man", "horse", "night")), encoding="utf-8")

    def test_measures_and_writes_a_report(self):
        out = self.folder / "out"
        run = evaluate("-m", ARGS.model, "--text", self.text, "--modes", "host,exact", "--tasks", "single,multi-value", "--lengths", "256,512",
                       "--depths", "0,100", "--samples", "4", "--perplexity", "512", "--documents", "2", "--kl-positions", "64", "-o", out)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        report = json.loads((out / "report.json").read_text(encoding="utf-8"))
        host, exact = (mode["result"] for mode in report["modes"])
        for a, b in zip(host["retrieval"], exact["retrieval"]):
            # What the model says behind the first value may hang on the last bit of a logit.
            self.assertEqual([trial["answer"][:6] for trial in a["trials"]], [trial["answer"][:6] for trial in b["trials"]])
            self.assertEqual(len(a["trials"]), 4)
        single = exact["retrieval"][0]
        self.assertEqual((single["task"], single["length"], single["hits"]), ("single", 256, 4), run.stdout)
        self.assertEqual([row["depth"] for row in single["by_depth"]], [0, 100])
        self.assertLess(abs(exact["perplexity"]["loss"] - host["perplexity"]["loss"]), 1e-3)
        self.assertLess(exact["perplexity"]["kl"]["mean"], 1e-4)
        self.assertEqual(exact["perplexity"]["kl"]["positions"] >= 64, True)
        parts = exact["perplexity"]["kl"]["by_position"]
        self.assertEqual([(part["from"], part["to"]) for part in parts], [(1, 256), (256, 512)])
        self.assertEqual(sum(part["positions"] for part in parts), exact["perplexity"]["kl"]["positions"])
        mean = sum(part["positions"] * part["mean"] for part in parts) / exact["perplexity"]["kl"]["positions"]
        self.assertAlmostEqual(mean, exact["perplexity"]["kl"]["mean"], places=9)
        self.assertIn("| single, 256 |", run.stdout)
        self.assertTrue((out / "report.svg").read_text(encoding="utf-8").startswith("<svg"))
        self.assertEqual(sorted(path.name for path in out.iterdir()), ["report.json", "report.md", "report.svg"])

    def test_one_mode_writes_no_distributions(self):
        out = self.folder / "out"
        command = ["-m", ARGS.model, "--text", self.text, "--modes", "host", "--tasks", "none", "--perplexity", "128", "--documents", "1",
                   "-o", out]
        out.mkdir()
        seen = set()
        process = subprocess.Popen([ARGS.atlas, "eval", *map(str, command)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, env=llama_program.clean_environment(ATLAS_LIBRARY=ARGS.plugin))
        while process.poll() is None:
            seen.update(path.name for path in out.iterdir())
            time.sleep(0.002)
        self.assertEqual(process.returncode, 0, process.stdout.read())
        process.stdout.close()
        self.assertEqual([name for name in seen if not name.startswith("report.")], [])
        self.assertIsNone(json.loads((out / "report.json").read_text(encoding="utf-8"))["modes"][0]["result"]["perplexity"]["kl"])

    def test_small_batches_select_as_writing_does(self):
        """Read 8 at a time, every token selects keys for itself; read 512 at a time, tiles share a selection, and their size tells."""
        losses = {}
        for batch in (8, 512):
            out = self.folder / f"batch{batch}"
            few = "sparse:ATLAS_THRESHOLD=64+ATLAS_WINDOW=64+ATLAS_SINKS=64+ATLAS_BUDGET_FLOOR=64+ATLAS_BUDGET=64"
            run = evaluate("-m", ARGS.model, "--text", self.text, "--modes", f"exact,{few},{few}+ATLAS_TILE=4", "--tasks", "none",
                           "--perplexity", "1024", "--documents", "1", "--batch", batch, "-o", out)
            self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
            modes = json.loads((out / "report.json").read_text(encoding="utf-8"))["modes"]
            losses[batch] = [mode["result"]["perplexity"]["loss"] for mode in modes]
            self.assertIn(f"{batch} tokens at a time", run.stdout)
        self.assertLess(abs(losses[8][0] - losses[512][0]), 1e-3)
        self.assertEqual(losses[8][1], losses[8][2])
        self.assertNotEqual(losses[512][1], losses[512][2])
        self.assertNotEqual(losses[8][1], losses[512][1])

    def test_the_same_seed_gives_the_same_documents(self):
        answers = []
        for seed in (5, 5, 6):
            out = self.folder / "seed"
            run = evaluate("-m", ARGS.model, "--text", self.text, "--modes", "host", "--tasks", "single", "--lengths", "200", "--samples", "3",
                           "--seed", seed, "-o", out)
            self.assertEqual(run.returncode, 0, run.stderr)
            rows = json.loads((out / "report.json").read_text(encoding="utf-8"))["modes"][0]["result"]["retrieval"]
            answers.append([trial["expected"] for trial in rows[0]["trials"]])
        self.assertEqual(answers[0], answers[1])
        self.assertNotEqual(answers[0], answers[2])

    def test_more_questions_behind_the_same_documents(self):
        common = ["-m", ARGS.model, "--text", self.text, "--tasks", "multi-key,single", "--lengths", "512", "--samples", "2"]
        reports = {}
        for questions in (1, 3):
            out = self.folder / f"questions{questions}"
            run = evaluate(*common, "--modes", "host,exact,sparse:ATLAS_THRESHOLD=128+ATLAS_BUDGET_FLOOR=2048", "--questions", questions, "-o", out)
            self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
            reports[questions] = [mode["result"]["retrieval"] for mode in json.loads((out / "report.json").read_text(encoding="utf-8"))["modes"]]
            self.assertEqual("| – documents all right |" in run.stdout, questions == 3)
            self.assertIn("| – right only in host : only here | – |", run.stdout)
        for one, three in zip(reports[1], reports[3]):
            self.assertEqual([trial["document"] for trial in three[0]["trials"]], [0, 0, 0, 1, 1, 1])
            # The first question and its answer are what they are alone, and the documents were read once.
            self.assertEqual(three[0]["trials"][::3], one[0]["trials"])
            self.assertEqual(three[0]["prompt_tokens"], one[0]["prompt_tokens"])
            self.assertEqual(len({trial["question"] for trial in three[0]["trials"]}), 6)
            # The values are in this document only: right answers to later questions need it.
            self.assertGreaterEqual(three[0]["hits"], 5, three[0]["trials"])
            self.assertEqual(three[1]["trials"], one[1]["trials"], "single holds one fact")
        host, exact = reports[3][:2]
        # What the model says behind the value may hang on the last bit of a logit.
        self.assertEqual([trial["answer"][:6] for trial in host[0]["trials"]], [trial["answer"][:6] for trial in exact[0]["trials"]])

    def test_read_in_one_mode_and_asked_in_another(self):
        out, states, other = self.folder / "out", self.folder / "states", self.folder / "other.txt"
        other.write_text("Another text begins here.", encoding="utf-8")
        few = "sparse:ATLAS_THRESHOLD=64+ATLAS_WINDOW=64+ATLAS_SINKS=16"
        common = ["-m", ARGS.model, "--text", self.text, "--tasks", "multi-key+names,single", "--lengths", "1600", "--samples", "1", "--questions", "3",
                  "--perplexity", "1500", "--tail", "32", "--batch", "8", "--documents", "1", "-o", out,
                  "--perplexity-text", f"a={self.text}", "--perplexity-text", f"b={other},{self.text}"]

        def measure(modes, *more, folder=states):
            run = evaluate(*common, "--modes", modes, "--states", folder, *more, OMP_WAIT_POLICY="passive")
            self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
            return json.loads((out / "report.json").read_text(encoding="utf-8"))["modes"], run.stdout

        modes, said = measure(f"exact,{few},exact@{few}", "--read", "exact")
        exact, asked, read = (mode["result"] for mode in modes)
        self.assertEqual([mode["reader"] for mode in modes], ["exact", "exact", few])
        # Two documents for retrieval, one for each text; those that exact reads are read once.
        self.assertEqual([result["reading"]["documents"] for result in (exact, asked, read)], [4, 0, 4])
        self.assertEqual(len(list(states.iterdir())), 8)
        self.assertEqual([row["task"] for row in asked["retrieval"]], ["multi-key", "names", "single"])
        self.assertEqual([len(row["trials"]) for row in asked["retrieval"]], [3, 3, 1])
        for result in (exact, asked, read):
            for row in result["retrieval"]:
                self.assertGreater(row["nll"], 0)
            self.assertEqual([text["name"] for text in result["perplexity"]["texts"]], ["a", "b"])
            self.assertEqual(result["perplexity"]["tokens"], 2 * 31)
        self.assertEqual((exact["keys"]["reading"], exact["keys"]["retrieval"], exact["keys"]["perplexity"]), (None, None, None))
        self.assertIsNone(asked["keys"]["reading"])
        for phase in ("retrieval", "perplexity"):
            self.assertTrue(0 < asked["keys"][phase]["share"] < 1, asked["keys"])
            self.assertIsNone(read["keys"][phase])
        self.assertTrue(0 < read["keys"]["reading"]["share"] < 1)
        # What was read and who asks both make a difference.
        losses = [result["perplexity"]["loss"] for result in (exact, asked, read)]
        self.assertEqual(len(set(losses)), 3, losses)
        self.assertIn("| retrieval: share of visible keys | all |", said)

        # The second time nothing is read, and the same is found.
        (again, _), _ = measure(f"exact,{few}", "--read", "exact")
        self.assertEqual(again["result"]["reading"]["documents"], 0)
        self.assertEqual(again["result"]["perplexity"]["loss"], exact["perplexity"]["loss"])
        self.assertEqual(again["result"]["retrieval"][0]["trials"], exact["retrieval"][0]["trials"])
        # A mode that keeps what it has read is asked what one is that does not, but for the batches that the question is read in.
        alone, _ = measure("exact", folder=self.folder / "others")
        self.assertEqual([trial["found"] for trial in alone[0]["result"]["retrieval"][0]["trials"]],
                         [trial["found"] for trial in exact["retrieval"][0]["trials"]])

        for path in states.iterdir():
            path.write_bytes(path.read_bytes()[:100])
        run = evaluate(*common, "--modes", "exact", "--states", states)
        self.assertGreater(run.returncode, 0)
        self.assertIn("cannot restore this state", run.stderr)

    def test_sentences_longer_than_the_document_are_cut(self):
        text = self.folder / "long.txt"
        # No full stop at all, then words without a space, of characters of two bytes.
        text.write_text(" ".join(f"word{n}" for n in range(4000)) + " " + "ä" * 3000, encoding="utf-8")
        out = self.folder / "out"
        run = evaluate("-m", ARGS.model, "--text", text, "--modes", "host", "--tasks", "single", "--lengths", "128,160", "--samples",
                       "20", "-o", out)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)
        rows = json.loads((out / "report.json").read_text(encoding="utf-8"))["modes"][0]["result"]["retrieval"]
        for row in rows:
            self.assertEqual(len(row["trials"]), 20)
            self.assertLessEqual(row["prompt_tokens"], 20 * row["length"])

    def test_bad_input_is_named(self):
        empty = self.folder / "empty.txt"
        empty.write_text("")
        blank = self.folder / "blank.txt"
        blank.write_text(" \n\n")
        binary = self.folder / "binary.txt"
        binary.write_bytes(b"a\0b")
        broken = self.folder / "broken.gguf"
        broken.write_bytes(b"GGUF and nothing else")
        bare = self.folder / "bare.gguf"
        subprocess.run([sys.executable, ARGS.make_model, bare, "--shape", "tiny", "--no-vocabulary"], check=True, capture_output=True)
        good = ["-m", ARGS.model, "--text", self.text, "--modes", "host", "--lengths", "256", "--samples", "1", "-o", self.folder / "out"]
        for extra, said in [
            (["--text", self.folder / "none.txt"], "none.txt: No such file"),
            (["--text", empty], "empty.txt: the text is empty"),
            (["--text", blank], "the text is empty"),
            (["--text", binary], "not a text file"),
            (["--lengths", "20000"], "give more text, or --repeat-text"),
            (["--lengths", "40000"], "beyond the 32768"),
            (["--perplexity", "40000"], "beyond the 32768"),
            (["--lengths", "12"], "--lengths 12: allowed is 64"),
            (["--depths", "130"], "--depths 130: allowed is 0 to 100"),
            (["--tasks", "poems"], "poems: no such task; there are single"),
            (["--tasks", "none"], "nothing to measure"),
            (["--tasks", "codes+poems"], "codes+poems: no such task"),
            (["--tasks", "codes+codes"], "codes is there twice"),
            (["--tasks", "codes+common-words"], "holds nothing else"),
            (["--tasks", "codes+"], "no such task"),
            (["--modes", "host@turbo"], "turbo: no such mode"),
            (["--modes", "host@exact@exact"], "only one mode can read"),
            (["--modes", "host@exact:ATLAS_BUGDET=1"], "ATLAS_BUGDET: no such variable"),
            (["--read", "turbo"], "turbo: no such mode"),
            (["--states", self.text / "folder"], "text.txt"),
            (["--perplexity", "128", "--tail", "129"], "--tail 129: allowed is 0"),
            (["--perplexity", "128", "--perplexity-text", "text.txt"], "text.txt: not NAME=FILE"),
            (["--perplexity", "128", "--perplexity-text", "a=none.txt"], "none.txt: No such file"),
            (["--wording", "varied", "--chat"], "the model has no chat template"),
            (["--wording", "sung"], "--wording"),
            (["--modes", "turbo"], "turbo: no such mode"),
            (["--modes", "sparse:ATLAS_BUGDET=0.1"], "ATLAS_BUGDET: no such variable"),
            (["--modes", "exact:ATLAS_KERNEL=sse9"], "ATLAS_KERNEL=sse9"),
            (["-m", self.folder / "none.gguf"], "none.gguf: no such file"),
            (["-m", broken], "broken.gguf: llama.cpp cannot load"),
            (["-m", bare], "no vocabulary"),
            (["--ctk", "q9"], "q9: no such cache type"),
            (["--samples", "0"], "--samples"),
            (["-o", self.text / "folder"], "text.txt"),
        ]:
            with self.subTest(extra=extra):
                # The last value of an option counts, except that lists add up.
                arguments = [str(part) for part in good]
                for flag in extra[::2]:
                    if flag in arguments:
                        at = arguments.index(flag)
                        del arguments[at:at + 2]
                run = evaluate(*arguments, *extra)
                self.assertNotEqual(run.returncode, 0, run.stdout)
                self.assertGreater(run.returncode, 0, "ended by a signal")
                self.assertIn(said, run.stdout + run.stderr)


def main():
    global ARGS
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--atlas", required=True)
    parser.add_argument("--plugin", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--make-model", required=True)
    ARGS, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *rest])


if __name__ == "__main__":
    main()
