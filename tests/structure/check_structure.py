#!/usr/bin/env python3
"""The house rules of the source tree that no compiler enforces: who may include whom, who may read the environment or start
threads, documented options.

Exit status 0 when all hold; otherwise every breach as FILE:LINE: REASON. --root lets the test of this test point at a made-up tree.
"""

import argparse
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
import options_doc  # noqa: E402

# Folder of src/ -> the folders it may include directly. c_api, host -> runtime -> side_car -> attention -> kv, memory -> kernels -> base; kv, weights -> io -> base.
MAY_INCLUDE = {
    "base": set(),
    "gguf": {"base"},
    "kernels": {"base"},
    "memory": {"kernels", "base"},
    "io": {"base"},
    "kv": {"io", "kernels", "base"},
    "weights": {"io", "kernels", "gguf", "base"},
    "attention": {"kv", "memory", "kernels", "base"},
    "side_car": {"gguf", "attention", "memory", "kernels", "base"},
    "runtime": {"side_car", "gguf", "attention", "weights", "memory", "kv", "kernels", "base"},
    "c_api": {"runtime", "side_car", "gguf", "attention", "weights", "memory", "kv", "kernels", "base"},
    "host": {"runtime", "side_car", "gguf", "attention", "weights", "memory", "kv", "kernels", "base"},
}
# Their callers say what is to be done; two runtimes in one process must not meet here.
WITHOUT_OPTIONS = {"kernels", "memory"}
SOURCES = {".h", ".hpp", ".cpp", ".cc", ".c", ".cu", ".cuh"}
LONG_FILE = 500

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
HOST_HEADER = re.compile(r"^(ggml|llama|gguf)([-_.].*)?\.h$|^(ggml|llama)-cpp\.h$")
GETENV = re.compile(r"\b(secure_)?getenv\s*\(|\benviron\b")
OPENMP = re.compile(r"^\s*#\s*pragma\s+omp\b|^\s*#\s*include\s*[<\"]omp\.h[>\"]|\b_Pragma\s*\(\s*\"omp\b")
# What has a destructor is registered with the C library, which ends the process where it has no memory for that.
DESTROYED_WITH_THREAD = re.compile(
    r"\bthread_local\s+(?!(?:const\s+|constexpr\s+)?(?:(?:atlas::)?PerThread<|bool\b|char\b|u?int\d+_t\b|int\b|size_t\b|[\w:]+\s*\*))")
STDERR = re.compile(r"std::cerr|std::cout|\bf?printf\s*\(\s*(stderr|stdout|\")")
# A struct of ggml or llama.cpp, a function of theirs declared by hand, or more of the private interface.
PRIVATE = re.compile(r'^[ \t]*(?:(?:struct|union)\s+(?:ggml|llama)_\w+\s*\{|extern\s+"C"[^;{]*\b(?:ggml|llama)_\w+\([^{;]*;'
                     r'|namespace\s+atlas::host::abi\b)', re.MULTILINE)


def without_comments(text):
    """Blanks comments but keeps the lines, so that numbers of lines stay right."""
    return re.sub(r"//[^\n]*|/\*.*?\*/", lambda match: re.sub(r"[^\n]", " ", match[0]), text, flags=re.DOTALL)


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.suffix in SOURCES) if folder.is_dir() else []


