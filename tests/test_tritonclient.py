"""All of the Open Inference Protocol through the official client, in both its forms."""

from __future__ import annotations

import asyncio
import inspect
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from conftest import GreyNode, gauge, wait_until
from tritonclient.http import InferInput, InferRequestedOutput, InferResult
from tritonclient.http.auth import BasicAuth
from tritonclient.utils import InferenceServerException

# Turns of the model `spin` that take a few seconds.
SECONDS = 3_000_000

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


class Blocking:
    """The client for asyncio, called as the other one is."""

    def __init__(self, netloc: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = self._loop.run_until_complete(self._made(netloc))

    async def _made(self, netloc: str) -> triton_aio.InferenceServerClient:
        return triton_aio.InferenceServerClient(netloc)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not inspect.iscoroutinefunction(method):
            return method
        return lambda *args, **kwargs: self._loop.run_until_complete(method(*args, **kwargs))

    def close(self) -> None:
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


@pytest.fixture(params=["http", "http.aio"])
def client(node: GreyNode, request: pytest.FixtureRequest) -> Iterator[Any]:
    made = triton.InferenceServerClient(node.netloc) if request.param == "http" else Blocking(node.netloc)
    yield made
    made.close()


def tensor(name: str, datatype: str, array: np.ndarray, binary: bool = True) -> InferInput:
    given = InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array, binary_data=binary)
    return given


def as_bytes(array: np.ndarray) -> Any:
    if array.dtype == np.object_:
        return [x if isinstance(x, bytes) else x.encode() for x in array.ravel()]
    return array.tobytes()


# JSON has no NaN and no infinity.
FINITE = ARRAYS | {
    "FP16": np.array([[0.1, -65504], [6e-8, 7]], np.float16),
    "BF16": np.array([[0.1, -3e38], [1e-38, 7]], ml_dtypes.bfloat16),
    "FP32": np.array([[0.1, -3e38], [1e-45, 16777217]], np.float32),
}


@pytest.mark.parametrize("datatype", sorted(ARRAYS))
def test_every_datatype_keeps_its_bits(client: Any, datatype: str) -> None:
    # The client itself refuses BF16 in JSON.
    for binary_in in [True] if datatype == "BF16" else [True, False]:
        for binary_out in [True, False]:
            array = (ARRAYS if binary_in and binary_out else FINITE)[datatype]
            answer = client.infer(
                f"identity_{datatype.lower()}",
                [tensor("x", datatype, array, binary_in)],
                outputs=[InferRequestedOutput("y", binary_data=binary_out)],
            )
            output = answer.get_output("y")
            assert (output["datatype"], output["shape"]) == (datatype, [2, 2])
            assert ("data" in output) == (not binary_out)
            assert as_bytes(answer.as_numpy("y")) == as_bytes(array), (binary_in, binary_out)


def test_bytes(client: Any) -> None:
    fixed = np.array([[b"ab", "ü".encode()]], "S2")
    assert as_bytes(client.infer("identity_bytes", [tensor("x", "BYTES", fixed)]).as_numpy("y")) == [b"ab", b"\xc3\xbc"]
    for none, at in [(np.array([["ok", b"\xff\xfe"]], np.object_), 1), (np.array([[b"\xff", b""]], "S1"), 0)]:
        with pytest.raises(InferenceServerException, match=f"'x': element {at} is not UTF-8") as refused:
            client.infer("identity_bytes", [tensor("x", "BYTES", none)])
        assert refused.value.status() == "400"


@pytest.mark.parametrize("binary", [True, False])
def test_no_rows_at_all(client: Any, binary: bool) -> None:
    given = tensor("x", "INT32", np.zeros((0, 2), np.int32), binary)
    with pytest.raises(InferenceServerException, match="counts rows; it is 0, expected at least 1"):
        client.infer("identity_int32", [given])


def test_simple_adds_and_subtracts(client: Any) -> None:
    a, b = np.arange(16, dtype=np.int32).reshape(1, 16), np.ones((1, 16), np.int32)
    answer = client.infer(
        "simple",
        [tensor("INPUT0", "INT32", a), tensor("INPUT1", "INT32", b, binary=False)],
        outputs=[InferRequestedOutput("OUTPUT1"), InferRequestedOutput("OUTPUT0", binary_data=False)],
        request_id="my id",
        model_version="1",
    )
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT0"), a + b)
    np.testing.assert_array_equal(answer.as_numpy("OUTPUT1"), a - b)
    response = answer.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("my id", "simple", "1")
    assert [o["name"] for o in response["outputs"]] == ["OUTPUT1", "OUTPUT0"]


