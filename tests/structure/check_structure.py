#!/usr/bin/env python3
"""The house rules of the source tree that no compiler enforces: who may include whom, who may read the environment, documented options.

Exit status 0 when all hold; otherwise every breach as FILE:LINE: REASON. --root lets the test of this test point at a made-up tree.
"""

import argparse
import pathlib
import re
import sys

# Folder of src/ -> the folders it may include directly. c_api, host -> runtime -> side_car -> attention -> kv, memory -> kernels -> base.
MAY_INCLUDE = {
    "base": set(),
    "gguf": {"base"},
    "kernels": {"base"},
    "memory": {"kernels", "base"},
    "kv": {"kernels", "base"},
    "weights": {"kernels", "gguf", "base"},
    "attention": {"kv", "memory", "kernels", "base"},
    "side_car": {"gguf", "attention", "memory", "kernels", "base"},
    "runtime": {"side_car", "gguf", "attention", "weights", "memory", "kv", "kernels", "base"},
    "c_api": {"runtime", "side_car", "gguf", "attention", "weights", "memory", "kv", "kernels", "base"},
    "host": {"runtime", "side_car", "gguf", "attention", "weights", "memory", "kv", "kernels", "base"},
}
SOURCES = {".h", ".hpp", ".cpp", ".cc", ".c", ".cu", ".cuh"}
LONG_FILE = 500

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
HOST_HEADER = re.compile(r"^(ggml|llama|gguf)([-_.].*)?\.h$|^(ggml|llama)-cpp\.h$")
GETENV = re.compile(r"\b(secure_)?getenv\s*\(")
STDERR = re.compile(r"std::cerr|std::cout|\bf?printf\s*\(\s*(stderr|stdout|\")")
VARIABLE = re.compile(r'"(ATLAS_[A-Z0-9_]+)"')


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
        if HOST_HEADER.match(name.split("/")[-1]) and kind == "<" or HOST_HEADER.match(name):
            if folder != "host":
                breaches.append(f"{path.relative_to(root)}:{number}: {name}: only src/host may include headers of ggml or llama.cpp")
        elif kind == '"' and "/" in name and target in MAY_INCLUDE and folder in MAY_INCLUDE and target != folder:
            if target not in MAY_INCLUDE[folder]:
                breaches.append(f"{path.relative_to(root)}:{number}: {name}: src/{folder} must not include src/{target}")
        elif kind == '"' and ".." in name.split("/"):
            breaches.append(f"{path.relative_to(root)}:{number}: {name}: paths are relative to src/")
    for number, line in enumerate(without_comments(raw).splitlines(), 1):
        if GETENV.search(line) and relative.as_posix() != "base/options.cpp":
            breaches.append(f"{path.relative_to(root)}:{number}: the environment is read in src/base/options.cpp alone")
        if STDERR.search(line):
            breaches.append(f"{path.relative_to(root)}:{number}: the library prints through base/log.h alone")


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
    """docs/options.md, the comments of options.h and the launcher's switches name exactly the variables that options.cpp parses."""
    parsed = set(VARIABLE.findall((root / "src/base/options.cpp").read_text(encoding="utf-8")))
    for name in ("src/base/options.h", "docs/options.md"):
        text = (root / name).read_text(encoding="utf-8") if (root / name).exists() else ""
        named = set(re.findall(r"\bATLAS_[A-Z0-9_]+\b", text))
        for variable in sorted(parsed - named):
            breaches.append(f"{name}: {variable} is parsed in src/base/options.cpp and not described here")
        if name.endswith(".md"):
            table = set(re.findall(r"^\|\s*`(ATLAS_[A-Z0-9_]+)`", text, re.MULTILINE))
            for variable in sorted(table - parsed):
                breaches.append(f"{name}: {variable} is described here and parsed nowhere")
    # ATLAS_PAGE_ALL is for tests; every other variable has its switch, named like it.
    launcher = root / "tools/atlas/settings.cpp"
    switches = dict(re.findall(r'"(atlas-[a-z0-9-]+)",\s*"(ATLAS_[A-Z0-9_]+)"', launcher.read_text(encoding="utf-8") if launcher.exists() else ""))
    for variable in sorted(parsed - {"ATLAS_PAGE_ALL"} - set(switches.values())):
        breaches.append(f"tools/atlas/settings.cpp: {variable} is parsed in src/base/options.cpp and has no switch here")
    for switch, variable in sorted(switches.items()):
        if variable not in parsed or switch != variable.lower().replace("_", "-"):
            breaches.append(f"tools/atlas/settings.cpp: --{switch} sets {variable}: parsed nowhere, or not named like it")
    return len(parsed)


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
