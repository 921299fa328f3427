#!/usr/bin/env python3
"""What an unmodified llama-server under Atlas says to Prometheus (ATLAS_METRICS), and what becomes of addresses that are none. One scenario per call."""

import concurrent.futures
import json
import re
import socket
import urllib.request

import scenarios
from scenarios import require, sample

from llama_program import atlas_lines
from llama_server import LlamaServer

LONG = {"ATLAS_MODE": "sparse", "ATLAS_MEMORY": 1, "ATLAS_THRESHOLD": 256, "ATLAS_WINDOW": 64, "ATLAS_BUDGET": 128, "ATLAS_BUDGET_FLOOR": 64,
        "ATLAS_MEMORY_PROBE": 8}
CLIENTS = 8


def serve(args, **variables):
    return LlamaServer(args.model, 8192, 2, args.plugin, {"OMP_WAIT_POLICY": "passive", "ATLAS_LOG_LEVEL": "info", **variables},
                       ["--no-warmup", "-fit", "off", "-np", "4"])


def scrape(address):
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        require(answer.headers["Content-Type"].startswith("text/plain; version=0.0.4"), f"{answer.headers}")
        text = answer.read().decode()
    values = {}
    for line in text.splitlines():
        if line.startswith("#"):
            require(re.match(r"# (HELP|TYPE) atlas_\w+ .+", line), line)
            continue
        found = re.fullmatch(r'(atlas_\w+(?:\{\w+="[^"]*"(?:,\w+="[^"]*")*\})?) ([0-9.e+-]+)', line)
        require(found, f"no sample: {line}")
        values[found[1]] = float(found[2])
    return values


def clients(args):
    """Eight clients on four slots, and a scrape while they are at it."""
    with serve(args, ATLAS_METRICS="127.0.0.1:0", **LONG) as server:
        address = re.search(r"metrics: http://(127\.0\.0\.1:\d+)/metrics", server.log())
        require(address, f"the address is not said:\n{server.log()[-2000:]}")
        before = scrape(address[1])
        server.complete(sample(50, 0), 4, cache_prompt=False)
        short = scrape(address[1])
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            asked = [pool.submit(server.complete, sample(1200, 900 * i), 96, cache_prompt=False) for i in range(CLIENTS)]
            meanwhile = []
            while not all(one.done() for one in asked):
                meanwhile.append(scrape(address[1]))
            for one in asked:
                require(one.result()["content"], "an empty answer")
        after = scrape(address[1])
    require(len(meanwhile) > 3, "not scraped while it ran")
    for name in after:
        if name.split("{")[0].endswith("_total"):
            values = [scraped[name] for scraped in (before, *meanwhile, after)]
            require(values == sorted(values), f"{name} goes down: {values}")
    for name in ('atlas_graphs_total', 'atlas_nodes_total{by="atlas"}', 'atlas_attention_calls_total{kind="sparse"}',
                 'atlas_attention_calls_total{kind="exact"}', 'atlas_products_total{by="atlas"}', 'atlas_memory_bytes{kind="kv"}',
                 'atlas_memory_bytes{kind="index"}', 'atlas_memory_bytes{kind="memories"}', 'atlas_memories', 'atlas_contexts',
                 'atlas_compute_seconds_total', 'atlas_speedup', 'atlas_attention_seconds_total'):
        require(after[name] > 0, f"{name} is {after[name]}")
    # Short texts alone: what was asked for took no part, until there was a long one.
    absent = [one['atlas_absent_contexts{reason="below_threshold"}'] for one in (short, after)]
    require(absent == [1, 0], f"absent contexts behind a short text, and behind long ones: {absent}")
    require(short['atlas_absent_calls{reason="below_threshold"}'] > 0, "no absent call behind a short text")
    require(after["atlas_read_keys_total"] < after["atlas_visible_keys_total"], "every key was read")
    share = after["atlas_sampling_seconds_total"] / after["atlas_compute_seconds_total"]
    samples = sum(value for name, value in after.items() if name.startswith("atlas_speedup_samples_total"))
    print(f"{len(meanwhile)} scrapes; {after['atlas_graphs_total']:.0f} graphs in {after['atlas_compute_seconds_total']:.2f} s, "
          f"speedup {after['atlas_speedup']:.2f} over {samples:.0f} samples at {100 * share:.2f} % of the time")
    require(samples > 0, "nothing was timed beside the host")
    # Half a percent, and what a busy machine adds to the last sample of a short run.
    require(share < 0.02, f"sampling costs {100 * share:.1f} %")


