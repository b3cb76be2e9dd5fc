"""MLServer's codecs and types over plain HTTP, the way its documentation sends requests.

Run by `tests/test_compat.py` in an environment of its own, since MLServer wants older packages than Grey's tests.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests
from mlserver.codecs import (
    Base64Codec,
    DatetimeCodec,
    NumpyCodec,
    NumpyRequestCodec,
    PandasCodec,
    StringCodec,
    StringRequestCodec,
)
from mlserver.types import (
    InferenceErrorResponse,
    InferenceRequest,
    InferenceResponse,
    MetadataModelResponse,
    MetadataServerResponse,
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RequestOutput,
)

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
}


def post(model: str, request: InferenceRequest, status: int = 200) -> requests.Response:
    headers = {"Content-Type": "application/json"}
    url = f"{URL}/v2/models/{model}/infer"
    reply = requests.post(url, data=request.model_dump_json(), headers=headers, timeout=30)
    assert reply.status_code == status, reply.text
    return reply


def infer(model: str, request: InferenceRequest) -> InferenceResponse:
    return InferenceResponse.model_validate_json(post(model, request).text)


@pytest.mark.parametrize("datatype", DTYPES)
def test_numpy(datatype: str) -> None:
    array = DTYPES[datatype]
    request = InferenceRequest(id="r1", inputs=[NumpyCodec.encode_input("x", array)])
    assert request.inputs[0].datatype == datatype
    response = infer(f"identity_{datatype.lower()}", request)
    assert (response.id, response.model_name) == ("r1", f"identity_{datatype.lower()}")
    got = NumpyCodec.decode_output(response.outputs[0])
    assert (got.dtype, got.tobytes()) == (array.dtype, array.tobytes())


def test_a_request_with_every_field_written_out() -> None:
    """As whoever writes the whole model, nulls too, sends it."""
    request = InferenceRequest(
        inputs=[NumpyCodec.encode_input("x", np.ones((2, 8), np.float32))], outputs=[RequestOutput(name="y")]
    )
    whole: dict[str, Any] = request.model_dump(exclude_unset=False, exclude_none=False, mode="json")
    assert whole["id"] is None
    assert whole["outputs"][0]["parameters"] is None
    assert whole["inputs"][0]["parameters"]["headers"] is None
    whole["parameters"] = {"content_type": "np", "headers": None}
    reply = requests.post(f"{URL}/v2/models/mlp/infer", json=whole, timeout=30)
    assert reply.status_code == 200, reply.text
    assert NumpyRequestCodec.decode_response(InferenceResponse(**reply.json())).shape == (2, 3)


def test_the_numpy_codec_of_a_whole_request() -> None:
    request = NumpyRequestCodec.encode_request(np.ones((2, 8), np.float32))
    refused = InferenceErrorResponse(**post("mlp", request, 400).json())
    assert refused.error is not None
    assert "unexpected input" in refused.error  # the codec calls its input `input-0`
    request.inputs[0].name = "x"
    assert NumpyRequestCodec.decode_response(infer("mlp", request)).shape == (2, 3)


@pytest.mark.parametrize("use_bytes", [True, False])
def test_texts(use_bytes: bool) -> None:
    texts = ["grün", "", 'say "hi"\n', "x" * 3000]
    given = StringCodec.encode_input("x", texts, use_bytes=use_bytes)
    assert given.shape == [4, 1]
    # The model takes rows of two.
    given.shape = [2, 2]
    response = infer("identity_bytes", InferenceRequest(inputs=[given]))
    assert StringCodec.decode_output(response.outputs[0]) == texts
    assert StringRequestCodec.decode_response(response) == texts


def test_bytes_in_base64_and_times() -> None:
    for codec, values in [
        (Base64Codec, [b"\xff\x00", b""]),
        (
            DatetimeCodec,
            [datetime(2024, 2, 29, 1, 2, 3, tzinfo=UTC), datetime(1999, 1, 1, tzinfo=UTC)],
        ),
    ]:
        given = codec.encode_input("x", values, use_bytes=False)
        given.shape = [1, 2]
        response = infer("identity_bytes", InferenceRequest(inputs=[given]))
        assert codec.decode_output(response.outputs[0]) == values


def test_a_data_frame_of_columns() -> None:
    """Each column is an input of its own."""
    frame = pd.DataFrame({"INPUT0": range(16), "INPUT1": [1] * 16}, dtype=np.int32)
    request = PandasCodec.encode_request(frame, use_bytes=False)
    assert {i.name: i.shape for i in request.inputs} == {"INPUT0": [16, 1], "INPUT1": [16, 1]}
    for given in request.inputs:  # the model takes one row of 16
        given.shape = [1, 16]
    response = infer("simple", request)
    for output in response.outputs:
        output.shape = [16, 1]
    got = PandasCodec.decode_response(response)
    assert got["OUTPUT0"].tolist() == (frame.INPUT0 + frame.INPUT1).tolist()
    assert got["OUTPUT1"].tolist() == (frame.INPUT0 - frame.INPUT1).tolist()


def test_metadata_and_repository() -> None:
    server = MetadataServerResponse(**requests.get(f"{URL}/v2", timeout=30).json())
    assert server.name == "grey"
    model = MetadataModelResponse(**requests.get(f"{URL}/v2/models/mlp", timeout=30).json())
    assert model.inputs is not None
    assert (model.inputs[0].datatype, model.inputs[0].shape) == ("FP32", [-1, 8])
    asked = RepositoryIndexRequest(ready=True).model_dump()
    index = RepositoryIndexResponse(requests.post(f"{URL}/v2/repository/index", json=asked, timeout=30).json())
    assert {item.name for item in index} >= {"mlp", "simple"}
    assert all(item.state == "READY" for item in index)
    for path in ["health/live", "health/ready", "models/mlp/ready"]:
        assert requests.get(f"{URL}/v2/{path}", timeout=30).status_code == 200
