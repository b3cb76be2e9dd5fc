"""`make bench`: ratios measured in one run. See `pairs.py` for how; `--write` puts them into docs/benchmarks.md.

Node, load and peers share the machine's cores. A goal is met when the worse end of its range is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "demo"), str(ROOT / "tests" / "support"), str(Path(__file__).resolve().parent)]

import check  # noqa: E402
import models  # noqa: E402
import peers  # noqa: E402
import run as demo  # noqa: E402
from pairs import ROUNDS, Goal, Report, Row, Spread, by_turns, differences, ratios  # noqa: E402

WORK = ROOT / ".bench"
TINY_SECONDS = 1.5
# An encoder answers some hundred requests a second: shorter rounds count too few.
ENCODER_SECONDS = 5.0
HASHED_BYTES = 64 << 20
IDLE_SECONDS = 10.0
STARTS = 10
FLOODING = 64
# Load in the background is ended when nobody needs it any more.
BACKGROUND_SECONDS = 600.0
# Models beside the tiny one, each asked over one connection; the k-th takes k times as long as the first.
OTHERS = 19
# Requests of a client that wants less than its share: below it, others' runs are all that it waits for.
QUIET_SECONDS = 5.0
QUIET_PAUSE = 0.005


class Bench:
    """The load generator, and what it was last told."""

    def __init__(self, program: str, grey: str) -> None:
        self.program = program
        self.grey = grey
        self.report = Report()
        self.load_share: list[float] = []

    def command(
        self, address: str, path: str, body: Path, connections: int, seconds: float, *headers: str
    ) -> list[str]:
        command = [self.program, "load", "--address", address, "--path", path, "--body", str(body)]
        command += ["--connections", str(connections), "--seconds", str(seconds)]
        for header in headers:
            command += ["--header", header]
        return command

    @contextmanager
    def background(self, *arguments: Any) -> Iterator[None]:
        """Load of which nothing is measured."""
        load = subprocess.Popen(self.command(*arguments), stdout=subprocess.DEVNULL)
        try:
            yield
            if load.poll() is not None:
                raise SystemExit("the load in the background ended")
        finally:
            load.kill()
            load.wait()

    def load(
        self, address: str, path: str, body: Path, connections: int, seconds: float, *headers: str, pause: float = 0
    ) -> Any:
        command = [*self.command(address, path, body, connections, seconds, *headers), "--pause", str(pause)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        report = json.loads(done.stdout)
        # It loads for a fifth longer than it measures.
        self.load_share.append(report["own_cpu_seconds"] / (seconds * 1.2) / (os.cpu_count() or 1))
        return report

    def quiet(self, address: str, path: str, body: Path, *headers: str) -> float:
        """The p99 of a client that wants little; where nothing at all was answered, the time for which that was so."""
        found = self.load(address, path, body, 1, QUIET_SECONDS, *headers, pause=QUIET_PAUSE)
        return float(found["p99_seconds"] if found["requests"] else QUIET_SECONDS)

    def own(self, *arguments: str) -> Any:
        return json.loads(subprocess.run([self.program, *arguments], capture_output=True, text=True, check=True).stdout)

    def add(self, measure: str, found: Spread, goal: Goal, form: str = ".3f", unit: str = "", note: str = "") -> None:
        self.report.add(Row(measure, found, form, unit, goal, note))


class Request:
    """A body of binary tensors and the header that it needs."""

    def __init__(self, name: str, datatype: str, array: np.ndarray) -> None:
        tensor = {"name": name, "datatype": datatype, "shape": list(array.shape)}
        tensor["parameters"] = {"binary_data_size": array.nbytes}
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        self.body = WORK / f"{name}-{array.size}.bin"
        self.body.write_bytes(head + array.tobytes())
        self.header = f"Inference-Header-Content-Length: {len(head)}"
        self.raw = WORK / f"{name}-{array.size}.raw"
        self.raw.write_bytes(array.tobytes())


def serve(node: demo.Node, name: str, model: bytes) -> Path:
    path = WORK / f"{name}.onnx"
    path.write_bytes(model)
    node.grey("model", "add", name, str(path))
    while node.grey("model", "show", name)["proofs"]["self_test"] == "not ended":
        time.sleep(0.05)
    return path


def rate(
    bench: Bench, node: demo.Node, model: str, request: Request, connections: int, seconds: float, *more: str
) -> float:
    at = (urlsplit(node.url).netloc, f"/v2/models/{model}/infer", request.body, connections, seconds)
    found: float = bench.load(*at, request.header, *more)["requests_per_second"]
    return found


def tiny(bench: Bench, node: demo.Node, request: Request, model: Path) -> None:
    demo.step("a tiny model: what the server costs")
    of = lambda n, *more: rate(bench, node, "tiny", request, n, TINY_SECONDS, *more)  # noqa: E731
    echo = peers.Echo(bench.program)
    try:
        bare = lambda: bench.load(echo.address, "/", request.body, 64, TINY_SECONDS)["requests_per_second"]  # noqa: E731
        pairs = by_turns(lambda: of(64), bare)
        own = Spread.of([a for a, _ in pairs])
        bench.add("tiny, 64 connections / echo", ratios(pairs), Goal(least=0.70), note=f"{own.median:,.0f} requests/s")
    finally:
        echo.stop()
    api = peers.FastApi(model)
    try:
        peer = lambda: bench.load(api.address, "/infer", request.raw, 64, TINY_SECONDS)["requests_per_second"]  # noqa: E731
        pairs = by_turns(lambda: of(64), peer)
        theirs = Spread.of([b for _, b in pairs])
        bench.add(
            "tiny, 64 connections / FastAPI", ratios(pairs), Goal(least=3.5), note=f"theirs {theirs.median:,.0f}/s"
        )
    finally:
        api.stop()
    for n in (8, 64):
        bench.add(f"tiny, {n} connections / 1 connection", ratios(by_turns(lambda n=n: of(n), lambda: of(1))), Goal())
    before = forms(node)
    for n, goal in ((1, Goal()), (8, Goal()), (64, Goal(least=0.75))):
        pairs = by_turns(lambda n=n: of(n, "Grey-Prove: 1"), lambda n=n: of(n))
        bench.add(f"tiny, {n} connections, proofs on / off", ratios(pairs), goal)
    made = {form: count - before.get(form, 0) for form, count in forms(node).items()}
    print(f"   {made.get('batch', 0) / max(1, sum(made.values())):.0%} of these proofs in the batch form")


def latency(bench: Bench, node: demo.Node, request: Request, model: Path) -> None:
    demo.step("one connection: what is added to the runtime's own time")
    at = (urlsplit(node.url).netloc, "/v2/models/tiny/infer", request.body, 1, TINY_SECONDS)
    outside = lambda: bench.load(*at, request.header)["p50_seconds"] * 1e6  # noqa: E731
    inside = lambda: peers.raw(model, 1, 1, 1, TINY_SECONDS)["p50_seconds"] * 1e6  # noqa: E731
    pairs = by_turns(outside, inside)
    note = f"in process {Spread.of([b for _, b in pairs]).median:.0f} us, by Python"
    bench.add("added latency at 1 connection, p50", differences(pairs), Goal(most=150), ".0f", "us", note)


def tuned(bench: Bench, small: Request, text: Request, mlp: Path, large: Path) -> None:
    demo.step("the same, tuned: engines inside the node; two instances of one thread")
    config = WORK / "tuned.yaml"
    config.write_text(
        "isolation: inline\nmodels:\n  encoder: {instances: 2, threads: 1, batching: {max_batch_size: 8}}\n"
    )
    node = demo.Node(WORK / "tuned", "--config", str(config))
    try:
        serve(node, "tiny", mlp.read_bytes())
        serve(node, "encoder", large.read_bytes())
        echo = peers.Echo(bench.program)
        try:
            bare = lambda: bench.load(echo.address, "/", small.body, 64, TINY_SECONDS)["requests_per_second"]  # noqa: E731
            pairs = by_turns(lambda: rate(bench, node, "tiny", small, 64, TINY_SECONDS), bare)
        finally:
            echo.stop()
        own = Spread.of([a for a, _ in pairs])
        bench.add("tiny, 64 connections / echo, tuned", ratios(pairs), Goal(), note=f"{own.median:,.0f} requests/s")
        choice = peers.best_raw(large, 2.0)
        loop = lambda: peers.raw(large, *choice, ENCODER_SECONDS)["rows_per_second"]  # noqa: E731
        of = lambda *more: rate(bench, node, "encoder", text, 64, ENCODER_SECONDS, *more)  # noqa: E731
        bench.add("encoder, 64 connections / bare loop, tuned", ratios(by_turns(of, loop)), Goal())
        proven = lambda: of("Grey-Prove: 1")  # noqa: E731
        bench.add("encoder, 64 connections, proofs on / bare loop, tuned", ratios(by_turns(proven, loop)), Goal())
    finally:
        node.stop()


def encoder(bench: Bench, node: demo.Node, request: Request, model: Path) -> None:
    demo.step("an encoder of MiniLM's size: what is left of the machine")
    choice = peers.best_raw(model, 2.0)
    rows, processes, threads = choice
    note = f"bare loop: batch {rows}, {processes} x {threads} threads"
    bare = lambda: peers.raw(model, *choice, ENCODER_SECONDS)["rows_per_second"]  # noqa: E731
    of = lambda *more: rate(bench, node, "encoder", request, 64, ENCODER_SECONDS, *more)  # noqa: E731
    bench.add("encoder, 64 connections / bare loop", ratios(by_turns(of, bare)), Goal(least=0.95), note=note)
    for n in (1, 8):
        fewer = lambda n=n: rate(bench, node, "encoder", request, n, ENCODER_SECONDS)  # noqa: E731
        bench.add(f"encoder, {n} connections / bare loop", ratios(by_turns(fewer, bare)), Goal())
    proven = lambda: of("Grey-Prove: 1")  # noqa: E731
    bench.add("encoder, 64 connections, proofs on / bare loop", ratios(by_turns(proven, bare)), Goal(least=0.93))
    bench.add("encoder, 64 connections, proofs on / off", ratios(by_turns(proven, of)), Goal(least=0.98))


def hop(bench: Bench) -> None:
    demo.step("the hop to an engine host")
    identity = WORK / "identity.onnx"
    identity.write_bytes(models.identity(models.DTYPES["FP32"], ["N", "M"]).SerializeToString())
    import onnxruntime

    [library] = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.1.*")
    found, called = [], []
    for _ in range(ROUNDS):
        found.append(bench.own("hop", "--library", str(library), "--model", str(identity)))
        # The same call in a process of Python, which adds some microseconds and a fresh output of its own.
        called.append([peers.raw(identity, 1, 1, 1, 0.5, f["bytes"] // 4)["p50_seconds"] * 1e6 for f in found[-1]])
    for at, name in ((0, "4 KB"), (1, "6 MB")):
        copies = Spread.of([f[at]["copies_us"] for f in found]).median if at == 1 else 0.0
        over = Spread.of([f[at]["process_us"] - c[at] for f, c in zip(found, called, strict=True)])
        whole = Spread.of([f[at]["process_us"] for f in found]).median
        note = f"{whole:.0f} us in all" + (f", two copies of it {copies:.0f} us" if at == 1 else "")
        bench.add(f"hop against the call itself, {name}", over, Goal(most=30 + copies), ".0f", "us", note)


def embedded(bench: Bench, model: Path) -> None:
    demo.step("a node inside a Python process")
    program = Path(__file__).with_name("embedded.py")
    done = subprocess.run([sys.executable, program, model, str(ROUNDS)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    cost = differences(json.loads(done.stdout))
    bench.add("embedded node: Python time of a call above an empty coroutine's", cost, Goal(most=15), ".1f", "us")


class Runs:
    """Seconds of runs since it was made, as the node's metrics tell them."""

    def __init__(self, node: demo.Node) -> None:
        self.node = node
        self.before = self.read()

    def read(self) -> dict[tuple[str, str], float]:
        found = {}
        for line in self.node.request("GET", "/metrics").decode().splitlines():
            name, _, labels = line.partition("{")
            kind = name.removeprefix("grey_ai_execute_duration_seconds_")
            if kind in ("sum", "count"):
                found[labels.split('model="')[1].split('"')[0], kind] = float(line.rsplit(" ", 1)[1])
        return found

    def mean(self) -> dict[str, float]:
        now = self.read()
        runs = {m: now[m, "count"] - self.before.get((m, "count"), 0) for m, kind in now if kind == "count"}
        return {m: (now[m, "sum"] - self.before.get((m, "sum"), 0)) / n for m, n in runs.items() if n}


