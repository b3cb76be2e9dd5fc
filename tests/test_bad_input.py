"""Bad input gets a clear answer with the right code, and the next request is served."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import GreyNode


def x(data: Any = None, shape: Any = None, datatype: str = "FP32", **extra: Any) -> dict[str, Any]:
    """A request for `mlp`."""
    data = [0.5] * 8 if data is None else data
    return {"inputs": [{"name": "x", "datatype": datatype, "shape": shape or [1, 8], "data": data, **extra}]}


def good(node: GreyNode) -> None:
    assert node.infer("mlp", x()).status == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (x([0.5] * 7), "7"),
        (x([0.5] * 9), "more than the 8 elements"),
        (x(shape=[1, 9], data=[0.5] * 9), "expected [-1, 8], got [1, 9]"),
        (x(shape=[8]), "expected [-1, 8], got [8]"),
        (x(shape=[-1, 8]), "x"),
        (x(shape=[0, 8], data=[]), "at least 1"),
        (x(shape=[2**62, 8]), "x"),
        (x([None] * 8), "x"),
        (x(["a"] * 8), "x"),
        (x([True] * 8), "x"),
        (x([[0.5] * 4, [0.5] * 4]), "x"),
        (x(datatype="FP31"), "FP31"),
        (x(datatype="FP64"), "expected FP32, got FP64"),
        ({"inputs": x()["inputs"] * 2}, "twice"),
        ({}, "inputs"),
        ([], ""),
        ({"inputs": {}}, ""),
        ({"inputs": [{"name": "x"}]}, ""),
        (x() | {"outputs": [{"name": "nope"}]}, "nope"),
        (x() | {"parameters": {"timeout": -5}}, "timeout"),
        (b'{"inputs": [', ""),
        (b"\xff\xfe{}", "UTF-8"),
        (b"[" * 200_000, ""),
        (json.dumps(x()).replace("0.5", "NaN", 1), ""),
        (json.dumps(x()).replace("0.5", "1e999", 1), "x"),
    ],
)
def test_a_bad_body_is_named(node: GreyNode, body: Any, says: str) -> None:
    reply = node.infer("mlp", body)
    assert reply.status == 400, reply.body
    assert says in reply.error
    good(node)


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("INT8", 300),
        ("INT8", -129),
        ("UINT8", -1),
        ("INT64", 2**63),
        ("UINT64", 2**64),
        ("INT32", 1.5),
        ("UINT16", 65536),
    ],
)
def test_integers_out_of_range_are_not_wrapped(node: GreyNode, datatype: str, value: Any) -> None:
    body = {"inputs": [{"name": "x", "datatype": datatype, "shape": [1, 2], "data": [1, value]}]}
    reply = node.infer(f"identity_{datatype.lower()}", body)
    assert reply.status == 400
    assert "'x'" in reply.error
    assert datatype in reply.error


def test_inputs_must_have_as_many_rows(node: GreyNode) -> None:
    one = {"name": "INPUT0", "datatype": "INT32", "shape": [1, 16], "data": [1] * 16}
    two = {"name": "INPUT1", "datatype": "INT32", "shape": [2, 16], "data": [1] * 32}
    reply = node.infer("simple", {"inputs": [one, two]})
    assert reply.status == 400
    assert "dimension 0 ('N') is 2, but it is 1 in input 'INPUT0'" in reply.error
    missing = node.infer("simple", {"inputs": [one]})
    assert missing.status == 400
    assert "input 'INPUT1' for model 'simple' is missing" in missing.error


def binary(header: dict[str, Any], data: bytes, length: int | None = None) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(header).encode()
    return text + data, {"Inference-Header-Content-Length": str(len(text) if length is None else length)}


@pytest.mark.parametrize(
    ("size", "sent", "length", "says"),
    [
        (32, 31, None, "x"),
        (32, 33, None, "1"),
        (31, 31, None, "x"),
        (2**63, 32, None, ""),
        (-1, 32, None, ""),
        (32, 32, 10**9, ""),
        (32, 32, -3, ""),
    ],
)
def test_binary_sizes_that_lie(node: GreyNode, size: int, sent: int, length: int | None, says: str) -> None:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 8], "parameters": {"binary_data_size": size}}
    body, headers = binary({"inputs": [tensor]}, b"\0" * sent, length)
    reply = node.infer("mlp", body, headers)
    assert reply.status == 400, reply.body
    assert says in reply.error
    good(node)


def test_a_bool_is_0_or_1(node: GreyNode) -> None:
    tensor = {"name": "x", "datatype": "BOOL", "shape": [1, 2], "parameters": {"binary_data_size": 2}}
    body, headers = binary({"inputs": [tensor]}, b"\1\2")
    reply = node.infer("identity_bool", body, headers)
    assert reply.status == 400
    assert "neither 0 nor 1" in reply.error


def test_bad_compression(node: GreyNode) -> None:
    for coding, body in [("gzip", b"no gzip"), ("deflate", b"\x78\x9cno"), ("gzip", gzip.compress(b"{}")[:-5])]:
        reply = node.infer("mlp", body, {"Content-Encoding": coding})
        assert reply.status == 400, (coding, reply.body)
    assert node.infer("mlp", b"{}", {"Content-Encoding": "zstd"}).status == 415
    good(node)


def test_names_and_routes(node: GreyNode) -> None:
    assert node.infer("nope", x()).status == 404
    for tricky in ["..%2f..%2fetc", "%2e%2e", ".hidden", "a%00b", "x" * 200]:
        assert node.infer(tricky, x()).status in {400, 404}, tricky
    assert node.request("GET", "/v2/nothing").status == 404
    wrong = node.request("DELETE", "/v2/models/mlp")
    assert wrong.status == 405
    assert node.request("POST", "/v2/systemsharedmemory/region/r/register", "{}").status == 501


def test_the_body_has_a_limit(start: Any, models: Path) -> None:
    node = start(config="limits:\n  body_bytes_max: 100000\n")
    node.add("mlp", models / "mlp.onnx")
    big = json.dumps(x()) + " " * 100_000
    assert node.infer("mlp", big).status == 413
    bomb = gzip.compress(json.dumps(x()).encode() + b" " * 10_000_000)
    assert len(bomb) < 100_000
    assert node.infer("mlp", bomb, {"Content-Encoding": "gzip"}).status == 413
    good(node)


def test_the_queue_and_bytes_in_flight_are_bounded(start: Any, models: Path) -> None:
    node = start(config="limits:\n  queue_rows_max: 4\n  inflight_bytes_max: 20000\n")
    node.add("mlp", models / "mlp.onnx")
    many = node.infer("mlp", x(data=[0.5] * 40, shape=[5, 8]))
    assert many.status == 413
    assert "queue_rows_max" in many.error
    large = node.infer("mlp", json.dumps(x()) + " " * 20_000)
    assert large.status == 503
    assert "inflight_bytes_max" in large.error
    assert int(large.headers["Retry-After"]) >= 1
    good(node)


def test_state_changes_need_a_local_host_and_no_foreign_origin(node: GreyNode) -> None:
    path = "/v2/repository/models/mlp/load"
    for headers in [
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Host": "localhost.evil.example:8000"},
    ]:
        reply = node.request("POST", path, "{}", headers)
        assert reply.status == 403, headers
    assert node.request("POST", path, "{}", {"Host": "localhost"}).status == 200
    assert node.request("DELETE", "/grey/v1/models/mlp", None, {"Host": "evil.example"}).status == 403


@pytest.mark.parametrize(
    ("file", "says"),
    [("truncated", "cannot be opened"), ("text", "cannot be opened"), ("empty", "empty"), ("sequence", "sequence")],
)
def test_a_file_that_is_no_model_is_not_registered(node: GreyNode, models: Path, file: str, says: str) -> None:
    failed = node.cli("model", "add", f"bad_{file}", str(models / f"{file}.onnx"), code=1)
    assert says in failed.stderr
    assert "bad_" not in node.cli("model", "list").stdout
    wrong = node.cli("model", "add", "readme", str(Path(__file__)), code=1)
    assert ".onnx" in wrong.stderr


def test_a_model_that_fails_in_the_run_stays_ready(node: GreyNode) -> None:
    bad = {"inputs": [{"name": "ids", "datatype": "INT64", "shape": [1, 2], "data": [3, 99]}]}
    pids = node.host_pids("gather")
    reply = node.infer("gather", bad)
    assert reply.status == 500
    assert "model 'gather' version '1' failed on this input" in reply.error
    bad["inputs"][0]["data"] = [3, 9]
    assert node.infer("gather", bad).status == 200
    assert node.host_pids("gather") == pids
