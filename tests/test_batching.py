"""Batching through a real node: who shares a run, and that everybody gets their own rows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from conftest import GreyNode, wait_until


def tensor(x: np.ndarray) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}


def together(calls: list[Callable[[], Any]]) -> list[Any]:
    """All calls at once; their results in order."""
    results: list[Any] = [None] * len(calls)
    barrier = threading.Barrier(len(calls))

    def one(i: int) -> None:
        barrier.wait()
        results[i] = calls[i]()

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(calls))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return results


def batches(node: GreyNode, model: str) -> dict[int, int]:
    stats = node.request("GET", f"/v2/models/{model}/stats").json["model_stats"][0]
    return {b["batch_size"]: b["compute_infer"]["count"] for b in stats["batch_stats"]}


@pytest.fixture
def mlp(models: Path) -> Callable[[np.ndarray], np.ndarray]:
    session = onnxruntime.InferenceSession(models / "mlp.onnx")
    return lambda x: session.run(None, {"x": x})[0]


def test_fill_makes_one_batch_of_eight(start: Any, models: Path, mlp: Any) -> None:
    # The wait is far longer than the test may take: only a full batch can end it.
    node = start(config="batching:\n  max_batch_size: 8\n  hold: fill\n  max_wait_ms: 60000\n")
    node.add("mlp", models / "mlp.onnx")
    rows = [np.full((1, 8), i, np.float32) for i in range(8)]
    replies = together([lambda x=x: node.infer("mlp", {"inputs": [tensor(x)]}) for x in rows])
    for x, reply in zip(rows, replies, strict=True):
        np.testing.assert_allclose(reply.json["outputs"][0]["data"], mlp(x)[0], rtol=1e-4)
    assert batches(node, "mlp") == {8: 1}


def test_fill_ends_after_its_wait(start: Any, models: Path) -> None:
    node = start(config="batching:\n  hold: fill\n  max_wait_ms: 50\n")
    node.add("mlp", models / "mlp.onnx")
    assert node.infer("mlp", {"inputs": [tensor(np.ones((3, 8), np.float32))]}).status == 200
    assert batches(node, "mlp") == {3: 1}


CONFIGS = {
    "defaults": "",
    "two instances": "models:\n  mlp:\n    instances: 2\n",
    "multiples": "batching:\n  pad_to_multiple: 8\n",
    "small batches": "batching:\n  max_batch_size: 4\n",
    "declared": "models:\n  mlp:\n    batch_axis: first\n",
    "inline": "isolation: inline\n",
    "two threads": "models:\n  mlp:\n    threads: 2\n",
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_everybody_gets_their_own_rows(start: Any, models: Path, mlp: Any, config: str) -> None:
    node = start(config=config)
    node.add("mlp", models / "mlp.onnx")
    assert node.show("mlp")["batching"]["enabled"]
    wait_until(lambda: len(node.show("mlp")["hosts"]) == (2 if "instances" in config else 1), "every instance")
    rng = np.random.default_rng(3)
    wrong: list[Any] = []

    def client(seed: int) -> None:
        for i in range(15):
            # Up to 40 rows: more than a batch holds.
            x = rng.normal(size=([1, 2, 3, 40][(seed + i) % 4], 8)).astype(np.float32)
            reply = node.infer("mlp", {"inputs": [tensor(x)]})
            y = np.array(reply.json["outputs"][0]["data"], np.float32).reshape(-1, 3)
            if y.shape != (len(x), 3) or not np.allclose(y, mlp(x), rtol=1e-4):
                wrong.append((x, y))

    together([lambda k=k: client(k) for k in range(8)])
    assert not wrong
    largest = 4 if "max_batch_size" in config else 32
    assert max(batches(node, "mlp")) <= largest


def test_batching_can_be_declared_off(start: Any, models: Path) -> None:
    node = start(config="models:\n  mlp:\n    batch_axis: none\n")
    node.add("mlp", models / "mlp.onnx")
    assert (
        node.show("mlp")["batching"] | {"enabled": False, "reason": "declared: batch_axis is none"}
        == node.show("mlp")["batching"]
    )
    replies = together([lambda: node.infer("mlp", {"inputs": [tensor(np.ones((5, 8), np.float32))]}) for _ in range(6)])
    assert [r.status for r in replies] == [200] * 6
    assert set(batches(node, "mlp")) <= {1, 5}


def test_tenants_are_counted(start: Any, models: Path) -> None:
    node = start()
    node.add("mlp", models / "mlp.onnx")
    body = {"inputs": [tensor(np.ones((1, 8), np.float32))]}
    assert node.infer("mlp", body, {"Grey-Tenant": "a"}).status == 200
    assert node.infer("mlp", body | {"parameters": {"tenant": "b"}}).status == 200
    assert node.infer("mlp", body, {"Grey-Tenant": "../x"}).status == 400
    metrics = node.request("GET", "/metrics").body.decode()
    for t in ["a", "b"]:
        assert f'grey_ai_inferences_total{{model="mlp",version="1",tenant="{t}",status="ok"}} 1' in metrics
    for name in ["inference_duration_seconds", "queue_duration_seconds", "batch_size"]:
        assert f'grey_ai_{name}_count{{model="mlp",version="1"}} 2' in metrics
