"""What the tests that run unmodified programs share: one scenario per call, named by the last argument."""

import argparse
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))

from llama_server import ServerError  # noqa: E402


class Failed(Exception):
    pass


def require(condition, text):
    if not condition:
        raise Failed(text)


def equal(one, other, what):
    require(one == other, f"{what}:\n--- one\n{one}\n--- other\n{other}")


def sample(characters, begin=0):
    """Part of the text that lies beside the tests."""
    return (ROOT / "tests/models/sample.txt").read_text(encoding="utf-8")[begin:begin + characters]


def model_of_experts(path, kind="q8_0"):
    """A small model of random weights, 2 of 8 experts in each layer: 5 MB of weights that every token needs, 13 MB of experts."""
    maker = ROOT / "benchmarks/end_to_end/make_model.py"
    command = [sys.executable, maker, "--layers", "4", "--width", "512", "--heads", "8", "--kv-heads", "4", "--head-size", "64", "--ffn", "256",
               "--vocabulary", "4096", "--type", kind, "--experts", "8", "--experts-used", "2", path]
    made = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if "No module named" in made.stderr:
        skip(made.stderr.splitlines()[-1])
    require(made.returncode == 0, made.stderr)
    return path


def skip(reason):
    print(reason)
    sys.exit(77)


def main(description, scenarios, **options):
    """Runs the scenario; `options` are further arguments and their help. Status 1 and the reason when it fails."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--plugin", required=True)
    parser.add_argument("--model", required=True)
    for name, text in options.items():
        parser.add_argument("--" + name.replace("_", "-"), default="", help=text)
    parser.add_argument("scenario", choices=scenarios)
    args = parser.parse_args()
    try:
        scenarios[args.scenario](args)
    except (Failed, ServerError, subprocess.TimeoutExpired) as error:
        print(f"{args.scenario}: {error}")
        sys.exit(1)