@pytest.mark.parametrize("there", ["gzip", "deflate", None])
@pytest.mark.parametrize("back", ["gzip", "deflate", None])
def test_compression_both_ways(client: Any, there: str | None, back: str | None) -> None:
    array = np.tile(np.arange(2, dtype=np.float32), (5000, 1))
    for binary in [True, False]:
        answer = client.infer(
            "identity_fp32",
            [tensor("x", "FP32", array, binary)],
            outputs=[InferRequestedOutput("y", binary_data=binary)],
            request_compression_algorithm=there,
            response_compression_algorithm=back,
        )
        np.testing.assert_array_equal(answer.as_numpy("y"), array)


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_bodies_made_and_read_by_hand(client: Any, node: GreyNode, binary: bool, coding: str | None) -> None:
    array = np.arange(2000, dtype=np.float32).reshape(1000, 2)
    body, json_length = client.generate_request_body(
        [tensor("x", "FP32", array, binary)],
        outputs=[InferRequestedOutput("y", binary_data=binary)],
        request_id="by hand",
        priority=1,
        timeout=10_000_000,
    )
    headers = {"Accept-Encoding": coding or "identity"}
    if json_length is not None:
        headers["Inference-Header-Content-Length"] = str(json_length)
    if coding == "deflate":
        headers["Content-Encoding"] = coding
        body = zlib.compress(body)
    reply = node.infer("identity_fp32", body, headers)
    assert reply.status == 200, reply.body
    assert reply.headers["Content-Encoding"] == coding
    header_length = reply.headers["Inference-Header-Content-Length"]
    assert (header_length is not None) == binary
    parts = {"header_length": header_length and int(header_length), "content_encoding": coding}
    for read in [client.parse_response_body, InferResult.from_response_body]:
        answer = read(reply.body, **parts)
        np.testing.assert_array_equal(answer.as_numpy("y"), array)
        assert answer.get_response()["id"] == "by hand"
        assert answer.as_numpy("z") is None


def test_health_and_metadata(client: Any) -> None:
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


def test_config_and_statistics(client: Any, node: GreyNode) -> None:
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


def test_repository_control(client: Any) -> None:
    index = {m["name"]: m for m in client.get_model_repository_index()}
    assert index["gather"]["state"] == "READY"
    client.unload_model("gather", unload_dependents=True)
    assert not client.is_model_ready("gather")
    index = {m["name"]: m for m in client.get_model_repository_index()}
    assert (index["gather"]["state"], index["gather"]["reason"]) == ("UNAVAILABLE", "unloaded by an operator")
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
    for control in [client.load_model, client.unload_model]:
        with pytest.raises(InferenceServerException, match="'nope' is not found") as unknown:
            control("nope")
        assert unknown.value.status() == "404"


@pytest.fixture(scope="module")
def open_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GreyNode]:
    """A node that takes files by load."""
    node = GreyNode(tmp_path_factory.mktemp("open") / "data", "--allow-upload")
    yield node
    node.kill()


@pytest.mark.parametrize("form", [triton.InferenceServerClient, Blocking])
def test_load_with_files(open_node: GreyNode, models: Path, form: Callable[[str], Any]) -> None:
    client, name = form(open_node.netloc), f"mlp_{form.__name__.lower()}"
    file = (models / "mlp.onnx").read_bytes()
    config = json.dumps({"name": name, "backend": "onnxruntime"})
    client.load_model(name, config=config, files={"file:3/model.onnx": file})
    assert client.get_model_metadata(name)["versions"] == ["3"]
    assert client.infer(name, [tensor("x", "FP32", np.ones((2, 8), np.float32))]).as_numpy("y").shape == (2, 3)
    client.load_model(name, config=config, files={"file:3/model.onnx": file})  # the same bytes again
    for files, overrides, text in [
        ({"file:3/model.onnx": file + b"x"}, config, "version '3'"),
        ({"file:4/model.onnx": b"x"}, config, "not an ONNX model|cannot be opened"),
        ({"model.onnx": file}, config, "expected config, or file:VERSION/PATH"),
        ({"file:4/model.onnx": file}, '{"max_batch_size": 4}', "the key 'max_batch_size' of 'config'"),
        (None, config, "a configuration without files"),
    ]:
        with pytest.raises(InferenceServerException, match=text):
            client.load_model(name, config=overrides, files=files)
    assert client.get_model_metadata(name)["versions"] == ["3"]
    client.close()


