"""An unmodified llama-server for a while: started on a free port, asked, stopped; with or without Atlas."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from llama_program import clean_environment


class ServerError(Exception):
    """Says what went wrong, with the end of the server's log."""


class Refused(ServerError):
    """The server answered, with an HTTP status of failure: it goes on."""


class LlamaServer:
    """One slot unless `arguments` say otherwise. Use with `with`, or call stop()."""

    def __init__(self, model, context, threads=None, plugin=None, variables=None, arguments=(), binary="llama-server"):
        threads = threads or os.cpu_count()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        command = [binary, "-m", model, "-c", context, "-np", "1", "-t", threads, "-tb", threads, "--host", "127.0.0.1", "--port", port,
                   *arguments]
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
                                        env=clean_environment(plugin, **(variables or {})))
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def _wait_until_ready(self):
        for _ in range(1200):
            if self.process.poll() is not None:
                raise self._error(f"ended with status {self.process.returncode} while loading")
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(self.address + "/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            time.sleep(0.1)
        raise self._error("did not become ready")

    def _error(self, what, kind=ServerError):
        return kind(f"llama-server {what}:\n{self.log()[-3000:]}")

    def log(self):
        self._log.flush()
        self._log.seek(0)
        text = self._log.read()
        self._log.seek(0, os.SEEK_END)
        return text

    def ask(self, path, timeout=3600, **body):
        request = urllib.request.Request(self.address + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise self._error(f"refused ({error.code}): {error.read().decode(errors='replace')}", Refused) from error
        except OSError as error:
            raise self._error(f"broke off ({error})") from error

    def complete(self, prompt, tokens, **more):
        """Greedy; the prompt's part that the last request had too is not computed again."""
        return self.ask("/completion", **{"prompt": prompt, "n_predict": tokens, "temperature": 0, "cache_prompt": True, **more})

    def peak_memory(self):
        """MiB resident at most, as the kernel counts it."""
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode
