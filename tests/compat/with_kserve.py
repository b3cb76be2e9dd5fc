"""KServe's Python client for the protocol, version 2, over HTTP.

Run by `tests/test_compat.py` in an environment of its own: what KServe asks for does not go with Grey's tests.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from kserve import InferenceRESTClient, InferInput, InferRequest, InferResponse, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

URL = os.environ["GREY_URL"]

DTYPES = {
    "BOOL": np.array([[True, False], [False, True]]),
    "UINT8": np.array([[0, 255]], np.uint8),
    "UINT16": np.array([[0, 65535]], np.uint16),
    "UINT32": np.array([[0, 2**32 - 1]], np.uint32),
    "UINT64": np.array([[0, 2**64 - 1]], np.uint64),
    "INT8": np.array([[-128, 127]], np.int8),
    "INT16": np.array([[-(2**15), 2**15 - 1]], np.int16),
    "INT32": np.array([[-(2**31), 2**31 - 1]], np.int32),
    "INT64": np.array([[-(2**63), 2**63 - 1]], np.int64),
    "FP16": np.array([[0.1, -65504], [6e-8, 7]], np.float16),
    "FP32": np.array([[0.1, -3e38], [1e-45, 16777217]], np.float32),
    "FP64": np.array([[0.1, -1e308], [5e-324, -0.0]], np.float64),
    "BYTES": np.array([["", "grün"], ["a\0b", "x" * 3000]], np.object_),
}


# One for all: each client that is made reads the system's certificates.
LOOP = asyncio.new_event_loop()
CLIENT = InferenceRESTClient(RESTConfig(protocol="v2"))


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    LOOP.run_until_complete(CLIENT.close())
    LOOP.close()


def ask(call: Callable[[InferenceRESTClient], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        return await call(CLIENT)

    return LOOP.run_until_complete(run())


def infer(model: str, request: InferRequest | dict[str, Any], **more: Any) -> InferResponse:
    return ask(lambda client: client.infer(URL, request, model_name=model, **more))


def given(name: str, datatype: str, array: np.ndarray, binary: bool = True) -> InferInput:
    made = InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def texts(array: np.ndarray) -> list[str]:
    return [x.decode() if isinstance(x, bytes) else x for x in array.ravel()]


@pytest.mark.parametrize("datatype", DTYPES)
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
def test_every_datatype(datatype: str, binary_in: bool, binary_out: bool) -> None:
    array = DTYPES[datatype]
    if datatype == "FP16" and not (binary_in and binary_out):
        binary_in = binary_out = True  # the client has no FP16 in JSON
    request = InferRequest(
        f"identity_{datatype.lower()}",
        [given("x", datatype, array, binary_in)],
        request_id="r1",
        request_outputs=[RequestedOutput("y", parameters={"binary_data": binary_out})],
    )
    headers: dict[str, str] = {}
    response = infer(request.model_name, request, response_headers=headers)
    assert ("inference-header-content-length" in headers) == binary_out
    assert (response.id, response.model_name) == ("r1", request.model_name)
    output = response.outputs[0]
    assert (output.name, output.datatype, output.shape) == ("y", datatype, list(array.shape))
    got = output.as_numpy()
    if datatype == "BYTES":
        assert texts(got) == texts(array)
    else:
        assert (got.dtype, got.tobytes()) == (array.dtype, array.tobytes())


def test_requests_of_other_forms() -> None:
    x = np.ones((2, 8), np.float32)
    whole = InferRequest("mlp", [given("x", "FP32", x)], parameters={"binary_data_output": True, "priority": 1})
    plain = infer("mlp", whole)
    assert plain.outputs[0].as_numpy().shape == (2, 3)
    assert plain.id  # the client makes one up, which comes back
    of_dict = infer("mlp", {"inputs": [{"name": "x", "shape": [2, 8], "datatype": "FP32", "data": x.tolist()}]})
    np.testing.assert_array_equal(of_dict.outputs[0].as_numpy(), plain.outputs[0].as_numpy())
    nested = InferInput("x", [2, 8], "FP32", data=x.tolist())
    np.testing.assert_array_equal(
        infer("mlp", InferRequest("mlp", [nested])).outputs[0].as_numpy(), plain.outputs[0].as_numpy()
    )
    as_graph = ask(
        lambda client: client.infer(
            f"{URL}/v2/models/mlp/infer", InferRequest("mlp", [given("x", "FP32", x, False)]), is_graph_endpoint=True
        )
    )
    assert as_graph["outputs"][0]["shape"] == [2, 3]


def test_many_at_once() -> None:
    async def together(client: InferenceRESTClient) -> list[InferResponse]:
        rows = [np.full((1, 8), i, np.float32) for i in range(30)]
        requests = [InferRequest("mlp", [given("x", "FP32", r)], request_id=str(i)) for i, r in enumerate(rows)]
        return await asyncio.gather(*(client.infer(URL, r, model_name="mlp") for r in requests))

    assert [r.id for r in ask(together)] == [str(i) for i in range(30)]


def test_health() -> None:
    assert ask(lambda client: client.is_server_live(URL)) is True
    assert ask(lambda client: client.is_server_ready(URL)) is True
    assert ask(lambda client: client.is_model_ready(URL, "mlp")) is True
    assert ask(lambda client: client.is_model_ready(URL, "nope")) is False


@pytest.mark.parametrize(
    ("model", "request_", "status", "says"),
    [
        ("nope", InferRequest("nope", [given("x", "FP32", np.ones((1, 8), np.float32))]), 404, "'nope' is not found"),
        ("mlp", InferRequest("mlp", [given("q", "FP32", np.ones((1, 8), np.float32))]), 400, "unexpected input 'q'"),
        ("mlp", {"inputs": []}, 400, "input 'x'"),
    ],
)
def test_errors(model: str, request_: Any, status: int, says: str) -> None:
    with pytest.raises(httpx.HTTPStatusError, match=says) as refused:
        infer(model, request_)
    assert refused.value.response.status_code == status
