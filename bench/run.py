"""`make bench`: ratios measured in one run, each pair taking turns, so that a slow moment of the machine hits both.

Node and load share the machine's cores. What counts is the ratio of neighbours: its median, and its 10-90 % range.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "demo"), str(ROOT / "tests" / "support")]

import models  # noqa: E402
import run as demo  # noqa: E402

WORK = ROOT / ".bench"
LOAD = sys.argv[1]
ROUNDS = 10
CONNECTIONS = (1, 8, 64)
SECONDS = 1.5
HASHED_BYTES = 64 << 20


def load(node: demo.Node, model: str, body: Path, connections: int, *headers: str) -> dict[str, float]:
    """What `connections` clients got in SECONDS."""
    command = [LOAD, "load", "--address", urlsplit(node.url).netloc, "--path", f"/v2/models/{model}/infer"]
    command += ["--body", str(body), "--connections", str(connections), "--seconds", str(SECONDS)]
    for header in headers:
        command += ["--header", header]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    report: dict[str, float] = json.loads(done.stdout)
    return report


def rate(node: demo.Node, model: str, body: Path, connections: int, *headers: str) -> float:
    return load(node, model, body, connections, *headers)["requests_per_second"]


def ratios(pairs: list[tuple[float, float]]) -> str:
    found = sorted(a / b for a, b in pairs)
    low, high = found[len(found) // 10], found[-1 - len(found) // 10]
    return f"{statistics.median(found):.3f} ({low:.3f}-{high:.3f})"


def request(name: str, datatype: str, array: np.ndarray) -> Path:
    path = WORK / f"{name}-{array.size}.json"
    tensor = {"name": name, "datatype": datatype, "shape": list(array.shape), "data": array.ravel().tolist()}
    path.write_text(json.dumps({"inputs": [tensor]}))
    return path


def serve(node: demo.Node, name: str, model: bytes) -> None:
    path = WORK / f"{name}.onnx"
    path.write_bytes(model)
    node.grey("model", "add", name, str(path))
    while node.grey("model", "show", name)["proofs"]["self_test"] == "not ended":
        time.sleep(0.05)


def concurrency(node: demo.Node, body: Path) -> None:
    demo.step("what concurrency gains: requests per second of a tiny model")
    rates: dict[int, list[float]] = {n: [] for n in CONNECTIONS}
    for _ in range(ROUNDS):
        for n in CONNECTIONS:
            rates[n].append(rate(node, "tiny", body, n))
    for n in CONNECTIONS:
        pairs = list(zip(rates[n], rates[1], strict=True))
        print(f"   {n:3} connections  {statistics.median(rates[n]):9,.0f}/s  ratio to one connection {ratios(pairs)}")


def proven(node: demo.Node, model: str, body: Path, connections: int, wanted: float | None) -> None:
    before = forms(node)
    pairs = []
    for i in range(ROUNDS):
        both: list[Callable[[], float]] = [
            lambda: rate(node, model, body, connections, "Grey-Prove: 1"),
            lambda: rate(node, model, body, connections),
        ]
        # Who goes first takes turns, too.
        order = (0, 1) if i % 2 == 0 else (1, 0)
        found = dict(zip(order, [both[j]() for j in order], strict=True))
        pairs.append((found[0], found[1]))
    made = {form: n - before.get(form, 0) for form, n in forms(node).items()}
    share = made.get("batch", 0) / max(1, sum(made.values()))
    aim = "" if wanted is None else f", wanted >= {wanted}"
    off = statistics.median(b for _, b in pairs)
    print(f"   {model:8} {connections:3} connections  {off:9,.0f}/s without  ratio with proofs {ratios(pairs)}{aim};")
    print(f"   {'':8} {share:.0%} of the proofs in the batch form")


def forms(node: demo.Node) -> dict[str, float]:
    found = {}
    for line in node.request("GET", "/metrics").decode().splitlines():
        if line.startswith("grey_ai_proofs_total{"):
            found[line.split('form="')[1].split('"')[0]] = float(line.rsplit(" ", 1)[1])
    return found


def alone() -> None:
    demo.step("what proofs cost by themselves, on one core")
    report: dict[str, Any] = json.loads(
        subprocess.run([LOAD, "proofs"], capture_output=True, text=True, check=True).stdout
    )
    data = bytes(HASHED_BYTES)
    begin = time.perf_counter()
    hashlib.sha256(data).digest()
    openssl = HASHED_BYTES / (time.perf_counter() - begin)
    own = report["hash_bytes_per_second"]
    print(f"   verify       {report['verify_single_ns'] / 1e3:.0f} us single form, ", end="")
    print(f"{report['verify_batch_ns'] / 1e3:.0f} us batch form, wanted <= 150 us")
    print(
        f"   SHA-256      {own / 1e9:.2f} GB/s; OpenSSL on this CPU {openssl / 1e9:.2f} GB/s: ratio {own / openssl:.2f}"
    )
    print("   signing, us per proof, by proofs of one run:")
    for count, by_form in report["signing_by_proofs_of_one_run"].items():
        single, batch = (by_form[f"{form}_ns"] / 1e3 / int(count) for form in ("single", "batch"))
        print(
            f"      {int(count):3}  single {single:6.1f}  batch {batch:6.1f}{'  <- cheaper' if batch < single else ''}"
        )


def main() -> None:
    WORK.mkdir(exist_ok=True)
    rng = np.random.default_rng(1)
    tiny = request("x", "FP32", rng.normal(size=(1, 8)).astype(np.float32))
    text = request("ids", "INT64", rng.integers(0, 100, size=(1, 32)))
    demo.WORK.mkdir(exist_ok=True)
    node = demo.Node(WORK / "data")
    try:
        serve(node, "tiny", models.mlp().SerializeToString())
        serve(node, "encoder", models.encoder(layers=6, width=384, heads=12).SerializeToString())
        concurrency(node, tiny)
        demo.step("what proofs cost under load")
        proven(node, "tiny", tiny, 1, None)
        proven(node, "tiny", tiny, 8, None)
        proven(node, "tiny", tiny, 64, 0.75)
        proven(node, "encoder", text, 16, 0.98)
    finally:
        node.stop()
    alone()


if __name__ == "__main__":
    main()
