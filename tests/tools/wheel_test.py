#!/usr/bin/env python3
"""The wheel is one: hashes and sizes are right, its module finds the plug-in and the headers, its launcher runs llama.cpp's programs on it."""

import argparse
import base64
import csv
import hashlib
import os
import pathlib
import stat
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]


def unpack(wheel, folder):
    """As pip does: contents by RECORD, modes by the archive."""
    with zipfile.ZipFile(wheel) as archive:
        record = next(name for name in archive.namelist() if name.endswith("RECORD"))
        rows = list(csv.reader(archive.read(record).decode().splitlines()))
        assert {row[0] for row in rows} == set(archive.namelist()), "RECORD does not list what is there"
        for name, digest, size in rows:
            data = archive.read(name)
            if name != record:
                assert digest == "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode(), f"digest of {name}"
                assert int(size) == len(data), f"size of {name}"
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            path.chmod(stat.S_IMODE(archive.getinfo(name).external_attr >> 16))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", required=True)
    parser.add_argument("--model", required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        subprocess.run([sys.executable, ROOT / "scripts/wheel.py", args.build, folder], check=True)
        wheel = next(folder.glob("ggml_atlas-*.whl"))
        site = folder / "site"
        unpack(wheel, site)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ATLAS_") and key != "GGML_BACKEND_PATH"}
        environment.update({"PYTHONPATH": str(site), "OMP_WAIT_POLICY": "passive"})

        def python(code, *arguments):
            done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  errors="replace", timeout=200, check=False)
            return done.stdout + done.stderr

        said = python("import ggml_atlas, os; print(os.path.isfile(ggml_atlas.library()), os.path.isfile(ggml_atlas.include() + '/atlas/atlas-runtime.h'))")
        assert said.split() == ["True", "True"], said
        command = "import ggml_atlas; ggml_atlas.main()"
        said = python(command, "doctor")
        assert "Atlas works here." in said and str(site) in said, said
        said = python(command, "llama-bench", "-m", args.model, "-p", "16", "-n", "4", "-r", "1", "--atlas-log-level", "info")
        assert "kernels" in said and "ATLAS" in said and "tg4" in said, said
        print(wheel.name, "works")


if __name__ == "__main__":
    main()
