#!/usr/bin/env python3
"""Compares what nvcc made of the kernels (kernels.json beside the fatbin, scripts/cuda_fatbin.py) with tests/cuda/resources.json.

Must hold for every kernel and architecture: no generic loads, no spills, no local memory, the instructions that it was written for. Registers may differ by
a little (another nvcc): --write makes the table anew.
"""

import argparse
import json
import pathlib
import sys

TABLE = pathlib.Path(__file__).resolve().parent / "resources.json"
# Kernel -> instructions that it must have, where the architecture has them.
REQUIRED = {"decode": ["LDG.E.128"], "tiles": ["HMMA", "LDSM", "LDGSTS"], "write": [], "prepare": [], "encode": [],
            "score": ["LDG.E.128", "IDP.4A"], "share": ["LDG.E.128", "IDP.4A"], "attend": ["LDG.E.128"], "multiply": ["LDG.E.128", "IDP.4A"], "quantise": []}
FORBIDDEN = ["LD.E", "LDL", "STL"]


def faults_of(architecture, kernel, found, written):
    if written is None:
        return ["not in resources.json"]
    faults = []
    if found["spills"] or found["stack"]:
        faults.append(f"{found['spills']} bytes of spills, {found['stack']} of stack")
    if abs(found["registers"] - written["registers"]) > 16:
        faults.append(f"{found['registers']} registers, {written['registers']} in resources.json")
    if counts := found.get("instructions"):
        faults += [f"{counts[name]} × {name}, which must not be" for name in FORBIDDEN if counts[name]]
        for name in REQUIRED[kernel.split("_")[0]]:
            if not counts[name] and not (name == "LDGSTS" and architecture < 80):
                faults.append(f"no {name}")
    return faults


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("found", type=pathlib.Path, help="kernels.json of a build")
    parser.add_argument("--write", action="store_true", help="make the table from it")
    arguments = parser.parse_args()
    found = json.loads(arguments.found.read_text(encoding="utf-8"))
    if arguments.write:
        text = json.dumps(found, sort_keys=True).replace('}, "sm_', '},\n\n"sm_').replace('}, "', '},\n"').replace(': {"attend_rest', ': {\n"attend_rest')
        TABLE.write_text(text + "\n", encoding="utf-8")
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    faults = [f"{name}: in resources.json, not in the build" for name in table if name not in found]
    checked = 0
    for name, kernels in found.items():
        for kernel, resources in kernels.items():
            checked += 1
            faults += [f"{name} {kernel}: {fault}" for fault in faults_of(int(name[3:]), kernel, resources, table.get(name, {}).get(kernel))]
        faults += [f"{name} {kernel}: in resources.json, not in the build" for kernel in table.get(name, {}) if kernel not in kernels]
    for fault in faults:
        print(fault)
    disassembled = sum("instructions" in resources for kernels in found.values() for resources in kernels.values())
    print(f"{checked} kernels, {disassembled} of them disassembled, {len(faults)} faults")
    return 1 if faults or not checked else 0


if __name__ == "__main__":
    sys.exit(main())
