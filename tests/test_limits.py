"""Bounds: what is too much is refused in words, and nothing else suffers from it."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import FOREVER, GreyNode, busy, gauge, in_background, spin, wait_until


def strings(*elements: bytes) -> tuple[bytes, dict[str, str]]:
    """A binary request for `identity_bytes` with one row of two elements."""
    data = b"".join(struct.pack("<I", len(e)) + e for e in elements)
    tensor = {"name": "x", "datatype": "BYTES", "shape": [1, 2], "parameters": {"binary_data_size": len(data)}}
    header = json.dumps({"inputs": [tensor]}).encode()
    return header + data, {"Inference-Header-Content-Length": str(len(header))}


def mlp(node: GreyNode) -> int:
    x = {"name": "x", "datatype": "FP32", "shape": [1, 8], "data": [1] * 8}
    return node.infer("mlp", {"inputs": [x]}).status


def test_a_full_queue_refuses_with_a_time_to_come_back(start: Any, models: Path) -> None:
    node = start(config="limits: {queue_rows_max: 2}\n")
    node.add("spin", models / "spin.onnx")
    node.add("mlp", models / "mlp.onnx")

    def call(times: int) -> Any:
        try:
            return node.infer("spin", spin(times))
        except OSError as e:  # the node ends before this one does
            return e

    calls = [in_background(lambda: call(FOREVER))]
    busy(node, "spin")
    calls += [in_background(lambda: call(1)) for _ in range(2)]
    wait_until(lambda: gauge(node, "grey_ai_queue_rows", model="spin") == 2, "the queue to be full")
    full = node.infer("spin", spin(1))
    assert full.status == 503
    assert "2 rows wait, at most 2 may (queue_rows_max)" in full.error
    assert int(full.headers["Retry-After"]) >= 1
    assert gauge(node, "grey_ai_rejected_total", reason="overloaded") == 1
    assert mlp(node) == 200, "other models have queues of their own"
    node.kill()
    for thread, _ in calls:
        thread.join()


def test_a_body_over_256_mib_is_refused_by_its_head(start: Any) -> None:
    node = start()
    host, port = node.netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(
            b"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (2**28 + 1)
        )
        answer = client.recv(4096).decode()
    assert answer.startswith("HTTP/1.1 413 "), answer
    assert "larger than 268435456 bytes (limits.body_bytes_max)" in answer


def test_strings_that_are_not_utf8_are_refused_alone(start: Any, models: Path) -> None:
    # Four rows would share a run: the bad one must not be among them.
    node = start(
        config="batching: {max_batch_size: 4, hold: fill, max_wait_ms: 500}\n"
        "models:\n  identity_bytes: {batch_axis: first}\n"
    )
    node.add("identity_bytes", models / "identity_bytes.onnx")
    replies: dict[int, Any] = {}
    given = [(b"a", b"b"), (b"", "grün".encode()), (b"ok", b"\xff\xfe"), (b"c", b"d")]

    def client(i: int) -> None:
        body, headers = strings(*given[i])
        replies[i] = node.infer("identity_bytes", body, headers)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(len(given))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert replies[2].status == 400, replies[2].body
    assert "'x'" in replies[2].error
    assert "element 1" in replies[2].error
    assert "UTF-8" in replies[2].error
    for i in [0, 1, 3]:
        assert replies[i].status == 200, replies[i].body
        assert replies[i].json["outputs"][0]["data"] == [e.decode() for e in given[i]]


@pytest.mark.parametrize(("file", "says"), [("rank", "70 dimensions"), ("inputs", "2000 inputs")])
def test_a_model_with_an_absurd_signature_is_not_registered(start: Any, models: Path, file: str, says: str) -> None:
    node = start()
    node.add("mlp", models / "mlp.onnx")
    content = (models / "absurd" / f"{file}.onnx").read_bytes()
    reply = node.request("POST", f"/grey/v1/models/{file}?file=model.onnx", content)
    assert reply.status == 400, reply.body[:300]
    assert says in reply.error
    assert mlp(node) == 200
    assert node.stop() == 0
    node = start()
    assert [m["id"] for m in node.cli_json("model", "list")] == ["mlp"]
    wait_until(lambda: mlp(node) == 200, "the good model to be restored")


@pytest.mark.parametrize("path", ["a" * 300 + ".onnx", "a" * 300 + "/model.onnx"])
def test_a_file_name_that_no_file_system_takes_is_refused(start: Any, models: Path, path: str) -> None:
    node = start()
    content = (models / "mlp.onnx").read_bytes()
    reply = node.request("POST", f"/grey/v1/models/m?file={path}", content)
    assert reply.status == 400, reply.body
    assert "longer than 200 bytes" in reply.error
    longest = "a" * 195 + ".onnx"
    assert node.request("POST", f"/grey/v1/models/m?file={longest}&load=false", content).status == 201
    assert [m["version"] for m in node.cli_json("model", "list")] == ["1"]


def test_a_host_has_nothing_of_the_node_s_environment_that_it_does_not_need(start: Any, models: Path) -> None:
    secrets = {"AWS_SECRET_ACCESS_KEY": "hidden1", "GREY_TOKEN": "hidden2", "DATABASE_URL": "hidden3"}
    node = start(env=secrets)
    node.add("mlp", models / "mlp.onnx")
    if os.geteuid() != 0:
        pytest.fail("a host is not dumpable: only root can read its environment")
    own = Path(f"/proc/{node.process.pid}/environ").read_bytes()
    assert b"AWS_SECRET_ACCESS_KEY=hidden1" in own, "the node has it"
    [pid] = node.host_pids("mlp")
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"hidden" not in environment
    for name in secrets:
        assert name.encode() not in environment
    assert mlp(node) == 200
