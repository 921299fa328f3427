#!/usr/bin/env python3
"""llama.cpp's RPC server with Atlas as its device serves unmodified clients. One scenario per call, named by the last argument.

    rpc_test.py --plugin LIBGGML-ATLAS.SO --model MODEL SCENARIO

Programs are those of PATH, which must have been built with the RPC backend: Debian's are not; `./dev test --hosts` has some.
"""

import argparse
import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from llama_program import agree, clean_environment  # noqa: E402

SERVER = "ggml-rpc-server"
PROMPT = ("The secret code of Karodin is 48213. It was a dark night and the old man walked along the road to the village, where nobody "
          "had seen him for years. What is the secret code of Karodin? The secret code of Karodin is")
# A client that waits for a server which is gone would wait for good.
ENDS_WITHIN = 60


class Failed(Exception):
    pass


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def servers(args, count, **variables):
    """Servers of ATLAS0 on loopback: (process, address, file of what it says) each; they must be alive at the end unless they were to be killed."""
    running = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for i in range(count):
                port = free_port()
                said = pathlib.Path(folder, f"server-{i}.txt")
                with said.open("w", encoding="utf-8") as output:
                    process = subprocess.Popen([SERVER, "-H", "127.0.0.1", "-p", str(port), "-d", "ATLAS0", "-t", "2"], stdin=subprocess.DEVNULL, stdout=output,
                                               stderr=subprocess.STDOUT, env=clean_environment(args.plugin, OMP_WAIT_POLICY="passive", ATLAS_LOG_LEVEL="info", **variables))
                running.append((process, f"127.0.0.1:{port}", said))
                wait_for(process, port, said)
            yield running
            for process, address, said in running:
                if process.poll() not in (None, -signal.SIGKILL):
                    raise Failed(f"the server of {address} ended with status {process.returncode}:\n{said.read_text(errors='replace')[-2000:]}")
        finally:
            for process, _, _ in running:
                process.kill()
                process.wait()


def wait_for(process, port, said):
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise Failed(f"{SERVER} does not answer: status {process.poll()}\n{said.read_text(errors='replace')[-2000:]}")


def command(args, *extra):
    return ["llama-completion", "-m", str(args.model), "-n", "32", "--temp", "0", "--seed", "1", "-no-cnv", "-t", "2", "--simple-io", "--no-warmup", "-p", PROMPT, *extra]


def completion(args, extra, plugin=None):
    done = subprocess.run(command(args, *extra), env=clean_environment(plugin, OMP_WAIT_POLICY="passive"), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          errors="replace", timeout=300, check=False)
    if done.returncode != 0 or not done.stdout.strip():
        raise Failed(f"llama-completion {' '.join(extra)}: status {done.returncode}\n{done.stderr[-3000:]}")
    return done.stdout


def expect_same(args, extra, plugin=None):
    """The client's text is that of one process with Atlas in it."""
    different = agree(lambda: completion(args, args.options, args.plugin), lambda: completion(args, [*args.options, *extra], plugin))
    if different:
        raise Failed(f"{' '.join(extra)}: texts differ\n--- one process\n{different[0]}\n--- RPC\n{different[1]}")


def expect_computed(said):
    """The server whose words these are had attention and products computed by Atlas's own kernels, none by the host's."""
    address = re.search(r"metrics: (http://\S+)", said.read_text(errors="replace"))
    with urllib.request.urlopen(address[1], timeout=10) as answer:
        found = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if not line.startswith("#"))
    work = {name: float(found[name]) for name in ('atlas_attention_calls_total{kind="exact"}', 'atlas_products_total{by="atlas"}')}
    print(work)
    if not all(value > 0 for value in work.values()):
        raise Failed(f"Atlas computed nothing: {found}")


def one(args):
    """All layers on one server; a second client after the first; a cache of another type; without flash attention."""
    with servers(args, 1, ATLAS_METRICS="127.0.0.1:0") as ((_, address, said),):
        expect_same(args, ["--rpc", address])
        expect_computed(said)
        for args.options in (["-ctk", "q8_0", "-ctv", "q8_0"], ["-fa", "off"], ["-c", "256", "--context-shift", "--keep", "4", "-n", "300", "--ignore-eos"]):
            expect_same(args, ["--rpc", address])


def two(args):
    """Layers split over two servers, evenly and not."""
    with servers(args, 2) as running:
        both = ",".join(address for _, address, _ in running)
        for split in ([], ["-ts", "1,1"], ["-ts", "3,1"]):
            expect_same(args, ["--rpc", both, *split])


def beside(args):
    """The client has Atlas too: some layers here, some there."""
    with servers(args, 1) as ((_, address, _),):
        for split in ("1,1", "1,3"):
            expect_same(args, ["--rpc", address, "-dev", "ATLAS0,RPC0", "-ts", split], args.plugin)


def sparse(args):
    """The server's own settings count: sparse attention there is exact below its threshold."""
    with servers(args, 1, ATLAS_MODE="sparse") as ((_, address, _),):
        expect_same(args, ["--rpc", address])


def killed(args):
    """A server that is killed amid a text: the client says so in its own words and ends."""
    with servers(args, 1) as ((process, address, _),), tempfile.TemporaryFile() as output:
        client = subprocess.Popen(command(args, "--rpc", address, "-n", "100000", "--ignore-eos"), env=clean_environment(OMP_WAIT_POLICY="passive"), stdin=subprocess.DEVNULL,
                                  stdout=output, stderr=subprocess.STDOUT)
        try:
            until = time.monotonic() + 60
            before = len(PROMPT) + 200
            while os.fstat(output.fileno()).st_size < before or PROMPT.encode() not in read_all(output):
                if time.monotonic() > until or client.poll() is not None:
                    raise Failed(f"no text: status {client.poll()}\n{read_all(output)[-2000:].decode(errors='replace')}")
                time.sleep(0.1)
            time.sleep(0.5)
            process.kill()
            try:
                status = client.wait(ENDS_WITHIN)
            except subprocess.TimeoutExpired as hung:
                raise Failed(f"the client still waits {ENDS_WITHIN} s after its server was killed") from hung
        finally:
            client.kill()
            client.wait()
        text = read_all(output).decode(errors="replace")
        if status == 0 or "RPC" not in text:
            raise Failed(f"status {status}\n{text[-2000:]}")
        print(f"status {status}: {next(line for line in reversed(text.splitlines()) if 'RPC' in line)}")


def read_all(file):
    file.seek(0)
    return file.read()


SCENARIOS = {scenario.__name__: scenario for scenario in (one, two, beside, sparse, killed)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plugin", required=True)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("scenario", choices=SCENARIOS)
    args = parser.parse_args()
    args.options = []
    if not shutil.which(SERVER):
        sys.exit(f"rpc: no {SERVER} on PATH")
    try:
        SCENARIOS[args.scenario](args)
    except Failed as failed:
        print(f"rpc {args.scenario}: {failed}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