def fairness(bench: Bench, node: demo.Node, request: Request, text: Request) -> None:
    demo.step("a tenant with one connection, beside one that floods the same model over 64")
    serve(node, "medium", models.encoder(layers=2, width=128, heads=4).SerializeToString())
    for model, body in (("tiny", request), ("medium", text)):
        address = (urlsplit(node.url).netloc, f"/v2/models/{model}/infer", body.body)
        quiet = (*address, body.header, "Grey-Tenant: quiet")
        loud = (*address, FLOODING, BACKGROUND_SECONDS, body.header, "Grey-Tenant: loud")
        runs: list[float] = []

        def alone(quiet: Any = quiet) -> float:
            return bench.quiet(*quiet)

        def beside(quiet: Any = quiet, loud: Any = loud, model: str = model, runs: list[float] = runs) -> float:
            with bench.background(*loud):
                seen = Runs(node)
                p99 = alone(quiet)
                runs.append(seen.mean()[model])
            return p99

        pairs = by_turns(beside, alone)
        rises = [(a - b) / run for (a, b), run in zip(pairs, runs, strict=True)]
        a, b, run = (Spread.of(v).median * 1e3 for v in ([a for a, _ in pairs], [b for _, b in pairs], runs))
        note = f"p99 {b:.2f} ms alone, {a:.2f} ms beside; a run {run:.2f} ms"
        bench.add(f"rise of a quiet tenant's p99, {model}", Spread.of(rises), Goal(most=1), ".2f", "runs", note)


