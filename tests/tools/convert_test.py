#!/usr/bin/env python3
"""atlas convert on the repository's model, and what an unmodified llama.cpp program with Atlas makes of the file: used, or refused with one
warning that names what is wrong, and the run goes on. Small: documents of 1024 tokens, sparse from 256 keys on."""

import argparse
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

import gguf
import numpy

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
from llama_program import atlas_lines, run  # noqa: E402

ARGS = None
SMALL = ["--ctx", "1024", "--documents", "4", "-t", "2", "--atlas-threshold", "256", "--atlas-window", "64", "--atlas-budget-floor", "64", "--atlas-budget", "128",
         "--atlas-memory-probe", "8", "--atlas-warm-up", "64"]
SPARSE = {"ATLAS_MODE": "sparse", "ATLAS_THRESHOLD": "256", "ATLAS_WINDOW": "64", "ATLAS_BUDGET_FLOOR": "64", "ATLAS_BUDGET": "128", "ATLAS_MEMORY_PROBE": "8",
          "ATLAS_WARM_UP": "64"}


def rewrite(source, target, keys=None, tensors=None, without=()):
    """A copy through gguf's own reader and writer: keys {name: (writer's method, value)}, tensors {name: array} replaced, some left out."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", *without):
            continue
        if keys and name in keys:
            getattr(writer, keys[name][0])(name, keys[name][1])
        else:
            sub = field.types[1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=sub)
    for tensor in reader.tensors:
        if tensor.name not in without:
            writer.add_tensor(tensor.name, (tensors or {}).get(tensor.name, numpy.array(tensor.data)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class ConvertTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp())
        top = pathlib.Path(ARGS.model).resolve().parents[1]
        # The pages are many words; what a prompt begins with stays the same when they are written anew.
        texts = [top / "tests/models/sample.txt", *sorted((top / "docs").rglob("*.md"))]
        cls.words = "\n".join(path.read_text(encoding="utf-8") for path in texts)
        cls.text = cls.folder / "text.txt"
        cls.text.write_text(cls.words, encoding="utf-8")
        cls.prompt = cls.folder / "prompt.txt"
        cls.prompt.write_text(cls.words[:2400], encoding="utf-8")
        cls.model = cls.folder / "model.gguf"
        shutil.copy(ARGS.model, cls.model)
        cls.made = run([ARGS.atlas, "convert", "-m", cls.model, "-f", cls.text, *SMALL], ATLAS_LIBRARY=ARGS.plugin)
        cls.side_car = cls.folder / "model.atlas.gguf"

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def complete(self, *extra, model=None, launcher=False, **variables):
        """What Atlas says in a run that ends well, in which sparse attention takes place."""
        command = ["llama-completion", "-m", model or self.model, "-n", "4", "--temp", "0", "-no-cnv", "-t", "2", "--no-warmup", "-c", "1024", "-f",
                   self.prompt, *extra]
        given = {**SPARSE, "ATLAS_LOG_LEVEL": "info", **variables}
        given = {name: value for name, value in given.items() if value is not None}
        given.update({"ATLAS_LIBRARY": ARGS.plugin} if launcher else {"GGML_BACKEND_PATH": ARGS.plugin})
        result = run([ARGS.atlas, *command] if launcher else command, **given)
        self.assertEqual(result.returncode, 0, result.stderr[-3000:])
        self.assertTrue(result.stdout.strip())
        return "\n".join(atlas_lines(result.stdout) + atlas_lines(result.stderr))

    def convert(self, output, *extra, file_bytes=None):
        limit = ["prlimit", f"--fsize={file_bytes}"] if file_bytes else []
        return run([*limit, ARGS.atlas, "convert", "-m", self.model, "-f", self.text, "-o", output, *SMALL, *extra], ATLAS_LIBRARY=ARGS.plugin)

    def refused(self, said, *extra, **variables):
        output = self.complete(*extra, **variables)
        warnings = re.findall(r"atlas: \[warning\] (.*)", output)
        self.assertEqual(len(warnings), 1, output[-3000:])
        self.assertIn(said, warnings[0])
        self.assertNotIn("layers start from it", output)

    def test_1_writes_a_file_that_others_can_read(self):
        self.assertEqual(self.made.returncode, 0, self.made.stdout + self.made.stderr)
        self.assertIn("calibrating: 100 %", self.made.stderr)
        self.assertRegex(self.made.stdout, r"what is not read is left out +\| +1\.0000")
        reader = gguf.GGUFReader(self.side_car)
        keys = {name: field.contents() for name, field in reader.fields.items()}
        for name in ("enabled", "memory_dim", "window_size", "muon_iterations", "feature_type", "omega_alpha", "blend_ratio", "version"):
            self.assertIn(f"atlas.{name}", keys)
        self.assertEqual(keys["atlas.memory_kind"], "least_squares")
        self.assertEqual((keys["atlas.calibration.documents"], keys["atlas.calibration.held_out"]), (3, 1))
        names = {tensor.name for tensor in reader.tensors}
        for layer in keys["atlas.layer.index"]:
            for name in ("memory.weight1", "memory.bias1", "memory.covariance", "memory.residual", "memory.gate", "memory.mass_bias", "memory.use",
                         "feature.weights"):
                self.assertIn(f"atlas.{name}.{layer}", names)
        for tensor in reader.tensors:
            self.assertTrue(numpy.isfinite(tensor.data).all(), tensor.name)
        # llama.cpp must not take it for a model.
        self.assertNotEqual(run(["llama-completion", "-m", self.side_car, "-n", "1", "-no-cnv", "-p", "x"]).returncode, 0)

    def test_2_is_used_by_the_launcher_and_by_name(self):
        self.assertIn("layers start from it", self.complete(ATLAS_SIDE_CAR=self.side_car))
        self.assertIn("layers start from it", self.complete(launcher=True))
        self.assertIn("layers start from it", self.complete(launcher=True, LLAMA_ARG_MODEL=self.model))
        self.assertNotIn("side-car", self.complete(launcher=True, ATLAS_SIDE_CAR="none"))
        self.assertNotIn("side-car", self.complete())
        # Neither mapped nor open any more: only its name helps.
        self.refused("no model is mapped or open", "--load-mode", "none", ATLAS_SIDE_CAR=self.side_car)
        self.assertIn("layers start from it", self.complete("--load-mode", "none", ATLAS_SIDE_CAR=self.side_car, ATLAS_MODEL=self.model))

    def test_3_deep_memories_too(self):
        out = self.folder / "deep.gguf"
        made = self.convert(out, "--atlas-memory-kind", "deep", "--atlas-memory-hidden", "32")
        self.assertEqual(made.returncode, 0, made.stdout + made.stderr)
        reader = gguf.GGUFReader(out)
        layer = reader.fields["atlas.layer.index"].contents()[0]
        names = {tensor.name for tensor in reader.tensors}
        for name in ("memory.weight1", "memory.bias1", "memory.weight2", "memory.bias2", "muon.momentum"):
            self.assertIn(f"atlas.{name}.{layer}", names)
        self.assertEqual(reader.fields["atlas.memory_dim"].contents(), 32)
        self.assertRegex(self.complete(ATLAS_SIDE_CAR=out), "layers start from it|found nothing to gain")

    def test_4_bad_files_are_refused_and_the_run_goes_on(self):
        bad = self.folder / "bad.gguf"
        whole = self.side_car.read_bytes()
        layer = gguf.GGUFReader(self.side_car).fields["atlas.layer.index"].contents()[0]
        weight = f"atlas.memory.weight1.{layer}"
        data = numpy.array(next(tensor.data for tensor in gguf.GGUFReader(self.side_car).tensors if tensor.name == weight))
        nan = data.copy()
        nan.flat[5] = numpy.nan
        changed = data.copy()
        changed.flat[5] += 1
        last = gguf.GGUFReader(self.side_car).fields["atlas.layer_count"].contents()
        for said, make in [
            ("No such file", lambda: bad.unlink(missing_ok=True)),
            ("not a GGUF file", lambda: bad.write_bytes(b"nothing like it")),
            ("behind the file", lambda: bad.write_bytes(whole[:len(whole) // 2])),
            ("behind the file", lambda: bad.write_bytes(whole[:300])),
            ("not a side-car", lambda: shutil.copy(ARGS.model, bad)),
            ("side-car version 2", lambda: rewrite(self.side_car, bad, {"atlas.version": ("add_uint32", 2)})),
            ("element 5 is NaN", lambda: rewrite(self.side_car, bad, tensors={weight: nan})),
            ("atlas.checksum", lambda: rewrite(self.side_car, bad, tensors={weight: changed})),
            (f"no tensor '{weight}'", lambda: rewrite(self.side_car, bad, without=[weight])),
            (f"tensor '{weight}' is", lambda: rewrite(self.side_car, bad, tensors={weight: data[:, :-1]})),
            ("made for the model with fingerprint 0123456789abcdef", lambda: rewrite(
                self.side_car, bad, {"atlas.model.fingerprint": ("add_string", "0123456789abcdef")})),
            (f"the last layer of the context is {last - 1}, of the side-car {last}", lambda: rewrite(
                self.side_car, bad, {"atlas.layer_count": ("add_uint32", last + 1)})),
        ]:
            with self.subTest(said=said):
                make()
                self.refused(said, ATLAS_SIDE_CAR=bad)

    def test_5_another_model_is_told_apart(self):
        other = self.folder / "other.gguf"
        # The same shapes and weights under another name.
        rewrite(self.model, other, {"general.name": ("add_string", "another")})
        self.refused("other.gguf is", model=other, ATLAS_SIDE_CAR=self.side_car)
        self.refused("other.gguf is", ATLAS_SIDE_CAR=self.side_car, ATLAS_MODEL=other)
        shutil.copy(self.side_car, self.folder / "other.atlas.gguf")
        self.refused("other.gguf is", model=other, launcher=True)

    def test_6_bad_input_is_named(self):
        empty = self.folder / "empty.txt"
        empty.write_text("")
        for extra, said in [
            (["-m", self.folder / "none.gguf"], "none.gguf: no such file"),
            (["-m", self.text], "cannot load this model"),
            (["-f", self.folder / "none.txt"], "none.txt: No such file"),
            (["-f", empty], "the text is empty"),
            (["--documents", "5000"], "5000 documents of 1024 need"),
            (["--documents", "1"], "--documents"),
            (["--held-out", "4"], "--held-out 4: allowed is less than --documents, 4"),
            (["--ctx", "40000", "--documents", "2"], "beyond the 32768"),
            (["--atlas-rest", "drop"], "ATLAS_REST=estimate"),
            (["--atlas-turbo", "1"], "no such switch"),
            (["-o", self.folder / "no" / "such.gguf"], "such.gguf: cannot be written: No such file or directory"),
            (["-o", self.text / "such.gguf"], "such.gguf: cannot be written: Not a directory"),
        ]:
            with self.subTest(extra=extra):
                arguments = ["-m", self.model, "-f", self.text, "-o", self.folder / "unused.gguf", *SMALL]
                for flag in extra[::2]:
                    if flag in arguments:
                        at = arguments.index(flag)
                        del arguments[at:at + 2]
                if "40000" in extra:
                    long = self.folder / "long.txt"
                    long.write_text(self.words * 12, encoding="utf-8")
                    arguments[arguments.index("-f") + 1] = long
                result = run([ARGS.atlas, "convert", *arguments, *extra], ATLAS_LIBRARY=ARGS.plugin)
                self.assertGreater(result.returncode, 0, result.stdout + result.stderr)
                self.assertIn(said, result.stdout + result.stderr)
                self.assertFalse((self.folder / "unused.gguf").exists())

    def test_7_short_documents_give_thresholds_alone(self):
        short = self.folder / "short.gguf"
        result = run([ARGS.atlas, "convert", "-m", self.model, "-f", self.text, "-o", short, *SMALL, "--atlas-threshold", "4096"],
                     ATLAS_LIBRARY=ARGS.plugin)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("Thresholds for the inputs of 42 matrices", result.stdout)
        self.assertIn("No memories: documents of 1024 tokens", result.stdout)
        self.assertTrue(short.exists())

    def test_8_no_other_file_is_touched(self):
        """Refused at once, before the model is loaded, and nothing is written or changed: the model under any name, other files, a side-car."""
        folder = self.folder / "targets"
        folder.mkdir()
        (folder / "hard.gguf").hardlink_to(self.model)
        (folder / "soft.gguf").symlink_to(self.model)
        shutil.copy(self.model, folder / "other.gguf")
        (folder / "notes.txt").write_text("precious")
        (folder / "damaged.gguf").write_bytes(self.side_car.read_bytes()[:200])
        shutil.copy(self.side_car, folder / "there.gguf")
        before = {path: path.read_bytes() for path in [self.model, *folder.iterdir()]}
        for name, said, force in [
            (self.model, "is the model itself", True),
            (self.folder / "targets" / ".." / "model.gguf", "is the model itself", True),
            (folder / "hard.gguf", "is the model itself", True),
            (folder / "soft.gguf", "is the model itself", True),
            (folder / "other.gguf", "exists and is not a side-car", True),
            (folder / "notes.txt", "exists and is not a side-car", True),
            (folder / "damaged.gguf", "exists and is not a side-car", True),
            (folder, "not a regular file", True),
            ("/dev/full", "not a regular file", True),
            (folder / "there.gguf", "exists already (atlas convert --force", False),
        ]:
            for extra in ([], ["--force"]) if force else ([],):
                with self.subTest(name=name, extra=extra):
                    result = self.convert(name, *extra)
                    self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
                    self.assertIn(said, result.stderr)
                    self.assertNotIn("calibrating", result.stderr)
                    self.assertEqual({path: path.read_bytes() for path in [self.model, *folder.iterdir()]}, before)
        result = self.convert(folder / "there.gguf", "--force")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertIn("layers start from it", self.complete(ATLAS_SIDE_CAR=folder / "there.gguf"))
        self.assertEqual(sorted(folder.iterdir()), sorted(path for path in before if path != self.model), "no temporary file is left")

    def test_9_a_full_disk_leaves_what_was_there(self):
        folder = self.folder / "full"
        folder.mkdir()
        target = folder / "there.gguf"
        shutil.copy(self.side_car, target)
        before = target.read_bytes()
        result = self.convert(target, "--force", file_bytes=len(before) // 2)
        self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
        self.assertIn("there.gguf: cannot be written: File too large", result.stderr)
        self.assertEqual((target.read_bytes(), list(folder.iterdir())), (before, [target]))
        # A disk of its own, where that is allowed.
        if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", folder], capture_output=True).returncode != 0:
            self.skipTest("no file system of its own: it needs root")
        try:
            result = self.convert(target)
            self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
            self.assertIn("there.gguf: cannot be written: No space left on device", result.stderr)
            self.assertEqual(list(folder.iterdir()), [])
        finally:
            subprocess.run(["umount", folder], check=True)

    def test_10_planted_sizes_cost_no_memory(self):
        """A text and an array of half a terabyte in a file that has room for them, as far as its size tells. One warning, and the run goes on."""
        bad = self.folder / "huge.gguf"
        key = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 13) + b"atlas.version"
        nasty = b"\x1b[31mred\nline"
        for planted, said in [(key + struct.pack("<IQ", 8, 1 << 39), "a text of 549755813888 bytes"),
                              (key + struct.pack("<IIQ", 9, 5, 1 << 37), "an array of"),
                              # Names in a file must not end the log's line or colour the terminal.
                              (b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, len(nasty)) + nasty + struct.pack("<I", 9),
                               r"tensor '\x1b[31mred\x0aline' with 9 dimensions")]:
            with self.subTest(said=said):
                bad.unlink(missing_ok=True)
                bad.write_bytes(planted)
                os.truncate(bad, 1 << 40)
                self.refused(said, ATLAS_SIDE_CAR=bad)

    def test_7_programs_are_told_through_the_c_api(self):
        if not ARGS.example:
            self.skipTest("the example is not built")
        other = self.folder / "renamed.gguf"
        rewrite(self.model, other, {"general.name": ("add_string", "another")})
        small = {name: value for name, value in SPARSE.items() if name != "ATLAS_MODE"}
        for model, side_car, answer in [(self.model, self.side_car, "yes"), (other, self.side_car, "no"), (self.model, "", "no")]:
            with self.subTest(model=model, side_car=side_car):
                result = run([ARGS.example, model, self.prompt, "512", "2"], ATLAS_SIDE_CAR=side_car, ATLAS_LOG_LEVEL="off", **small)
                self.assertIn(f"learned memories for this model: {answer}", result.stdout, result.stderr)


def main():
    global ARGS
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--atlas", required=True)
    parser.add_argument("--plugin", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--example", help="switch_atlas, for what needs the C API")
    ARGS, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0], *rest])


if __name__ == "__main__":
    main()