def test_async_infer(node: GreyNode) -> None:
    x = np.ones((1, 8), np.float32)
    with triton.InferenceServerClient(node.netloc, concurrency=4) as client:
        pending = [
            client.async_infer("mlp", [tensor("x", "FP32", x)], request_id=str(i), request_compression_algorithm="gzip")
            for i in range(8)
        ]
        answers = [p.get_result(block=True, timeout=30) for p in pending]
        assert [a.get_response()["id"] for a in answers] == [str(i) for i in range(8)]
        results = [a.as_numpy("y") for a in answers]
        assert all((r == results[0]).all() for r in results)
        with pytest.raises(InferenceServerException, match="'nope' is not found"):
            client.async_infer("nope", [tensor("x", "FP32", x)]).get_result()
        spin = [tensor("n", "INT64", np.array([[SECONDS]])), tensor("x", "FP32", np.zeros((1, 1), np.float32))]
        late = client.async_infer("spin", spin, timeout=500_000)
        with pytest.raises(InferenceServerException, match="failed to obtain inference response"):
            late.get_result(timeout=0.05)
        with pytest.raises(InferenceServerException, match="timeout passed") as passed:
            late.get_result()
        assert passed.value.status() == "504"


def test_many_at_once_by_asyncio(node: GreyNode) -> None:
    async def ask() -> list[np.ndarray]:
        async with triton_aio.InferenceServerClient(node.netloc) as client:
            given = [tensor("x", "FP32", np.full((1, 8), i, np.float32)) for i in range(50)]
            answers = await asyncio.gather(*(client.infer("mlp", [g]) for g in given))
            return [a.as_numpy("y") for a in answers]

    together = asyncio.run(ask())
    with triton.InferenceServerClient(node.netloc) as client:
        for i, got in enumerate(together):
            alone = client.infer("mlp", [tensor("x", "FP32", np.full((1, 8), i, np.float32))]).as_numpy("y")
            np.testing.assert_allclose(got, alone, rtol=1e-5)


def test_options_of_a_request(client: Any) -> None:
    x = [tensor("x", "FP32", np.ones((1, 8), np.float32))]
    plain = client.infer("mlp", x)
    assert "id" not in plain.get_response()
    for options in [
        {"request_id": 'äöü "quoted"'},
        {"sequence_id": 0, "sequence_start": True},
        {"sequence_id": ""},
        {"priority": 1},
        {"priority": 2**63 - 1},
        {"timeout": 0},
        {"timeout": 60_000_000},
        {"query_params": {"a": 1, "b c": ["x", "ä&="]}},
        {"headers": {"X-Request-Id": "7", "traceparent": "00-1-1-00"}},
        {"parameters": {"mine": "text", "n": 3, "f": 0.5, "b": True}},
    ]:
        answer = client.infer("mlp", x, **options)
        np.testing.assert_array_equal(answer.as_numpy("y"), plain.as_numpy("y"))
        assert answer.get_response().get("id", "") == options.get("request_id", "")
    spin = [tensor("n", "INT64", np.array([[SECONDS]])), tensor("x", "FP32", np.zeros((1, 1), np.float32))]
    for model, given, options, status, text in [
        ("mlp", x, {"sequence_id": 5, "sequence_start": True}, "501", "'sequence_.*': the sequence extension"),
        ("mlp", x, {"sequence_id": "five", "sequence_end": True}, "501", "'sequence_.*': the sequence extension"),
        ("mlp", x, {"timeout": -1}, "400", "'timeout' is -1, expected microseconds"),
        ("mlp", x, {"parameters": {"mine": [1, 2]}}, "400", "'mine': expected true, false, text or a number"),
        ("mlp", x, {"parameters": {"tenant": "no/name"}}, "400", "invalid tenant"),
        ("spin", spin, {"timeout": 50_000}, "504", "timeout passed"),
        ("mlp", x, {"outputs": [InferRequestedOutput("y", class_count=2)]}, "501", "classification extension"),
    ]:
        with pytest.raises(InferenceServerException, match=text) as refused:
            client.infer(model, given, **options)
        assert refused.value.status() == status


def test_headers_and_plugins_reach_the_server(client: Any, node: GreyNode) -> None:
    x = [tensor("x", "FP32", np.ones((1, 8), np.float32))]
    form = type(client).__name__

    def counted(tenant: str) -> float:
        return gauge(node, "grey_ai_inferences_total", model="mlp", tenant=tenant, status="ok") or 0

    client.infer("mlp", x, headers={"Grey-Tenant": f"by-header-{form}"})
    assert counted(f"by-header-{form}") == 1
    client.infer("mlp", x, parameters={"tenant": f"by-parameter-{form}"})
    assert counted(f"by-parameter-{form}") == 1

    class Tenant(BasicAuth):
        """The client's own helper, and one header more."""

        def __call__(self, request: Any) -> None:
            super().__call__(request)
            request.headers["Grey-Tenant"] = f"by-plugin-{form}"

    plugin = Tenant("user", "secret")
    client.register_plugin(plugin)
    assert client.plugin() is plugin
    client.infer("mlp", x, headers={})
    client.unregister_plugin()
    client.infer("mlp", x)
    assert counted(f"by-plugin-{form}") == 1


