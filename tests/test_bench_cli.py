"""`grey bench`: the load it makes, what it counts, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import GreyNode, wait_until


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[GreyNode]:
    node = GreyNode(tmp_path_factory.mktemp("node") / "data")
    try:
        for name in ["mlp", "simple", "identity_bytes", "spin"]:
            node.add(name, models / f"{name}.onnx")
        yield node
    finally:
        node.kill()


def bench(node: GreyNode, *args: str) -> Any:
    return node.cli_json("bench", "--warmup", "0s", *args)


def inferred(node: GreyNode, model: str) -> int:
    [stats] = node.request("GET", f"/v2/models/{model}/stats").json["model_stats"]
    return int(stats["inference_stats"]["success"]["count"])


def test_so_many_requests_are_sent_and_counted(node: GreyNode) -> None:
    before = inferred(node, "mlp")
    report = bench(node, "mlp", "--requests", "300", "--concurrency", "4", "--rows", "3")
    # One more, which finds out whether the model takes them at all.
    assert inferred(node, "mlp") == before + 301
    assert (report["answered"], report["failed"], report["errors"]) == (300, 0, [])
    assert (report["rows_per_request"], report["connections"], report["interrupted"]) == (3, 4, False)
    assert report["rows_per_second"] == pytest.approx(3 * report["requests_per_second"])
    latency = report["latency_seconds"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    server = report["server"]
    assert server["requests"] == 300
    assert server["execute_seconds"] > 0
    parts = ["queue_seconds", "execute_seconds", "copy_seconds", "rest_seconds"]
    assert sum(server[p] for p in parts) == pytest.approx(server["all_seconds"], rel=1e-6)
    assert sum(b["rows"] * b["runs"] for b in server["batches"]) == 900
    assert all(b["rows"] % 3 == 0 for b in server["batches"])


def test_a_rate_is_kept(node: GreyNode) -> None:
    report = bench(node, "mlp", "--rate", "50", "--duration", "2s")
    assert report["rate"] == 50
    # No timing is asserted: so many are due within that time, however late they are.
    assert report["answered"] + report["failed"] <= 100


def test_inputs_are_made_up_or_given(node: GreyNode, tmp_path: Path) -> None:
    assert bench(node, "simple", "--requests", "5")["answered"] == 5
    assert bench(node, "identity_bytes", "--requests", "5", "--shape", "x=3x2")["answered"] == 5
    np.save(tmp_path / "x.npy", np.zeros((2, 8), np.float32))
    report = bench(node, "mlp", "--requests", "5", "--input", str(tmp_path / "x.npy"))
    assert (report["answered"], report["rows_per_request"]) == (5, 2)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [4, 8], "data": [0] * 32}]}
    (tmp_path / "x.json").write_text(json.dumps(body))
    report = bench(node, "mlp", "--requests", "5", "--input", str(tmp_path / "x.json"))
    assert (report["answered"], report["rows_per_request"]) == (5, 4)


def test_the_table_is_for_people(node: GreyNode) -> None:
    told = node.cli("bench", "mlp", "--duration", "500ms").stdout
    for word in [
        "8 connections, 1 row per request",
        "REQUESTS/S",
        "P99",
        "queue",
        "execute",
        "outside",
        "ROWS OF A RUN",
    ]:
        assert word in told, told
    assert "\x1b" not in told


def test_failures_are_told_by_kind(node: GreyNode) -> None:
    """A model that is unloaded under load: its requests are refused, and the report says so."""
    command = [sys.executable, "-m", "grey", "--json", "--url", node.url, "bench", "simple", "--duration", "4s"]
    before = inferred(node, "simple")
    running = subprocess.Popen([*command, "--warmup", "0s"], stdout=subprocess.PIPE, text=True)
    wait_until(lambda: inferred(node, "simple") > before + 20, "the load")
    node.cli("model", "unload", "simple")
    out, _ = running.communicate(timeout=60)
    report = json.loads(out)
    assert running.returncode == 0
    assert report["answered"] > 20
    assert report["failed"] > 0
    [error] = report["errors"]
    assert error["count"] == report["failed"]
    assert "503" in error["kind"] or error["kind"] == "unavailable"
    assert "unloaded" in error["example"]
    node.cli("model", "load", "simple")


def test_an_interrupt_ends_it_with_the_table_so_far(node: GreyNode) -> None:
    command = [sys.executable, "-m", "grey", "--json", "--url", node.url, "bench", "mlp", "--duration", "10m"]
    before = inferred(node, "mlp")
    running = subprocess.Popen([*command, "--warmup", "0s"], stdout=subprocess.PIPE, text=True)
    wait_until(lambda: inferred(node, "mlp") > before + 100, "the load")
    os.kill(running.pid, signal.SIGINT)
    out, _ = running.communicate(timeout=60)
    report = json.loads(out)
    assert running.returncode == 0
    assert report["interrupted"]
    assert report["answered"] > 0


def test_a_node_that_ends_meanwhile_is_told(start: Any, models: Path) -> None:
    node = start()
    node.add("mlp", models / "mlp.onnx")
    command = [sys.executable, "-m", "grey", "--json", "--url", node.url, "bench", "mlp", "--duration", "4s"]
    running = subprocess.Popen([*command, "--warmup", "0s"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: inferred(node, "mlp") > 100, "the load")
    time.sleep(0.1)
    node.kill()
    out, _ = running.communicate(timeout=60)
    report = json.loads(out)
    assert running.returncode == 0
    assert report["server"] is None
    assert {e["kind"] for e in report["errors"]} == {"connection"}
