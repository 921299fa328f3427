#!/usr/bin/env python3
"""scripts/eval_real.py, with the shipped model in the place of the real ones."""

import argparse
import contextlib
import gzip
import io
import json
import lzma
import os
import pathlib
import sys
import tempfile
import unittest
import unittest.mock

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
import eval_real  # noqa: E402
import models  # noqa: E402

ARGS = None


class EvalReal(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.text = self.folder / "book.txt"
        self.text.write_text(" ".join(f"The man number {n} went along the long road to the village." for n in range(600)), encoding="utf-8")
        model = models.Model("tiny", "The shipped model", "MIT", 32768, ARGS.model, 0, "", "1", (), "")
        for change in (unittest.mock.patch.dict(models.MODELS, {"tiny": model}, clear=True),
                       unittest.mock.patch.dict(eval_real.SHAPES, {"tiny": (1024, False)}, clear=True),
                       unittest.mock.patch.dict(os.environ, {"ATLAS_LIBRARY": ARGS.plugin, "OMP_WAIT_POLICY": "passive"})):
            change.start()
            self.addCleanup(change.stop)

    def main(self, *arguments):
        out, errors = io.StringIO(), io.StringIO()
        with unittest.mock.patch.object(sys, "argv", ["eval_real", "--atlas", ARGS.atlas, *map(str, arguments)]), \
                contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            try:
                status = eval_real.main()
            except SystemExit as end:
                status = end.code
        return status, out.getvalue(), errors.getvalue()

    def test_measures_on_several_texts(self):
        status, said, errors = self.main("tiny", "--modes", "exact,sparse", "--read", "exact", "--states", self.folder / "states", "--samples", 1, "--questions",
                                         2, "--tasks", "needles", "--tail", 16, "--text", f"fiction={self.text}", "--output", self.folder / "out",
                                         "--", "--threads", 2)
        self.assertEqual(status, 0, errors)
        self.assertIn("## tiny: The shipped model", said)
        report = json.loads((self.folder / "out/tiny/report.json").read_text(encoding="utf-8"))
        self.assertEqual(report["plan"]["threads"], 2)
        exact, sparse = (mode["result"] for mode in report["modes"])
        self.assertEqual([row["task"] for row in exact["retrieval"]], eval_real.NEEDLES)
        names = [text["name"] for text in exact["perplexity"]["texts"]]
        self.assertEqual(names[-1], "fiction")
        self.assertGreaterEqual(len(names), 2)
        self.assertEqual(sparse["perplexity"]["kl"]["positions"], 15 * len(names))

    def test_no_states_means_none(self):
        before = pathlib.Path.cwd()
        os.chdir(self.folder)
        self.addCleanup(os.chdir, before)
        status, _, errors = self.main("tiny", "--modes", "exact,sparse", "--states", "none", "--samples", 1, "--questions", 1, "--tasks", "codes", "--tail", 0,
                                      "--output", self.folder / "out")
        self.assertEqual(status, 0, errors)
        self.assertFalse((self.folder / "none").exists())

    def test_texts_may_be_packed(self):
        (self.folder / "a.gz").write_bytes(gzip.compress(b"packed by gzip"))
        (self.folder / "b.xz").write_bytes(lzma.compress(b"packed by xz"))
        files = eval_real.write_texts(self.folder, [f"a={self.folder}/a.gz", f"b={self.folder}/b.xz", f"c={self.text}"])
        self.assertEqual(files["a"].read_text(encoding="utf-8"), "packed by gzip")
        self.assertEqual(files["b"].read_text(encoding="utf-8"), "packed by xz")
        self.assertIn("import", files["code"].read_text(encoding="utf-8"))
        self.assertNotIn("\x1f", files["documentation"].read_text(encoding="utf-8"))

    def test_sets_of_tasks(self):
        self.assertEqual(eval_real.tasks_of("none"), "none")
        self.assertEqual(eval_real.tasks_of("all").count("+"), len(eval_real.KINDS + eval_real.NEEDLES) - 1)
        self.assertTrue(eval_real.tasks_of("all,lists").endswith(",common-words,frequent-words"))
        self.assertEqual(eval_real.tasks_of("ruler"), "single+multi-key+multi-value+multi-query+variable-tracking,common-words,frequent-words")
        self.assertEqual(eval_real.tasks_of("single,qa+codes"), "single,qa+codes")

    def test_bad_input_is_named(self):
        for arguments, wanted in [(["huge"], "huge: no such model; there are tiny"),
                                  (["tiny", "--text", "none.txt"], "--text none.txt: not NAME=FILE"),
                                  (["tiny", "--text", "a=none.txt"], "none.txt"),
                                  (["tiny", "--questions", "0"], "--questions"),
                                  (["tiny", "--tasks", "poems", "--tail", "0", "--output", self.folder / "out"], None)]:
            with self.subTest(arguments=arguments):
                status, _, errors = self.main(*arguments)
                self.assertNotEqual(status, 0)
                self.assertIn(wanted or "", errors)
        with unittest.mock.patch.dict(models.MODELS, {"tiny": models.Model("tiny", "", "", 1, "none.gguf", 0, "", "1", (), "")}):
            status, _, errors = self.main("tiny")
            self.assertEqual(status, 1)
            self.assertIn("./dev models tiny", errors)
            self.assertIn("none of the models is there", self.main()[2])


def main():
    global ARGS
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--atlas", required=True)
    parser.add_argument("--plugin", required=True)
    parser.add_argument("--model", required=True)
    ARGS, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *rest])


if __name__ == "__main__":
    main()
