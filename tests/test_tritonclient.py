"""All of the Open Inference Protocol through the official client."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
from conftest import GreyNode, wait_until
from tritonclient.utils import InferenceServerException

ARRAYS = {
    "BOOL": np.array([[True, False], [False, True]]),
    "UINT8": np.array([[0, 255], [1, 2]], np.uint8),
    "UINT16": np.array([[0, 65535], [1, 2]], np.uint16),
    "UINT32": np.array([[0, 2**32 - 1], [1, 2]], np.uint32),
    "UINT64": np.array([[0, 2**64 - 1], [1, 2]], np.uint64),
    "INT8": np.array([[-128, 127], [1, 2]], np.int8),
    "INT16": np.array([[-(2**15), 2**15 - 1], [1, 2]], np.int16),
    "INT32": np.array([[-(2**31), 2**31 - 1], [1, 2]], np.int32),
    "INT64": np.array([[-(2**63), 2**63 - 1], [1, 2]], np.int64),
    "FP16": np.array([[0.1, -65504], [6e-8, np.inf]], np.float16),
    "BF16": np.array([[0.1, -3e38], [1e-38, np.inf]], ml_dtypes.bfloat16),
    "FP32": np.array([[0.1, -3e38], [1e-45, np.nan]], np.float32),
    "FP64": np.array([[0.1, -1e308], [5e-324, -0.0]], np.float64),
    "BYTES": np.array([["", "grün"], ["a\0b", "x" * 3000]], np.object_),
}


@pytest.fixture
def client(node: GreyNode) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(node.netloc)


def tensor(name: str, datatype: str, array: np.ndarray, binary: bool = True) -> triton.InferInput:
    given = triton.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array, binary_data=binary)
    return given


def as_bytes(array: np.ndarray) -> Any:
    if array.dtype == np.object_:
        return [x if isinstance(x, bytes) else x.encode() for x in array.ravel()]
    return array.tobytes()


@pytest.mark.parametrize("datatype", sorted(ARRAYS))
@pytest.mark.parametrize("binary_out", [True, False])
def test_every_datatype_keeps_its_bits(client: triton.InferenceServerClient, datatype: str, binary_out: bool) -> None:
    array = ARRAYS[datatype]
    if not binary_out and datatype in {"FP16", "BF16", "FP32"}:
        array = np.array([[0.1, -2.5], [1e-3, 7]], array.dtype)  # JSON has no NaN and no infinity
    answer = client.infer(
        f"identity_{datatype.lower()}",
        [tensor("x", datatype, array)],
        outputs=[triton.InferRequestedOutput("y", binary_data=binary_out)],
    )
    output = answer.get_output("y")
    assert (output["datatype"], output["shape"]) == (datatype, [2, 2])
    if binary_out or datatype not in {"FP16", "BF16"}:
        assert as_bytes(answer.as_numpy("y")) == as_bytes(array)


@pytest.mark.parametrize("datatype", sorted(set(ARRAYS) - {"FP16", "BF16"}))
def test_json_tensors(client: triton.InferenceServerClient, datatype: str) -> None:
    array = ARRAYS[datatype]
    if datatype == "FP32":
        array = np.array([[0.1, -3e38], [1e-45, 16777217]], np.float32)
    answer = client.infer(
        f"identity_{datatype.lower()}",
        [tensor("x", datatype, array, binary=False)],
        outputs=[triton.InferRequestedOutput("y", binary_data=False)],
    )
    assert as_bytes(answer.as_numpy("y")) == as_bytes(array)


def test_simple_adds_and_subtracts(client: triton.InferenceServerClient) -> None:
    a, b = np.arange(16, dtype=np.int32).reshape(1, 16), np.ones((1, 16), np.int32)
    answer = client.infer(
        "simple",
        [tensor("INPUT0", "INT32", a), tensor("INPUT1", "INT32", b, binary=False)],
        outputs=[triton.InferRequestedOutput("OUTPUT1"), triton.InferRequestedOutput("OUTPUT0", binary_data=False)],
        request_id="my id",
        model_version="1",
    )
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT0"), a + b)
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT1"), a - b)
    response = answer.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("my id", "simple", "1")
    assert [o["name"] for o in response["outputs"]] == ["OUTPUT1", "OUTPUT0"]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression_both_ways(client: triton.InferenceServerClient, algorithm: str) -> None:
    array = np.tile(np.arange(2, dtype=np.float32), (5000, 1))
    answer = client.infer(
        "identity_fp32",
        [tensor("x", "FP32", array)],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
    )
    np.testing.assert_array_equal(answer.as_numpy("y"), array)


def test_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    assert client.is_model_ready("simple", "1")
    assert not client.is_model_ready("nope")
    server = client.get_server_metadata()
    assert server["name"] == "grey"
    assert "binary_tensor_data" in server["extensions"]
    model = client.get_model_metadata("mlp")
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 8]}]
    assert model["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}]
    assert model["versions"] == ["1"]


def test_config_and_statistics(client: triton.InferenceServerClient, node: GreyNode) -> None:
    wait_until(lambda: node.show("mlp")["batching"]["enabled"], "mlp to be batched")
    config = client.get_model_config("mlp")
    assert config["name"] == "mlp"
    assert config["max_batch_size"] == 32
    before = client.get_inference_statistics("mlp")["model_stats"][0]
    for _ in range(3):
        client.infer("mlp", [tensor("x", "FP32", np.ones((2, 8), np.float32))])
    after = client.get_inference_statistics("mlp", "1")["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 6
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 3
    assert after["execution_count"] - before["execution_count"] == 3
    assert any(b["batch_size"] == 2 for b in after["batch_stats"])
    assert {s["name"] for s in client.get_inference_statistics()["model_stats"]} >= {"mlp", "simple"}


def test_repository_control(client: triton.InferenceServerClient) -> None:
    index = {m["name"]: m for m in client.get_model_repository_index()}
    assert index["gather"]["state"] == "READY"
    client.unload_model("gather")
    assert not client.is_model_ready("gather")
    ids = tensor("ids", "INT64", np.array([[1, 2]]))
    with pytest.raises(InferenceServerException, match="unloaded") as refused:
        client.infer("gather", [ids])
    assert refused.value.status() == "503"
    client.load_model("gather")
    assert client.is_model_ready("gather")
    np.testing.assert_array_equal(client.infer("gather", [ids]).as_numpy("y"), [[[2, 3], [4, 5]]])
    with pytest.raises(InferenceServerException, match="allow-upload"):
        client.load_model("gather", config='{"max_batch_size": 4}')
    with pytest.raises(InferenceServerException, match="allow-upload"):
        client.load_model("gather", config="{}", files={"file:1/model.onnx": b"x"})


def test_async_infer(client: triton.InferenceServerClient) -> None:
    x = np.ones((1, 8), np.float32)
    pending = [client.async_infer("mlp", [tensor("x", "FP32", x)]) for _ in range(4)]
    results = [p.get_result().as_numpy("y") for p in pending]
    assert all((r == results[0]).all() for r in results)


def test_errors_as_the_client_sees_them(client: triton.InferenceServerClient) -> None:
    x = np.ones((1, 8), np.float32)
    for call, status, text in [
        (lambda: client.infer("nope", [tensor("x", "FP32", x)]), "404", "'nope' is not found"),
        (lambda: client.infer("mlp", [tensor("x", "FP32", x)], model_version="9"), "404", "version '9'"),
        (lambda: client.infer("mlp", [tensor("q", "FP32", x)]), "400", "unexpected input 'q'"),
        (lambda: client.infer("mlp", [tensor("x", "FP32", x[:, :4])]), "400", r"expected \[-1, 8\], got \[1, 4\]"),
        (lambda: client.infer("mlp", [tensor("x", "FP64", x.astype(np.float64))]), "400", "expected FP32, got FP64"),
        (
            lambda: client.infer("mlp", [tensor("x", "FP32", x)], outputs=[triton.InferRequestedOutput("z")]),
            "400",
            "unexpected inference output 'z'",
        ),
    ]:
        with pytest.raises(InferenceServerException, match=text) as refused:
            call()
        assert refused.value.status() == status
