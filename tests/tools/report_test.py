#!/usr/bin/env python3
"""./dev report with a made-up ./dev: what the pages hold, and that a measurement that fails writes none."""

import os
import pathlib
import stat
import subprocess
import sys
import tempfile
import unittest

REPORT = pathlib.Path(__file__).resolve().parents[2] / "scripts/report.py"
sys.path.insert(0, str(REPORT.parent))
import report  # noqa: E402

# Answers every command with a table; the figure of `bench kernels` and `bench sparse` is another one in every run.
DEV = """#!/usr/bin/env python3
import pathlib, sys
here = pathlib.Path(__file__).parent
with open(here / "calls", "a", encoding="utf-8") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
if (here / "broken").exists() and sys.argv[1:3] == (here / "broken").read_text().split():
    print("something went wrong")
    sys.exit(3)
turns = (here / "calls").read_text().count("\\n")
print("# Heading\\n\\x1b[1mbold\\x1b[0m ROOT/models/x.gguf TEMPORARY/of-a-tool/x.txt\\n| keys | ms |\\n|---|---|\\n| 4096 | " + str(10 * (turns % 3)) + " ms |")
for i, word in enumerate(sys.argv):
    if word in ("--output", "-o"):
        target = pathlib.Path(sys.argv[i + 1])
        target.mkdir(parents=True, exist_ok=True)
        (target / "report.md").write_text("| from | file |\\n|---|---|\\n")
        target.with_name(target.name + "-f16.png").write_bytes(b"picture")
"""


class ReportTest(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)
        self.dev = self.folder / "dev"
        self.dev.write_text(DEV.replace("ROOT", str(report.ROOT)).replace("TEMPORARY", tempfile.gettempdir()), encoding="utf-8")
        self.dev.chmod(self.dev.stat().st_mode | stat.S_IXUSR)
        self.pages = self.folder / "pages"

    def run_report(self, *arguments):
        return subprocess.run([sys.executable, REPORT, "--dev", f"{sys.executable} {self.dev}", "--output", str(self.pages), *arguments],
                              capture_output=True, text=True, check=False)

    def calls(self):
        return (self.folder / "calls").read_text(encoding="utf-8").splitlines() if (self.folder / "calls").exists() else []

    def test_page_says_where_its_figures_come_from(self):
        done = self.run_report("kernels")
        self.assertEqual(done.returncode, 0, done.stderr)
        page = (self.pages / "kernels.md").read_text(encoding="utf-8")
        for part in ["| commit |", "| date |", "| processor |", "logical cores", "./dev bench kernels", "(3 runs)", "Written by `./dev report kernels`"]:
            self.assertIn(part, page)
        self.assertEqual(len(self.calls()), 3)
        self.assertIn("| 4096 | 10 (0–20) ms |", page)
        self.assertNotIn(str(report.ROOT), page)
        self.assertNotIn(tempfile.gettempdir(), page)
        self.assertIn("bold models/x.gguf …/x.txt", page)
        self.assertNotIn("\x1b", page)
        self.assertIn("\n### Heading\n", page)

    def test_scratch_folder_is_not_shown_and_picture_is_kept(self):
        done = self.run_report("exact")
        self.assertEqual(done.returncode, 0, done.stderr)
        page = (self.pages / "exact.md").read_text(encoding="utf-8")
        self.assertIn("--output exact\n", page)
        self.assertIn("![Exact attention in whole programs](exact.png)", page)
        self.assertEqual((self.pages / "exact.png").read_bytes(), b"picture")

    def test_result_read_from_a_file(self):
        self.assertEqual(self.run_report("tiny").returncode, 0)
        self.assertIn("| from | file |", (self.pages / "tiny.md").read_text(encoding="utf-8"))

    def test_more_texts(self):
        self.assertEqual(self.run_report("--text", "fiction=/some/where/book.txt", "quality").returncode, 0)
        self.assertIn("--text fiction=/some/where/book.txt", self.calls()[0])
        page = (self.pages / "quality.md").read_text(encoding="utf-8")
        self.assertIn("--text fiction=book.txt", page)
        self.assertNotIn("some/where", page)
        self.assertEqual(self.run_report("selection").returncode, 0)
        self.assertIn("    ./dev eval replay --output .\n", (self.pages / "selection.md").read_text(encoding="utf-8"))

    def test_long_form(self):
        self.assertEqual(self.run_report("--long", "exact").returncode, 0)
        self.assertTrue(any("--repetitions 5" in call for call in self.calls()), self.calls())
        self.assertIn("Written by `./dev report --long exact`", (self.pages / "exact.md").read_text(encoding="utf-8"))

    def test_failure_keeps_the_page_and_other_reports_go_on(self):
        self.pages.mkdir()
        (self.pages / "kernels.md").write_text("as it was", encoding="utf-8")
        (self.folder / "broken").write_text("bench kernels", encoding="utf-8")
        done = self.run_report("kernels", "tiny")
        self.assertEqual(done.returncode, 1)
        self.assertIn("kernels failed", done.stderr)
        self.assertIn("status 3", done.stderr)
        self.assertIn("something went wrong", done.stderr)
        self.assertEqual((self.pages / "kernels.md").read_text(encoding="utf-8"), "as it was")
        self.assertTrue((self.pages / "tiny.md").exists())

    def test_unknown_name_runs_nothing(self):
        done = self.run_report("exact", "speed")
        self.assertEqual(done.returncode, 2)
        self.assertIn("speed: no such report; there are exact,", done.stderr)
        self.assertEqual(self.calls(), [])

    def test_list_runs_nothing(self):
        done = self.run_report("--list")
        self.assertEqual(done.returncode, 0)
        for name in report.REPORTS:
            self.assertIn(name, done.stdout)
        self.assertEqual(self.calls(), [])

    def test_every_command_is_one_of_dev(self):
        usage = (report.ROOT / "dev").read_text(encoding="utf-8")
        for name, one in report.REPORTS.items():
            for part in one.parts:
                for command in filter(None, (part.quick, part.long)):
                    self.assertRegex(usage, rf"(?m)^    {command.split()[0]}\)", name)

    def test_cells(self):
        self.assertEqual(report.merged_cell([" 1.5× ", " 2.5× ", " 2× "]), " 2 (1.5–2.5)× ")
        self.assertEqual(report.merged_cell([" a ", " a "]), " a ")
        self.assertEqual(report.merged_cell([" f16 "]), " f16 ")
        self.assertEqual(report.merged_cell([" 1 / 7 of f16 ", " 3 / 7 of f16 ", " 2 / 7 of f16 "]), " 2 (1–3) / 7 of f16 ")
        self.assertEqual(report.merged_cell([" – ", " 4 "]), " –; 4 ")
        self.assertEqual(report.merged(["| 1 |", "| 1 |\n| 2 |"]), "| 1 |\n\n| 1 |\n| 2 |")
        self.assertEqual(report.merged_cell(["1", "3"]), "2 (1–3)")
        self.assertEqual(report.merged(["| 1 |\nx 1", "| 2 |\nx 2", "| 9 |\nx 9"]), "| 2 (1–9) |\nx 1")

    def test_processor_reads_flags_that_matter(self):
        info = self.folder / "cpuinfo"
        info.write_text("model name\t: Some CPU\nflags\t\t: fpu avx2 avx512_vnni nonsense\n", encoding="utf-8")
        cores = len(os.sched_getaffinity(0))
        self.assertEqual(report.processor(info), f"Some CPU, {cores} logical cores; avx2 avx512_vnni")


if __name__ == "__main__":
    unittest.main()