def streamed(args):
    """Weights of which memory holds a part."""
    with serve(args, ATLAS_METRICS="127.0.0.1:0", ATLAS_WEIGHTS_RAM="4M") as server:
        address = re.search(r"metrics: http://(127\.0\.0\.1:\d+)/metrics", server.log())[1]
        server.complete(sample(200), 4, cache_prompt=False)
        first = scrape(address)
        server.complete(sample(200), 8, cache_prompt=False)
        then = scrape(address)
    held = sum(value for name, value in then.items() if name.startswith("atlas_weights_bytes"))
    require(2 << 20 < held <= 4 << 20, f"{held} bytes are held: {then}")
    read = "atlas_weights_read_bytes_total"
    require(then[read] > first[read] > 4 << 20, f"{first[read]}, {then[read]} bytes were read")
    require(then['atlas_weights_experts_total{from="disk"}'] == 0 and then["atlas_weights_read_errors_total"] == 0, f"{then}")


def bad_addresses(args):
    """A text that is no address keeps Atlas out, with one line; an address that is taken keeps the metrics out. The server lives in both cases."""
    with serve(args, ATLAS_METRICS="nowhere") as server:
        require(server.complete("Once", 4)["content"], "no answer")
        said = [line for line in atlas_lines(server.log()) if "[error]" in line]
        require(len(said) == 1 and "ATLAS_METRICS=nowhere: allowed is ADDRESS:PORT" in said[0], f"{said}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with serve(args, ATLAS_METRICS=address) as server:
            require(server.complete("Once", 4)["content"], "no answer")
            said = [line for line in atlas_lines(server.log()) if "[error]" in line]
            require(len(said) == 1 and f"no metrics: ATLAS_METRICS={address}: Address already in use" in said[0], f"{said}")
            require("kernels" in server.log(), "Atlas is not in it")


def dashboard(args):
    """Every metric of the dashboard and of the page is one that a server has, and none is left out."""
    has = set()
    # Weights are either kept to a number of bytes or rounded.
    for settings in ({"ATLAS_RAM": "64M", "ATLAS_KV_DISK": "/var/tmp"}, {"ATLAS_WEIGHT_FORMAT": "int8"}):
        with serve(args, ATLAS_METRICS="127.0.0.1:0", **settings) as server:
            server.complete("Once", 4)
            found = scrape(re.search(r"metrics: http://([\d.:]+)/", server.log())[1])
        has |= {name.split("{")[0] for name in found}
    require(found['atlas_format_matrices_total{from="rounded"}'] > 0 and 8 < found["atlas_format_bits"] < 9 and found["atlas_format_bytes"] > 0 and
            found["atlas_format_sqnr_db"] > 35 and found["atlas_format_seconds_total"] > 0, f"{found}")
    board = json.loads((scenarios.ROOT / "tools/grafana/atlas.json").read_text(encoding="utf-8"))
    shown = {name for panel in board["panels"] for target in panel["targets"] for name in re.findall(r"atlas_\w+", target["expr"])}
    require(shown <= has, f"the dashboard shows what is not there: {shown - has}")
    page = set(re.findall(r"`(atlas_\w+)", (scenarios.ROOT / "docs/metrics.md").read_text(encoding="utf-8")))
    require(page == has, f"docs/metrics.md alone: {page - has}; not in it: {has - page}")


if __name__ == "__main__":
    scenarios.main(__doc__, {"clients": clients, "streamed": streamed, "bad_addresses": bad_addresses, "dashboard": dashboard})
