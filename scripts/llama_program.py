"""Unmodified llama.cpp programs run to their end, with or without Atlas; llama_server.py has the one that stays up."""

import os
import re
import subprocess

LOST_CHARACTERS = 24  # the last tokens and the empty lines behind them


def clean_environment(plugin=None, **variables):
    """This process's, without what it says of Atlas or of another plug-in."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ATLAS_") and name != "GGML_BACKEND_PATH"}
    if plugin:
        environment["GGML_BACKEND_PATH"] = os.path.abspath(plugin)
    environment.update({name: str(value) for name, value in variables.items()})
    return environment


def run(command, plugin=None, seconds=500, **variables):
    """The finished process with its two outputs as text. Threads sleep when they wait: tests share the machine."""
    return subprocess.run([str(part) for part in command], env=clean_environment(plugin, **{"OMP_WAIT_POLICY": "passive", **variables}),
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=seconds, check=False)


def atlas_lines(text):
    """What Atlas said, each from "atlas: [level]" to the end of its line.

    Atlas writes a line whole, llama.cpp's log thread in pieces (time stamp, level, text): a line of Atlas can stand behind such a piece,
    and the rest of the host's line follows in a line of its own.
    """
    return re.findall(r"atlas: \[\w+\] .*", text)


def only_end_differs(one, other):
    """One is the other but for a few last tokens, see `agree`."""
    agreed = len(os.path.commonprefix([one, other]))
    return agreed == min(len(one), len(other)) and max(len(one), len(other)) - agreed <= LOST_CHARACTERS


def agree(produce_base, produce_ours):
    """Both make the same text; returns the two when they do not, else None.

    Since April 2026 llama.cpp never joins its log thread, which prints the text too: a program that exits right after its last token can lose
    the end of its output, with or without any plug-in (with all cores taken: 42 of 96 runs alone, 36 of 96 with Atlas). A text that is
    the beginning of the other is therefore made again, and at last accepted when no more than its last few tokens are missing.
    """
    base, ours = produce_base(), produce_ours()
    for _ in range(6):
        if base == ours:
            return None
        if base.startswith(ours):
            ours = produce_ours()
        elif ours.startswith(base):
            base = produce_base()
        else:
            break
    return None if only_end_differs(base, ours) else (base, ours)