def products(times: int) -> bytes:
    """A model that multiplies so many matrices for each row."""
    rng = np.random.default_rng(times)
    node, value, kind = models.h.make_node, models.value, models.T.FLOAT
    nodes = [node("Mul", ["x", "c"], ["m0"])]
    nodes += [node("MatMul", [f"m{i}", "w"], [f"m{i + 1}"]) for i in range(times)]
    nodes += [node("ReduceMean", [f"m{times}"], ["y"], axes=[1, 2], keepdims=0)]
    constants = [models.constant("c", models.normal(rng, 32, 384)), models.constant("w", models.normal(rng, 384, 384))]
    made = models.model(nodes, [value("x", kind, ["N", 1, 1])], [value("y", kind, ["N"])], constants)
    return bytes(made.SerializeToString())


def many(bench: Bench, node: demo.Node, request: Request) -> None:
    demo.step("a tiny model among 20 that are all asked")
    one = Request("x", "FP32", np.ones((1, 1, 1), np.float32))
    names = [f"products{k}" for k in range(1, OTHERS + 1)]
    for k, name in enumerate(names, 1):
        serve(node, name, products(k))
    at = urlsplit(node.url).netloc
    quiet = (at, "/v2/models/tiny/infer", request.body, request.header)
    longest: list[float] = []
    own: list[float] = []

    def alone() -> float:
        return bench.quiet(*quiet)

    def among() -> float:
        with ExitStack() as others:
            for name in names:
                load = (at, f"/v2/models/{name}/infer", one.body, 1, BACKGROUND_SECONDS, one.header)
                others.enter_context(bench.background(*load))
            begun = Runs(node)
            while set(names) - begun.mean().keys():
                time.sleep(0.1)
            seen = Runs(node)
            p99 = alone()
            means = seen.mean()
        longest.append(max(means[n] for n in names if n in means))
        own.append(means["tiny"])
        return p99

    pairs = by_turns(among, alone)
    bounds = [b + run + batch for (_, b), run, batch in zip(pairs, longest, own, strict=True)]
    found = Spread.of([a / bound for (a, _), bound in zip(pairs, bounds, strict=True)])
    a, b, run = (Spread.of(v).median * 1e3 for v in ([a for a, _ in pairs], [b for _, b in pairs], longest))
    note = f"p99 {b:.2f} ms alone, {a:.2f} ms among them; the longest other run {run:.2f} ms"
    bench.add("tiny among 20: p99 / (alone + longest other run + batch)", found, Goal(most=1), ".2f", "", note)


