#!/usr/bin/env python3
"""scripts/replay.py on the slice of this repository: the orders that ways to choose keys are known to have."""

import pathlib
import sys
import tempfile
import unittest

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
import numpy  # noqa: E402

import replay  # noqa: E402

SLICE = pathlib.Path(__file__).resolve().parents[1] / "quality/smollm2.slice"


class Replay(unittest.TestCase):
    def test_ways_to_choose(self):
        result = replay.replay(SLICE)
        at = {way: dict(zip(replay.CHOSEN, points)) for way, points in result.items()}
        for count in replay.CHOSEN:
            share, found, error = at["oracle"][count]
            self.assertAlmostEqual(share, (replay.SINKS + replay.WINDOW + count) / 3456)
            for way in ("codes", "pages", "means", "window"):
                self.assertEqual(at[way][count][0], share)
                self.assertLessEqual(error, at[way][count][2] + 0.02)
            self.assertGreater(at["codes"][count][1], 0.95)
        self.assertLess(at["pages"][256][1], at["codes"][16][1])
        self.assertLess(at["window"][256][1], 0.2)
        self.assertEqual(replay.table(result).count("\n"), 6)

    def test_codes_are_close_to_keys(self):
        keys = numpy.random.default_rng(3).standard_normal((128, 64)).astype(numpy.float32)
        rotation, guess = replay.codes_of(keys)
        error = numpy.square(guess @ rotation.T - keys).sum() / numpy.square(keys).sum()
        self.assertGreater(error, 0.05)
        self.assertLess(error, 0.2)

    def test_another_file_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "x"
            path.write_bytes(b"no slice at all, but long enough")
            with self.assertRaisesRegex(ValueError, "x is no slice"):
                replay.read_slice(path)

    def test_picture(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "replay.png"
            replay.draw({"a": {"codes": [(0.1, 0.5, 0.2)]}, "b": {"codes": [(0.1, 0.5, 0.2)]}}, path)
            self.assertEqual(path.read_bytes()[1:4], b"PNG")


if __name__ == "__main__":
    unittest.main()
