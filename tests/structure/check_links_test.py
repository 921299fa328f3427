#!/usr/bin/env python3
"""check_links.py finds a broken link in a made-up tree, over a line's end too, and passes a whole one."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

CHECK = pathlib.Path(__file__).with_name("check_links.py")


class CheckLinks(unittest.TestCase):
    def check(self, text):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "docs").mkdir()
            (root / "docs/a.md").write_text("[up](../README.md#part) [out](https://example.org/x)\n", encoding="utf-8")
            (root / "README.md").write_text(text, encoding="utf-8")
            return subprocess.run([sys.executable, CHECK, folder], capture_output=True, text=True, check=False)

    def test_whole(self):
        done = self.check("[a](docs/a.md), [here](#here)\n")
        self.assertEqual((done.returncode, done.stdout), (0, "2 links, 0 broken\n"))

    def test_broken(self):
        done = self.check("\n[what is\nnot there](docs/b.md)\n")
        self.assertEqual(done.returncode, 1)
        self.assertIn("README.md:3: docs/b.md: no such file", done.stdout)


if __name__ == "__main__":
    unittest.main()
