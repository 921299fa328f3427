#!/usr/bin/env python3
"""Makes the wheel `ggml-atlas` of a build: the plug-in with the libraries that not every system has, the launcher, the C headers, and a Python module that says
where they are. It contains no llama.cpp: its programs come from PATH, or another package loads the plug-in.

    wheel.py BUILD-FOLDER OUTPUT-FOLDER
"""

import argparse
import base64
import hashlib
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
# What a system with llama.cpp has anyway, or has to have from its own hands.
SYSTEMS_OWN = re.compile(r"^(linux-vdso|ld-linux|libc\.|libm\.|libdl\.|libpthread|librt\.|libgcc_s|libstdc\+\+|libgomp|libomp|libggml|libllama)")

MODULE = '''"""Atlas: attention, KV cache and weights for any llama.cpp program, as a ggml backend.

    import ggml_atlas
    os.environ["GGML_BACKEND_PATH"] = ggml_atlas.library()     # before llama.cpp is loaded
"""

import os
import pathlib
import shutil
import subprocess
import sys

__version__ = "@VERSION@"
_here = pathlib.Path(__file__).parent


def library():
    """Path of libggml-atlas.so, for GGML_BACKEND_PATH or ggml_backend_load."""
    return str(_here / "lib" / "libggml-atlas.so")


def include():
    """Folder of the C headers: atlas/atlas-runtime.h and others."""
    return str(_here / "include")


def _ggml_folder():
    """Where the ggml is that llama.cpp's programs of PATH use: the launcher has to use the same."""
    for name in ("llama-server", "llama-cli", "llama-bench"):
        program = shutil.which(name)
        if not program:
            continue
        said = subprocess.run([program], env={**os.environ, "LD_TRACE_LOADED_OBJECTS": "1"}, capture_output=True, text=True, check=False).stdout
        for line in said.splitlines():
            if "libggml-base.so" in line and "=> /" in line:
                return os.path.dirname(line.split("=> ")[1].split(" (")[0])
    return None


def main():
    """The command `atlas`."""
    environment = dict(os.environ)
    folder = _ggml_folder()
    if folder:
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(part for part in (folder, environment.get("LD_LIBRARY_PATH")) if part)
    environment.setdefault("ATLAS_LIBRARY", library())
    program = str(_here / "bin" / "atlas")
    try:
        os.execve(program, ["atlas", *sys.argv[1:]], environment)
    except OSError as error:
        sys.exit(f"{program}: {error}")
'''


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        sys.exit(f"wheel: {' '.join(map(str, command))}: status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def bundled(library):
    """The shared libraries that go along, by name."""
    found = {}
    for line in run("ldd", library).splitlines():
        match = re.match(r"\s*(\S+) => (/\S+)", line)
        if match and not SYSTEMS_OWN.match(match[1]):
            found[match[1]] = pathlib.Path(match[2])
    return found


def digest(data):
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def write_wheel(path, files, version, tag):
    info = f"ggml_atlas-{version}.dist-info"
    files[f"{info}/METADATA"] = (f"Metadata-Version: 2.1\nName: ggml-atlas\nVersion: {version}\n"
                                 "Summary: Attention, KV cache and weights for any llama.cpp program, as a ggml backend\nLicense: MIT\n"
                                 "Requires-Python: >=3.8\nDescription-Content-Type: text/markdown\n\n"
                                 + (ROOT / "README.md").read_text(encoding="utf-8")).encode()
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: atlas\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    files[f"{info}/entry_points.txt"] = b"[console_scripts]\natlas = ggml_atlas:main\n"
    files[f"{info}/LICENSE"] = (ROOT / "LICENSE").read_bytes()
    record = "".join(f"{name},{digest(data)},{len(data)}\n" for name, data in files.items()) + f"{info}/RECORD,,\n"
    files[f"{info}/RECORD"] = record.encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            program = "/bin/" in name or ".so" in name
            entry.external_attr = (0o100755 if program else 0o100644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(entry, data)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    args = parser.parse_args()
    version = re.search(r"project\(atlas VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"))[1]
    with tempfile.TemporaryDirectory() as name:
        stage = pathlib.Path(name)
        run("cmake", "--install", args.build, "--prefix", stage, "--strip")
        library = next(stage.rglob("libggml-atlas.so"))
        files = {"ggml_atlas/__init__.py": MODULE.replace("@VERSION@", version).encode(), "ggml_atlas/lib/libggml-atlas.so": library.read_bytes()}
        for one, path in sorted(bundled(library).items()):
            files[f"ggml_atlas/lib/{one}"] = path.read_bytes()
        for program in sorted((stage / "bin").iterdir()):
            files[f"ggml_atlas/bin/{program.name}"] = program.read_bytes()
        for header in sorted((stage / "include/atlas").iterdir()):
            files[f"ggml_atlas/include/atlas/{header.name}"] = header.read_bytes()
        machine = run("uname", "-m").strip()
        tag = f"py3-none-linux_{machine}"
        args.output.mkdir(parents=True, exist_ok=True)
        path = args.output / f"ggml_atlas-{version}-{tag}.whl"
        write_wheel(path, files, version, tag)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, with {', '.join(sorted(one.split('/')[-1] for one in files if '.so' in one))}")


if __name__ == "__main__":
    main()