def idle(bench: Bench) -> None:
    demo.step("an idle node without a model, from the executable")
    starts = []
    for i in range(STARTS):
        with tempfile.TemporaryDirectory() as data:
            begin = time.perf_counter()
            command = [bench.grey, "serve", "--http", "127.0.0.1:0", "--data", data, "--json"]
            node = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            try:
                assert node.stdout is not None
                node.stdout.readline()
                starts.append((time.perf_counter() - begin) * 1e3)
                if i == 0:
                    time.sleep(IDLE_SECONDS)
                    kib = [line for line in Path(f"/proc/{node.pid}/smaps_rollup").read_text().splitlines()]
                    pss = next(int(line.split()[1]) for line in kib if line.startswith("Pss:")) / 1024
                    bench.add("PSS after 10 s", Spread(pss, pss, pss), Goal(most=40), ".1f", "MiB")
            finally:
                node.terminate()
                node.wait(30)
    bench.add("`grey serve` to its ready line", Spread.of(starts), Goal(most=200), ".0f", "ms")


def forms(node: demo.Node) -> dict[str, float]:
    found = {}
    for line in node.request("GET", "/metrics").decode().splitlines():
        if line.startswith("grey_ai_proofs_total{"):
            found[line.split('form="')[1].split('"')[0]] = float(line.rsplit(" ", 1)[1])
    return found