def check_source(root, path, breaches):
    relative = path.relative_to(root / "src")
    folder = relative.parts[0] if len(relative.parts) > 1 else None
    # Raw strings and URLs in strings would confuse the comment filter, so includes are read from the text as it is.
    raw = path.read_text(encoding="utf-8")
    for number, line in enumerate(raw.splitlines(), 1):
        found = INCLUDE.match(line)
        if not found:
            continue
        kind, name = found.groups()
        target = name.split("/")[0]
        if name == "base/options.h" and folder in WITHOUT_OPTIONS:
            breaches.append(f"{path.relative_to(root)}:{number}: src/{folder} gets its settings from its callers, not from the options")
        if HOST_HEADER.match(name.split("/")[-1]) and kind == "<" or HOST_HEADER.match(name):
            if folder != "host":
                breaches.append(f"{path.relative_to(root)}:{number}: {name}: only src/host may include headers of ggml or llama.cpp")
        elif kind == '"' and "/" in name and target in MAY_INCLUDE and folder in MAY_INCLUDE and target != folder:
            if target not in MAY_INCLUDE[folder]:
                breaches.append(f"{path.relative_to(root)}:{number}: {name}: src/{folder} must not include src/{target}")
        elif kind == '"' and ".." in name.split("/"):
            breaches.append(f"{path.relative_to(root)}:{number}: {name}: paths are relative to src/")
    if relative.parts[:2] != ("host", "abi"):
        text = without_comments(raw)
        for found in PRIVATE.finditer(text):
            number = text.count("\n", 0, found.start()) + 1
            breaches.append(f"{path.relative_to(root)}:{number}: what ggml keeps private is declared in src/host/abi alone")
    for number, line in enumerate(without_comments(raw).splitlines(), 1):
        if GETENV.search(line) and relative.as_posix() != "base/options.cpp":
            breaches.append(f"{path.relative_to(root)}:{number}: the environment is read in src/base/options.cpp alone")
        if DESTROYED_WITH_THREAD.search(line):
            breaches.append(f"{path.relative_to(root)}:{number}: what threads keep that has a destructor is in a PerThread (base/per_thread.h)")
        if STDERR.search(line):
            breaches.append(f"{path.relative_to(root)}:{number}: the library prints through base/log.h alone")
        if OPENMP.search(line) and not relative.as_posix().startswith("base/parallel."):
            breaches.append(f"{path.relative_to(root)}:{number}: threads are started through base/parallel.h alone")


def check_outside(root, breaches):
    """Tools and examples see what is installed and nothing else."""
    for top in ("tools", "examples"):
        for path in files_of(root / top):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                found = INCLUDE.match(line)
                if found and found[1] == '"' and found[2].split("/")[0] in MAY_INCLUDE:
                    breaches.append(f"{path.relative_to(root)}:{number}: {found[2]}: {top} include the public headers only")


def check_folders(root, breaches):
    for folder in sorted((root / "src").iterdir()):
        if not folder.is_dir():
            continue
        if folder.name not in MAY_INCLUDE:
            breaches.append(f"src/{folder.name}: a folder that the include arrows do not know")


def check_options(root, breaches):
    """Each option is one row of options.def, and docs/options.md is what that table says."""
    table = root / "src/base/options.def"
    try:
        rows = options_doc.rows_of(table.read_text(encoding="utf-8"))
        page = options_doc.page_of(rows)
    except (OSError, ValueError) as error:
        breaches.append(f"src/base/options.def: {error}")
        return 0
    for column in (lambda row: row["name"], lambda row: f"{row['group']}.{row['field']}"):
        seen = [column(row) for row in rows]
        breaches.extend(f"src/base/options.def: {one} has two rows" for one in sorted({one for one in seen if seen.count(one) > 1}))
    if not (root / "docs/options.md").exists() or (root / "docs/options.md").read_text(encoding="utf-8") != page:
        breaches.append("docs/options.md: not what src/base/options.def says; run python3 scripts/options_doc.py")
    return len(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[2])
    root = parser.parse_args().root.resolve()
    breaches = []
    sources = files_of(root / "src")
    for path in sources:
        check_source(root, path, breaches)
    check_outside(root, breaches)
    check_folders(root, breaches)
    variables = check_options(root, breaches)
    for folder in ("src", "tools", "tests", "include", "examples", "benchmarks"):
        for path in files_of(root / folder):
            lines = path.read_text(encoding="utf-8").count("\n")
            if lines > LONG_FILE:
                print(f"warning: {path.relative_to(root)} has {lines} lines; more than {LONG_FILE} ask to be two files")
    for breach in breaches:
        print(breach)
    print(f"{len(sources)} files of src/, {variables} variables, {len(breaches)} breaches")
    return 1 if breaches or not sources or not variables else 0


if __name__ == "__main__":
    sys.exit(main())