def test_extensions_that_are_not_there(client: Any) -> None:
    """What can be answered without them is; what cannot is refused, and says what to do."""
    for name, more in [("system", ("key", 64)), ("cuda", (b"handle", 0, 64))]:
        status = getattr(client, f"get_{name}_shared_memory_status")
        register = getattr(client, f"register_{name}_shared_memory")
        unregister = getattr(client, f"unregister_{name}_shared_memory")
        assert status() == []
        unregister()
        unregister("region")
        with pytest.raises(InferenceServerException, match="no shared memory region 'region' is registered") as unknown:
            status("region")
        assert unknown.value.status() == "404"
        with pytest.raises(InferenceServerException, match="send tensors as binary data in the body") as refused:
            register("region", *more)
        assert refused.value.status() == "501"
    shared_in, shared_out = InferInput("x", [1, 8], "FP32"), InferRequestedOutput("y")
    shared_in.set_shared_memory("region", 32)
    shared_out.set_shared_memory("region", 12)
    x = tensor("x", "FP32", np.ones((1, 8), np.float32))
    for inputs, outputs, text in [([shared_in], None, "input 'x'"), ([x], [shared_out], "output 'y'")]:
        with pytest.raises(InferenceServerException, match=f"{text}: the shared memory extension is not supported"):
            client.infer("mlp", inputs, outputs=outputs)
    shared_out.unset_shared_memory()
    assert client.infer("mlp", [x], outputs=[shared_out]).as_numpy("y").shape == (1, 3)

    for model in [None, "mlp"]:
        assert client.get_trace_settings(model) == {"trace_level": ["OFF"]}
        off = {"trace_level": ["OFF"], "trace_rate": None}
        assert client.update_trace_settings(model, off) == {"trace_level": ["OFF"]}
        with pytest.raises(InferenceServerException, match="'trace_level' is not supported: this server makes no"):
            client.update_trace_settings(model, {"trace_level": ["TIMESTAMPS"]})
    with pytest.raises(InferenceServerException, match="'nope' is not found"):
        client.get_trace_settings("nope")
    for log in [client.get_log_settings, lambda: client.update_log_settings({"log_verbose_level": 1})]:
        with pytest.raises(InferenceServerException, match="grey serve --log FILTER") as refused:
            log()
        assert refused.value.status() == "501"


@pytest.mark.parametrize("form", [triton.InferenceServerClient, triton_aio.InferenceServerClient])
def test_no_method_of_the_client_is_left_out(form: type) -> None:
    source = Path(__file__).read_text()
    methods = [name for name, _ in inspect.getmembers(form, inspect.isroutine) if not name.startswith("_")]
    regions = {"get_{}_shared_memory_status", "register_{}_shared_memory", "unregister_{}_shared_memory"}
    tried = {r.format(kind) for r in regions for kind in ["system", "cuda"]}
    assert len(methods) >= 25
    assert [m for m in methods if m not in tried and f"client.{m}" not in source] == []


def test_errors_as_the_client_sees_them(client: Any) -> None:
    x = np.ones((1, 8), np.float32)
    for call, status, text in [
        (lambda: client.infer("nope", [tensor("x", "FP32", x)]), "404", "'nope' is not found"),
        (lambda: client.infer("mlp", [tensor("x", "FP32", x)], model_version="9"), "404", "version '9'"),
        (lambda: client.infer("mlp", [tensor("q", "FP32", x)]), "400", "unexpected input 'q'"),
        (lambda: client.infer("mlp", [tensor("x", "FP32", x[:, :4])]), "400", r"expected \[-1, 8\], got \[1, 4\]"),
        (lambda: client.infer("mlp", [tensor("x", "FP64", x.astype(np.float64))]), "400", "expected FP32, got FP64"),
        (
            lambda: client.infer("mlp", [tensor("x", "FP32", x)], outputs=[InferRequestedOutput("z")]),
            "400",
            "unexpected inference output 'z'",
        ),
    ]:
        with pytest.raises(InferenceServerException, match=text) as refused:
            call()
        assert refused.value.status() == status