def stages(bench: Bench) -> None:
    demo.step("the parts of a small request's way, each by itself and in a warm loop")
    with tempfile.TemporaryDirectory() as folder:
        hosts = check.for_hosts(Path(folder))
        for stage, times in check.STAGES.items():
            more = hosts if stage == "host-round-trip" else []
            # The difference is free of what starting costs.
            few, many = 16 * times, 64 * times
            seconds = lambda n, stage=stage, more=more: bench.own("stage", stage, "--times", str(n), *more)["seconds"]  # noqa: E731
            found = [(seconds(many) - seconds(few)) / (many - few) * 1e6 for _ in range(ROUNDS)]
            bench.add(f"part: {stage}", Spread.of(found), Goal(), ".2f", "us")


def alone(bench: Bench) -> None:
    demo.step("what proofs cost by themselves, on one core")
    runs = [bench.own("proofs") for _ in range(3)]
    for form in ("single", "batch"):
        found = Spread.of([run[f"verify_{form}_ns"] / 1e3 for run in runs])
        bench.add(f"verification, {form} form", found, Goal(most=150), ".0f", "us")
    data = bytes(HASHED_BYTES)
    openssl = []
    for _ in runs:
        begin = time.perf_counter()
        hashlib.sha256(data).digest()
        openssl.append(HASHED_BYTES / (time.perf_counter() - begin))
    own = [run["hash_bytes_per_second"] for run in runs]
    note = f"OpenSSL on this CPU {Spread.of(openssl).median / 1e9:.2f}"
    bench.add("SHA-256", Spread.of([b / 1e9 for b in own]), Goal(), ".2f", "GB/s", note)
    print("   signing, us per proof, by proofs of one run:")
    for count, by_form in runs[0]["signing_by_proofs_of_one_run"].items():
        single, batch = (by_form[f"{form}_ns"] / 1e3 / int(count) for form in ("single", "batch"))
        cheaper = "  <- cheaper" if batch < single else ""
        print(f"      {int(count):3}  single {single:6.1f}  batch {batch:6.1f}{cheaper}")


def write(bench: Bench) -> None:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench WRITE=1`; do not edit. Each ratio is the median of ten interleaved pairs of one run,",
        "with its 10-90 % range; a goal is met when the worse end is. Node, load and peers share the machine.",
        "",
        f"Machine: {cpu}, {os.cpu_count()} cores, Linux {platform.release()}; Python {platform.python_version()}.",
        f"The load generator took {max(bench.load_share):.0%} of the machine at most.",
        "",
        "| measure | found | goal | |",
        "|---|---|---|---|",
    ]
    for row in bench.report.rows:
        goal = row.goal.shown(row.form)
        verdict = ("met" if row.goal.met(row.found) else "**missed**") if goal else ""
        note = f" ({row.note})" if row.note else ""
        found = f"{row.found.shown(row.form)} {row.unit}"
        lines.append(f"| {row.measure}{note} | {found} | {goal} {row.unit if goal else ''} | {verdict} |")
    (ROOT / "docs" / "benchmarks.md").write_text("\n".join(line.rstrip() for line in lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("program", help="grey-bench")
    parser.add_argument("grey", help="the executable grey")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only", help="names of sections, by commas")
    args = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    demo.WORK.mkdir(exist_ok=True)
    bench = Bench(args.program, args.grey)
    rng = np.random.default_rng(1)
    small = Request("x", "FP32", rng.normal(size=(1, 8)).astype(np.float32))
    text = Request("ids", "INT64", rng.integers(0, 100, size=(1, 32)))
    node = demo.Node(WORK / "data")
    try:
        mlp = serve(node, "tiny", models.mlp().SerializeToString())
        large = serve(node, "encoder", models.encoder(layers=6, width=384, heads=12).SerializeToString())
        sections: dict[str, Callable[[], None]] = {
            "tiny": lambda: tiny(bench, node, small, mlp),
            "latency": lambda: latency(bench, node, small, mlp),
            "encoder": lambda: encoder(bench, node, text, large),
            "tuned": lambda: tuned(bench, small, text, mlp, large),
            "fairness": lambda: fairness(bench, node, small, text),
            "many": lambda: many(bench, node, small),
            "hop": lambda: hop(bench),
            "embedded": lambda: embedded(bench, mlp),
            "idle": lambda: idle(bench),
            "alone": lambda: alone(bench),
            "stages": lambda: stages(bench),
        }
        chosen = args.only.split(",") if args.only else list(sections)
        for name in chosen:
            sections[name]()
    finally:
        node.stop()
    if bench.load_share:
        print(f"   the load generator took {max(bench.load_share):.0%} of the machine at most")
    if args.write:
        write(bench)


if __name__ == "__main__":
    main()
