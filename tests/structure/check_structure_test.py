#!/usr/bin/env python3
"""check_structure.py finds each kind of breach in a made-up tree, and none in a clean one."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

CHECK = pathlib.Path(__file__).with_name("check_structure.py")
sys.path.insert(0, str(CHECK.parents[2] / "scripts"))
import options_doc  # noqa: E402

ROW = 'ATLAS_OPTION(process, device, "ATLAS_DEVICE", CHOICE(DeviceMode, "owner", "accel"), owner, user, LOAD("it is known"),\n    "which (of two)")\n'
CLEAN = {
    "src/base/options.h": "// ATLAS_DEVICE\n",
    "src/base/options.cpp": '#include "base/options.h"\nauto a = std::getenv("ATLAS_DEVICE");\n',
    "src/base/parallel.cpp": "#include <omp.h>\n#pragma omp parallel\n",
    "src/kernels/a.cpp": '#include <vector>\n#include "base/status.h"\n// std::cerr and getenv("X") in a comment are fine\n',
    "src/attention/a.h": '#include "kv/page.h"\n#include "memory/m.h"\n',
    "src/host/a.cpp": '#include <ggml.h>\n#include "ggml-backend.h"\n#include "runtime/session.h"\n',
    "src/base/options.def": "// A table.\n" + ROW,
    "src/host/abi/a.h": 'namespace atlas::host::abi {}\nextern "C" void ggml_private(int a);\n',
    "src/host/plugin.cpp": 'extern "C" int ggml_backend_score() { return 1; }\n',
    "docs/options.md": options_doc.page_of(options_doc.rows_of(ROW)),
}


def run(changes):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in {**CLEAN, **changes}.items():
            path = pathlib.Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return subprocess.run([sys.executable, CHECK, "--root", folder], capture_output=True, text=True, check=False)


class CheckStructure(unittest.TestCase):
    def test_clean_tree(self):
        result = run({})
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_breaches(self):
        for name, text, reason in [
            ("src/kernels/b.cpp", '#include "kv/page.h"\n', "must not include src/kv"),
            ("src/kv/b.cpp", '#include "attention/a.h"\n', "must not include src/attention"),
            ("src/memory/b.cpp", '#include "kv/page.h"\n', "must not include src/kv"),
            ("src/runtime/b.cpp", '#include "host/device.h"\n', "must not include src/host"),
            ("src/io/b.cpp", '#include "kv/page.h"\n', "must not include src/kv"),
            ("src/io/no_uring/b.cpp", '#include "kernels/a.h"\n', "must not include src/kernels"),
            ("src/weights/b.cpp", '#include "kv/page.h"\n', "must not include src/kv"),
            ("src/weights/b.cpp", '#include "runtime/a.h"\n', "must not include src/runtime"),
            ("src/kernels/cpu/amx/b.h", '#include "memory/m.h"\n', "must not include src/memory"),
            ("src/gguf/b.cpp", '#include "kernels/a.h"\n', "must not include src/kernels"),
            ("src/side_car/b.cpp", '#include "runtime/a.h"\n', "must not include src/runtime"),
            ("src/c_api/b.cpp", '#include "host/device.h"\n', "must not include src/host"),
            ("src/base/b.cpp", '#include "io/a.h"\n', "must not include src/io"),
            ("src/memory/b.cpp", '#include "base/options.h"\n', "settings from its callers"),
            ("src/kernels/b.h", '#include "base/options.h"\n', "settings from its callers"),
            ("src/kernels/b.h", "#include <ggml.h>\n", "only src/host"),
            ("src/runtime/b.h", '#include "ggml-backend.h"\n', "only src/host"),
            ("src/kv/b.h", "#include <llama.h>\n", "only src/host"),
            ("src/kv/b.cpp", 'const char* a = getenv("HOME");\n', "environment"),
            ("src/kv/b.cpp", 'char** a = environ;\n', "environment"),
            ("src/host/b.cpp", 'void f() { std::cerr << 1; }\n', "base/log.h"),
            ("src/host/b.cpp", 'void f() { fprintf(stderr, "x"); }\n', "base/log.h"),
            ("src/kv/b.cpp", '#include "../base/log.h"\n', "relative to src/"),
            ("src/host/b.h", "struct ggml_backend_buffer {\n    int a;\n};\n", "b.h:1: what ggml keeps private"),
            ("src/host/ops/b.h", '\n\nextern "C" void ggml_private(int a,\n    int b);\n', "b.h:3: what ggml keeps private"),
            ("src/host/b.h", "namespace atlas::host::abi {\nstruct Other {};\n}\n", "b.h:1: what ggml keeps private"),
            ("src/kernels/b.cpp", "  #pragma omp parallel\n", "base/parallel.h"),
            ("src/kernels/b.h", "#  pragma omp barrier\n", "base/parallel.h"),
            ("src/runtime/b.cpp", "#include <omp.h>\n", "base/parallel.h"),
            ("src/host/b.cpp", '_Pragma("omp parallel")\n', "base/parallel.h"),
            ("src/kv/b.cpp", "thread_local std::vector<int> a;\n", "in a PerThread"),
            ("src/kv/b.cpp", "static thread_local Scratch a;\n", "in a PerThread"),
            ("src/extra/b.cpp", "int a;\n", "do not know"),
            ("tools/atlas/b.cpp", '#include "base/options.h"\n', "public headers only"),
            ("src/base/options.def", ROW + ROW.replace("ATLAS_DEVICE", "ATLAS_OTHER"), "process.device has two rows"),
            ("src/base/options.def", ROW + ROW.replace("device", "other"), "ATLAS_DEVICE has two rows"),
            ("src/base/options.def", ROW.replace(" owner,", " accel,"), "docs/options.md: not what"),
            ("src/base/options.def", ROW.replace(" user,", ""), "a row of 7 columns"),
            ("src/base/options.def", ROW.replace("LOAD(\"it is known\")", "LOAD()"), "when LOAD()"),
            ("src/base/options.def", ROW.replace(" user,", " everyone,"), "audience everyone"),
            ("docs/options.md", "stale", "docs/options.md: not what"),
        ]:
            with self.subTest(name=name, text=text):
                result = run({name: text})
                self.assertEqual(result.returncode, 1, result.stdout + result.stderr)
                self.assertIn(reason, result.stdout)

    def test_long_file_is_a_warning(self):
        result = run({"src/kv/long.cpp": "int a;\n" * 501})
        self.assertEqual(result.returncode, 0, result.stdout)
        self.assertIn("warning: src/kv/long.cpp", result.stdout)


if __name__ == "__main__":
    unittest.main()
