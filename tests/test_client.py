"""``grey.Client`` and ``grey.AsyncClient`` against a real node, and against servers that are none."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import doctest
import inspect
import json
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grey
import grey.client
import grey.errors
import ml_dtypes
import numpy as np
import pandas as pd
import pytest
from conftest import FOREVER, GreyNode, wait_until
from grey import _native
from PIL import Image

ONES = np.ones((1, 8), np.float32)


@pytest.fixture
def client(node: GreyNode) -> Iterator[grey.Client]:
    with grey.Client(node.url, timeout=30) as client:
        yield client


@pytest.fixture
def key(node: GreyNode) -> str:
    return str(node.request("GET", "/grey/v1/node").json["proofs"]["node_key"])


def expected(models: Path, name: str, **inputs: np.ndarray[Any, Any]) -> Any:
    """What the runtime itself says."""
    import onnxruntime

    return onnxruntime.InferenceSession(models / f"{name}.onnx").run(None, inputs)


class TestInfer:
    def test_answers_are_the_runtime_s_own(self, client: grey.Client, models: Path) -> None:
        x = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
        result = client.infer("mlp", {"x": x}, request_id="mine", version="1", parameters={"k": 1.5, "t": "x"})
        np.testing.assert_allclose(result["y"], expected(models, "mlp", x=x)[0], rtol=1e-5)
        assert (result.model, result.version, result.id, result.proof) == ("mlp", "1", "mine", None)
        # What came back is the caller's own.
        result["y"][0, 0] = 7

    def test_outputs_are_chosen_in_order(self, client: grey.Client) -> None:
        a, b = np.full((2, 16), 5, np.int32), np.full((2, 16), 3, np.int32)
        given = {"INPUT0": a, "INPUT1": b}
        assert list(client.infer("simple", given, outputs=["OUTPUT1", "OUTPUT0"]).outputs) == ["OUTPUT1", "OUTPUT0"]
        only = client.infer("simple", given, outputs=("OUTPUT1",))
        assert list(only.outputs) == ["OUTPUT1"]
        assert (only["OUTPUT1"] == 2).all()
        with pytest.raises(grey.InvalidArgument, match="unexpected inference output 'z'"):
            client.infer("simple", given, outputs=["z"])

    @pytest.mark.parametrize(
        ("name", "array"),
        [
            ("bool", np.array([[True, False]])),
            ("uint8", np.array([[0, 255]], np.uint8)),
            ("int64", np.array([[-(2**63), 2**63 - 1]])),
            ("fp16", np.array([[0.5, -np.inf]], np.float16)),
            ("fp32", np.array([[np.nan, -0.0]], np.float32)),
            ("fp64", np.array([[5e-324, 1.7e308]])),
        ],
    )
    def test_dtypes_come_back_bit_by_bit(self, client: grey.Client, name: str, array: np.ndarray[Any, Any]) -> None:
        back = client.infer(f"identity_{name}", {"x": array})["y"]
        assert (back.dtype, back.tobytes()) == (array.dtype, array.tobytes())

    def test_texts_and_bfloat16(self, client: grey.Client) -> None:
        back = client.infer("identity_bytes", {"x": np.array([["a", "é\n"]])})["y"]
        assert (back.dtype, back.tolist()) == (np.dtype(object), [[b"a", "é\n".encode()]])
        back = client.infer("identity_bytes", {"x": np.array([[b"a", "b"]], object)})["y"]
        assert back.tolist() == [[b"a", b"b"]]
        half = np.array([[1.5, -2]], ml_dtypes.bfloat16)
        assert client.infer("identity_bf16", {"x": half})["y"].tolist() == [[1.5, -2]]

    def test_arrays_that_lie_otherwise_in_memory(self, client: grey.Client) -> None:
        whole = np.arange(24, dtype=np.int64).reshape(6, 4)
        for x in (
            whole[:, ::2],
            whole[::-1, :2],
            np.asfortranarray(whole[:, :2]),
            whole[:, :2].astype(">i8"),
            np.broadcast_to(np.int64(7), (3, 2)),
        ):
            np.testing.assert_array_equal(client.infer("identity_int64", {"x": x})["y"], x)
        readonly = whole[:, :2].copy()
        readonly.flags.writeable = False
        np.testing.assert_array_equal(client.infer("identity_int64", {"x": readonly})["y"], readonly)

    def test_lists_frames_images(self, client: grey.Client) -> None:
        assert client.infer("affine", [[1, 2], [0.5, 0]])["y"].tolist() == [[5], [0.5]]
        assert client.infer("affine", {"x": [[1, 2]]}, version="1")["y"].tolist() == [[5]]
        frame = pd.DataFrame({"a": [1, 0], "b": [2.0, 1.0]})
        assert client.infer("affine", frame)["y"].tolist() == [[5], [2]]
        image = Image.new("L", (2, 3), 9)
        np.testing.assert_array_equal(client.infer("identity_uint8", {"x": image})["y"], np.full((3, 2), 9, np.uint8))
        assert client.infer("identity_bytes", {"x": [["a", "b"]]})["y"].tolist() == [[b"a", b"b"]]
        with pytest.raises(grey.InvalidArgument, match=r"expected values that uint8 \(UINT8\) holds"):
            client.infer("identity_uint8", {"x": [[1, 300]]})
        with pytest.raises(grey.InvalidArgument, match="the model has 2 inputs: 'INPUT0', 'INPUT1'"):
            client.infer("simple", [1, 2])

    @pytest.mark.parametrize(
        ("model", "inputs", "says"),
        [
            ("mlp", {}, "input 'x' for model 'mlp' is missing"),
            ("mlp", {"z": ONES}, "unexpected input 'z'"),
            ("mlp", {"x": ONES.astype(np.float64)}, "expected FP32, got FP64"),
            ("mlp", {"x": ONES[0]}, r"expected \[-1, 8\], got \[8\]"),
            ("mlp", {"x": np.zeros((0, 8), np.float32)}, "row"),
            ("mlp", {"x": np.zeros((2, 0), np.float32)}, r"expected \[-1, 8\], got \[2, 0\]"),
            ("mlp", {"x": ONES.astype(np.complex64)}, "expected a dtype among .* found complex64"),
            ("mlp", {"x": ONES.astype("M8[s]")}, "expected a dtype among"),
            ("mlp", {"x": np.array([[object()] * 8])}, "expected texts or bytes, found object"),
            ("mlp", {"x": np.ma.masked_equal(ONES, 1)}, "without masked elements"),
            ("mlp", {"x": [[1, 2], [3]]}, "input 'x': expected an array, or what numpy makes one of"),
            ("mlp", {7: ONES}, "expected texts as names, found int|names of inputs are texts"),
            ("../etc", {"x": ONES}, r"invalid model name '\.\./etc'"),
            ("mlp", {"x" * 5000: ONES}, "the name of an input has 5000 bytes"),
        ],
    )
    def test_bad_inputs_are_named(self, client: grey.Client, model: str, inputs: Any, says: str) -> None:
        with pytest.raises((grey.InvalidArgument, TypeError), match=says):
            client.infer(model, inputs)

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"timeout": -1}, "timeout: expected seconds, 0 or more, found -1"),
            ({"timeout": float("nan")}, "timeout: expected seconds, 0 or more, found NaN"),
            ({"tenant": "a/b"}, "invalid tenant 'a/b'"),
            ({"version": "../1"}, "invalid version"),
            ({"nonce": b"12345678"}, "nonce and salt belong to a proof"),
            ({"prove": True, "nonce": b"short"}, "the nonce has 5 bytes, expected 8 to 64"),
            ({"prove": True, "salt": b"short"}, "salt: expected 32 bytes, found 5"),
            ({"model_hash": "ab" * 32}, "model_hash is compared with that of a proof"),
            ({"parameters": {"timeout": 5}}, "parameter 'timeout' is set by the call's timeout"),
            ({"parameters": {"grey_prove": True}}, "parameter 'grey_prove' is set by asking for a proof"),
            ({"parameters": {"k": float("inf")}}, "parameter 'k' is not finite"),
        ],
    )
    def test_bad_options_are_named(self, client: grey.Client, options: Any, says: str) -> None:
        with pytest.raises(grey.InvalidArgument, match=says):
            client.infer("mlp", {"x": ONES}, **options)

    def test_large_arrays_and_too_large_ones(self, client: grey.Client, node: GreyNode) -> None:
        large = np.array([[os.urandom(15 << 20).hex().encode(), b""]], object)
        assert client.infer("identity_bytes", {"x": large})["y"].tolist() == large.tolist()
        with pytest.raises(grey.TooLarge, match="268435456"):
            client.infer("identity_bytes", {"x": np.array([[bytes(140 << 20)] * 2], object)})
        with pytest.raises(grey.TooLarge, match="more than the 65536 that may wait"):
            client.infer("identity_uint8", {"x": np.zeros((100_000, 2), np.uint8)})
        with (
            grey.Client(node.url, max_answer_bytes=1000) as careful,
            pytest.raises(grey.BadAnswer, match="larger than the 1000 bytes that this client reads"),
        ):
            careful.infer("identity_int64", {"x": np.zeros((1000, 2), np.int64)})
        client.infer("mlp", {"x": ONES})

    def test_a_call_s_time_is_all_of_it(self, client: grey.Client) -> None:
        spin = {"n": np.array([[FOREVER]]), "x": np.zeros((1, 1), np.float32)}
        with pytest.raises(grey.DeadlineExceeded) as caught:
            client.infer("spin", spin, timeout=0.3)
        assert isinstance(caught.value, TimeoutError)
        with pytest.raises(grey.DeadlineExceeded):
            client.infer("mlp", {"x": ONES}, timeout=0)
        client.infer("mlp", {"x": ONES}, timeout=float("inf"))

    def test_refusals_by_kind(self, client: grey.Client, node: GreyNode, models: Path) -> None:
        with pytest.raises(grey.NotFound, match="none"):
            client.infer("none", {"x": ONES})
        with pytest.raises(LookupError):
            client.infer("mlp", {"x": ONES}, version="77")
        with pytest.raises(grey.ModelFailed):
            client.infer("gather", {"ids": np.array([[99, 99]])})
        client.unload("mlp")
        with pytest.raises(grey.Unavailable, match="unloaded") as caught:
            client.infer("mlp", {"x": ONES})
        assert caught.value.retryable
        client.load("mlp")
        client.infer("mlp", {"x": ONES})

    def test_tenants(self, node: GreyNode) -> None:
        with grey.Client(node.url, tenant="mine") as client:
            client.infer("mlp", {"x": ONES})
            client.infer("mlp", {"x": ONES}, tenant="theirs")
        counted = node.request("GET", "/metrics").body.decode()
        assert 'tenant="mine"' in counted
        assert 'tenant="theirs"' in counted

    def test_many_threads_share_a_client(self, node: GreyNode) -> None:
        def call(n: int) -> float:
            return float(client.infer("affine", {"x": np.full((1, 2), n, np.float32)})["y"][0, 0])

        with grey.Client(node.url, connections=4) as client, ThreadPoolExecutor(16) as pool:
            assert list(pool.map(call, range(300))) == [3.0 * n for n in range(300)]


class TestRegistry:
    def test_a_model_s_life(self, client: grey.Client, models: Path, tmp_path: Path) -> None:
        added = client.add("life", models / "affine.onnx", version="v1", metadata={"accuracy": 0.5, "by": "me & you"})
        assert (added.id, added.version, added.state, added.latest) == ("life", "v1", "ready", True)
        assert added.metadata == {"accuracy": "0.5", "by": "me & you"}
        assert client.add("life", models / "affine.onnx", version="v1").model_hash == added.model_hash
        with pytest.raises(grey.AlreadyExists):
            client.add("life", models / "mlp.onnx", version="v1")
        second = client.add("life", models / "digits.onnx", load=False)
        assert (second.state, client.ready("life")) == ("registered", False)
        assert client.load("life").state == "ready"
        assert client.ready("life", version=second.version)
        assert {(m.version, m.latest) for m in client.models() if m.id == "life"} == {
            ("v1", False),
            (second.version, True),
        }
        shown = client.model("life", version="v1")
        assert shown.inputs == (grey.TensorSpec("x", "FP32", ("N", 2)),)
        assert shown.members["created"] > 0
        client.unload("life", version="v1")
        assert client.model("life", version="v1").state == "unloaded"
        assert set(client.remove("life")) == {"v1", second.version}
        for gone in (client.model, client.ready, client.load, client.unload, client.remove):
            with pytest.raises(grey.NotFound):
                gone("life")

    def test_labels_are_followed(self, client: grey.Client, node: GreyNode, models: Path, key: str) -> None:
        client.add("labelled", models / "affine.onnx", version="v1")
        node.cli("model", "label", "labelled", "stable", "--version", "v1")
        client.add("labelled", models / "mlp.onnx", version="v2")
        for _ in range(2):
            result = client.infer("labelled", [[1, 2]], version="stable", verify=grey.Policy(software_keys=[key]))
            assert (result.version, result["y"].tolist()) == ("v1", [[5]])
        assert client.model("labelled", version="stable").labels == ("stable",)
        node.cli("model", "label", "labelled", "stable", "--version", "v2")
        assert client.infer("labelled", np.ones((1, 8)).tolist(), version="stable").version == "v2"
        client.remove("labelled")

    def test_a_folder_with_labels_and_an_example(self, client: grey.Client, models: Path, tmp_path: Path) -> None:
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "model.onnx").write_bytes((models / "affine.onnx").read_bytes())
        (tmp_path / "m" / "words.txt").write_text("a\nb\n")
        example = {"x": np.ones((1, 2), np.float32)}
        added = client.add("folder", tmp_path / "m", labels=["stable"], example=example)
        assert (added.labels, set(added.members["files"])) == (("latest", "stable"), {"model.onnx", "words.txt"})
        assert client.infer("folder", [[1, 2]], version="stable").version == added.version
        for bad, says in [
            ({"x": np.ones((1, 3), np.float32)}, "shape"),
            ({"x": np.full((1, 2), np.inf, np.float32)}, "expected values that JSON has"),
            ({"x": np.ones((1, 2), ml_dtypes.bfloat16)}, "JSON has no BF16"),
        ]:
            with pytest.raises(grey.InvalidArgument, match=says):
                client.add("folder", models / "affine.onnx", version="bad", example=bad)
        client.remove("folder")

    def test_files_that_are_none(self, client: grey.Client, models: Path, tmp_path: Path) -> None:
        for file, says in [
            (tmp_path / "none.onnx", "No such file"),
            (tmp_path, "is empty"),
            ([models / "mlp.onnx", "/dev/null"], "/dev/null is a device"),
            (models / "truncated.onnx", "truncated|parse|protobuf|load"),
        ]:
            with pytest.raises(grey.Error, match=says):
                client.add("bad", file)
        assert all(m.id != "bad" for m in client.models())

    def test_the_node(self, client: grey.Client, key: str) -> None:
        node = client.node()
        assert (node.version, node.ready, node.platform, node.node_key) == (grey.__version__, True, "SOFTWARE", key)
        assert client.ready()
        assert {m.id for m in client.models()} >= {"mlp", "affine"}


class Meddler:
    """Stands between client and node, and changes what passes."""

    def __init__(self, node: GreyNode, change: Callable[[str, bytes], bytes]) -> None:
        self.node, self.change = node, change
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://{}:{}".format(*self.listener.getsockname())
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as reader:
                while head := read_head(reader):
                    line, headers = head
                    body = reader.read(int(headers.get("content-length", "0")))
                    method, path, _ = line.split(" ")
                    kept = {k: v for k, v in headers.items() if k.startswith(("inference", "content-type"))}
                    reply = self.node.request(method, path, body, kept)
                    answer = self.change(path, reply.body)
                    length = reply.headers.get("inference-header-content-length")
                    more = f"inference-header-content-length: {length}\r\n" if length else ""
                    connection.sendall(
                        f"HTTP/1.1 {reply.status} X\r\ncontent-length: {len(answer)}\r\n{more}\r\n".encode() + answer
                    )


def read_head(reader: Any) -> tuple[str, dict[str, str]] | None:
    line = reader.readline().decode().strip()
    if not line:
        return None
    headers = {}
    while field := reader.readline().decode().strip():
        name, _, value = field.partition(": ")
        headers[name.lower()] = value
    return line, headers


class TestProofs:
    def test_a_proof_that_is_verified_on_arrival(self, client: grey.Client, key: str) -> None:
        policy = grey.Policy(software_keys=[key])
        result = client.infer("affine", {"x": np.ones((3, 2), np.float32)}, verify=policy)
        assert result.verdict
        assert result.proof is not None
        # Anybody can verify it later.
        known = {"inputs": {"x": np.ones((3, 2), np.float32)}, "outputs": result.outputs}
        assert grey.verify(result.proof, policy=policy, **known, nonce=result.proof.nonce)
        hashed = client.model("affine").model_hash
        assert client.infer("affine", [[1, 2]], verify=policy, model_hash=hashed).verdict
        assert client.infer(
            "affine", [[1, 2]], verify={"software_keys": "any"}, salt=bytes(32), nonce=b"12345678"
        ).verdict

    def test_chosen_outputs_are_verified(self, client: grey.Client, key: str) -> None:
        given = {"INPUT0": np.ones((2, 16), np.int32), "INPUT1": np.ones((2, 16), np.int32)}
        policy = grey.Policy(software_keys=[key])
        assert client.infer("simple", given, outputs=["OUTPUT1"], verify=policy).verdict
        assert client.infer("simple", given, outputs=["OUTPUT1", "OUTPUT0"], verify=policy).verdict

    def test_large_tensors_are_verified_too(self, client: grey.Client, key: str) -> None:
        large = np.array([["a" * (1 << 20), "b" * (1 << 20)]])
        assert client.infer("identity_bytes", {"x": large}, verify=grey.Policy(software_keys=[key])).verdict

    def test_a_proof_of_somebody_else(self, client: grey.Client, key: str) -> None:
        with pytest.raises(grey.ProofRejected, match="the answer's proof is not valid; measurement: ") as caught:
            client.infer("affine", [[1, 2]], verify=grey.Policy(software_keys=["00" * 32]))
        rejected = pickle.loads(pickle.dumps(caught.value))
        assert [c.name for c in rejected.verdict.failed] == ["measurement"]
        assert grey.verify(rejected.proof, software_keys=[key])
        with pytest.raises(grey.ProofRejected, match="model-hash"):
            client.infer("affine", [[1, 2]], verify=grey.Policy(software_keys=[key]), model_hash="00" * 32)
        for policy, says in [
            (grey.Policy(software_keys=["12"]), "policy/software_keys/0: expected 32 bytes in hex"),
            ({"max_agee": 1}, "policy/max_agee"),
            (grey.Policy(software_keys=7), "policy/software_keys: expected a list, found int"),  # type: ignore[arg-type]
        ]:
            with pytest.raises(grey.ProofInputError, match=says):
                client.infer("affine", [[1, 2]], verify=policy)

    def test_a_salted_proof_is_kept_with_its_nonce(self, client: grey.Client, key: str) -> None:
        result = client.infer("affine", [[1, 2]], prove=True, salt=bytes(range(32)), nonce=b"0123456789")
        assert result.proof is not None
        assert (result.verdict, result.proof.nonce) == (None, b"0123456789")
        given = {"inputs": {"x": np.array([[1, 2]], np.float32)}, "salt": bytes(range(32)), "nonce": b"0123456789"}
        assert grey.verify(result.proof, software_keys=[key], outputs=result.outputs, **given)

    def test_answers_that_were_changed_on_the_way(self, node: GreyNode, key: str) -> None:
        def flip(path: str, body: bytes) -> bytes:
            return body[:-1] + bytes([body[-1] ^ 1]) if path.endswith("/infer") else body

        x = {"x": np.ones((1, 2), np.float32)}
        with grey.Client(Meddler(node, flip).url) as client:
            assert client.infer("affine", x)["y"][0, 0] != 3, "nobody sees it without a proof"
            with pytest.raises(grey.BadAnswer, match="its proof is not one of this answer: output-hash"):
                client.infer("affine", x, prove=True)
            with pytest.raises(grey.ProofRejected, match="output-hash"):
                client.infer("affine", x, verify=grey.Policy(software_keys=[key]))

    def test_an_old_proof_is_not_taken_for_a_new_one(self, node: GreyNode, key: str) -> None:
        kept: dict[str, bytes] = {}

        def again(path: str, body: bytes) -> bytes:
            return kept.setdefault(path.partition("?")[0], body)

        x = {"x": np.ones((1, 2), np.float32)}
        policy = grey.Policy(software_keys=[key])
        with grey.Client(Meddler(node, again).url) as client:
            client.infer("affine", x, verify=policy)
            with pytest.raises(grey.ProofRejected, match="nonce"):
                client.infer("affine", x, verify=policy)

    def test_replays(self, client: grey.Client, node: GreyNode, models: Path, start: Any) -> None:
        x = {"x": np.random.default_rng(2).normal(size=(3, 8)).astype(np.float32)}
        proven = client.infer("mlp", x, prove=True, version="1")
        assert proven.proof is not None
        replay = client.replay(proven.proof, x)
        assert replay
        assert (replay.result, replay.model, replay.version) == ("reproduced", "mlp", "1")
        assert replay.replayed_output_hash == replay.recorded_output_hash == proven.proof.output_hash
        np.testing.assert_array_equal(replay.outputs["y"], proven["y"])
        assert grey.replay(node.url, proven.proof.proof, {"x": x["x"].tolist()})
        with pytest.raises(grey.InvalidArgument):
            client.replay(proven.proof, {"x": x["x"] + 1})
        with pytest.raises(grey.ProofInputError):
            client.replay(b"no proof", x)
        with pytest.raises(grey.InvalidArgument, match="expected an InferenceProof or its bundle, found str"):
            client.replay("proof.json", x)  # type: ignore[arg-type]
        strict = start("strict", config="allow_replay: false\n")
        with (
            grey.Client(strict.url) as other,
            pytest.raises(grey.PermissionDenied, match="this node replays no proofs"),
        ):
            other.replay(proven.proof, x)


class Wrong:
    """A server that reads one request of each connection and then does what it is told."""

    def __init__(self, then: Callable[[socket.socket], None], hold: bool = False) -> None:
        self.then, self.hold, self.requests = then, hold, 0
        self.ended = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://{}:{}".format(*self.listener.getsockname())
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.one, args=(connection,), daemon=True).start()

    def one(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader:
            head = read_head(reader)
            if head is None:
                return
            reader.read(int(head[1].get("content-length", "0")))
            self.requests += 1
            with contextlib.suppress(OSError):
                self.then(connection)
            if self.hold:
                # Until the client hangs up.
                with contextlib.suppress(OSError):
                    connection.recv(1)
                self.ended.set()


def saying(text: str | bytes) -> Callable[[socket.socket], None]:
    data = text.encode() if isinstance(text, str) else text
    return lambda connection: connection.sendall(data)


def refusing(status: int, headers: str = "") -> Callable[[socket.socket], None]:
    body = b'{"error": "said so"}'
    return saying(f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body)


X = {"x": ONES}


class TestWrongServers:
    @pytest.mark.parametrize(
        ("then", "error", "says"),
        [
            (saying("SSH-2.0-OpenSSH_9.9\r\n"), grey.NotANode, "not HTTP.*is it a Grey node"),
            (saying("HTTP/1.1 404 X\r\ncontent-length: 2\r\n\r\nno"), grey.NotANode, "404"),
            (saying("HTTP/1.1 302 X\r\nlocation: http://b/\r\ncontent-length: 0\r\n\r\n"), grey.NotANode, "points to"),
            (saying(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 1_000_000), grey.NotANode, "not HTTP"),
            (saying(""), grey.ConnectionBroken, "before it answered"),
            (saying("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"), grey.ConnectionBroken, "broke off after 4"),
            (saying("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"), grey.BadAnswer, "no inference answer"),
            (
                saying("HTTP/1.1 200 OK\r\ninference-header-content-length: 9\r\ncontent-length: 2\r\n\r\n{}"),
                grey.BadAnswer,
                "says 9 bytes of JSON",
            ),
            (saying(f"HTTP/1.1 200 OK\r\ncontent-length: {1 << 50}\r\n\r\n"), grey.BadAnswer, "larger than"),
            (refusing(503), grey.Unavailable, "said so"),
            (refusing(418), grey.InvalidArgument, "said so"),
        ],
    )
    def test_each_has_its_exception(
        self, then: Callable[[socket.socket], None], error: type[grey.Error], says: str
    ) -> None:
        with grey.Client(Wrong(then).url, timeout=20) as client, pytest.raises(error, match=says) as caught:
            client.infer("mlp", X)
        assert type(caught.value) is error

    @pytest.mark.parametrize("kind", _native.ERROR_KINDS)
    def test_every_kind_of_the_core_keeps_its_class(self, kind: str) -> None:
        with grey.Client(Wrong(refusing(500, f"grey-error-kind: {kind}\r\n")).url) as client:
            with pytest.raises(grey.Error, match="said so") as caught:
                client.infer("mlp", X)
            assert type(caught.value) is grey.errors.BY_KIND[kind]

    @pytest.mark.parametrize("datatype", ["FP32", "INT8", "BYTES", "BF16"])
    @pytest.mark.parametrize("shape", [[0, 2**63], [0, 2**62, 8], [0, 2**31, 2**31, 2**31]])
    def test_a_shape_that_no_array_has(self, datatype: str, shape: list[int]) -> None:
        tensor = {"name": "y", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": 0}}
        head = json.dumps({"model_name": "mlp", "model_version": "1", "outputs": [tensor]})
        answer = f"inference-header-content-length: {len(head)}\r\ncontent-length: {len(head)}\r\n\r\n{head}"
        url = Wrong(saying(f"HTTP/1.1 200 OK\r\n{answer}")).url
        with grey.Client(url, timeout=20) as client, pytest.raises(grey.BadAnswer):
            client.infer("mlp", X)

        async def several() -> list[Any]:
            async with grey.AsyncClient(url, timeout=20) as client:
                calls = [client.infer("mlp", X) for _ in range(5)]
                return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 20)

        assert all(isinstance(e, grey.Error) for e in asyncio.run(several()))

    def test_a_call_s_time_covers_the_question_for_the_signature(self) -> None:
        silent = Wrong(lambda _: None, hold=True)
        with (
            grey.Client(silent.url, timeout=60) as client,
            pytest.raises(grey.DeadlineExceeded, match=r"within 0\.3 s"),
        ):
            client.infer("mlp", [[1] * 8], timeout=0.3)

    def test_nobody_is_there(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = "http://{}:{}".format(*listener.getsockname())
        with pytest.raises(grey.ConnectFailed, match=f"cannot reach a node at {url}: .*refused") as caught:
            grey.Client(url).infer("mlp", X)
        assert isinstance(caught.value, ConnectionError)
        with pytest.raises(grey.ConnectFailed, match=r"no-such-host\.invalid"):
            grey.Client("http://no-such-host.invalid").models()

    def test_half_open_and_slow(self) -> None:
        silent = Wrong(lambda _: None, hold=True)
        with grey.Client(silent.url) as client:
            with pytest.raises(grey.DeadlineExceeded, match=r"within 0\.3 s: it waited for the answer"):
                client.infer("mlp", X, timeout=0.3)
            assert silent.ended.wait(20), "the client hung up"
            with pytest.raises(grey.DeadlineExceeded):
                client.models(timeout=0.3)

    def test_a_full_node_is_asked_again(self) -> None:
        full = Wrong(refusing(503, "retry-after: 0\r\ngrey-error-kind: overloaded\r\n"))
        with grey.Client(full.url, retries=3) as client, pytest.raises(grey.Overloaded) as caught:
            client.infer("mlp", X)
        assert (full.requests, caught.value.retry_after) == (4, 0)
        late = Wrong(refusing(503, "retry-after: 30\r\n"))
        with grey.Client(late.url, retries=3) as client, pytest.raises(grey.Unavailable) as caught:
            client.infer("mlp", X, timeout=5)
        assert (late.requests, caught.value.retry_after) == (1, 30)

    @pytest.mark.parametrize(
        ("url", "says"),
        [
            ("", "did you mean http://"),
            ("127.0.0.1:8000", "did you mean http://127.0.0.1:8000"),
            ("https://node", "TLS is not supported yet"),
            ("http://node:99999", "its port is '99999'"),
            ("http://me:secret@node", "names no user"),
        ],
    )
    def test_addresses_that_are_none(self, url: str, says: str) -> None:
        with pytest.raises(grey.InvalidArgument, match=says):
            grey.Client(url)

    @pytest.mark.parametrize(
        ("settings", "says"),
        [
            ({"timeout": -1}, "timeout: expected seconds"),
            ({"connect_timeout": float("nan")}, "connect_timeout: expected seconds"),
            ({"retries": -1}, "retries: expected an integer, 0 or more, found -1"),
            ({"connections": 0}, "connections: expected an integer, 1 or more, found 0"),
            ({"max_answer_bytes": "1G"}, "max_answer_bytes: expected an integer, 1 or more, found '1G'"),
            ({"tenant": "a b"}, "invalid tenant"),
        ],
    )
    def test_settings_that_are_none(self, settings: Any, says: str) -> None:
        with pytest.raises(grey.InvalidArgument, match=says):
            grey.Client("http://node", **settings)


class TestAsync:
    def test_many_calls_at_once(self, node: GreyNode) -> None:
        async def main() -> list[float]:
            async with grey.AsyncClient(node.url, connections=20) as client:
                calls = (client.infer("affine", {"x": np.full((1, 2), n, np.float32)}) for n in range(500))
                return [float(r["y"][0, 0]) for r in await asyncio.gather(*calls)]

        assert asyncio.run(main()) == [3.0 * n for n in range(500)]

    def test_every_method(self, node: GreyNode, models: Path, key: str) -> None:
        client = grey.AsyncClient(node.url)

        async def main() -> None:
            added = await client.add("other", models / "affine.onnx")
            assert added.state == "ready"
            assert await client.ready("other")
            assert (await client.infer("other", [[1, 2]]))["y"].tolist() == [[5]]
            assert (await client.infer("other", pd.DataFrame({"a": [1], "b": [2]})))["y"].tolist() == [[5]]
            proven = await client.infer("other", [[1, 2]], verify=grey.Policy(software_keys=[key]))
            assert proven.verdict
            assert proven.proof is not None
            assert await client.replay(proven.proof, [[1, 2]])
            assert (await client.model("other")).id == "other"
            await client.unload("other")
            assert (await client.load("other")).state == "ready"
            assert await client.remove("other") == [added.version]
            assert "other" not in [m.id for m in await client.models()]
            assert (await client.node()).ready
            with pytest.raises(grey.NotFound):
                await client.infer("other", X)

        # In one event loop after the other.
        asyncio.run(main())
        asyncio.run(main())

        async def end() -> None:
            await client.close()
            with pytest.raises(grey.Closed):
                await client.models()

        asyncio.run(end())

    def test_a_cancelled_call_hangs_up_and_harms_nobody(self, node: GreyNode) -> None:
        silent = Wrong(lambda _: None, hold=True)

        async def main() -> None:
            async with grey.AsyncClient(silent.url) as client:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(client.infer("mlp", X), 0.2)
                assert await asyncio.to_thread(silent.ended.wait, 20), "the server saw it"
            async with grey.AsyncClient(node.url, connections=2) as client:
                spin = {"n": np.array([[3_000_000]]), "x": np.zeros((1, 1), np.float32)}
                calls = [asyncio.ensure_future(client.infer("spin", spin)) for _ in range(10)]
                await asyncio.sleep(0.1)
                for call in calls:
                    call.cancel()
                ended = await asyncio.gather(*calls, return_exceptions=True)
                assert all(isinstance(e, asyncio.CancelledError) for e in ended)
                results = await asyncio.gather(*(client.infer("mlp", X) for _ in range(20)))
                assert len(results) == 20

        asyncio.run(main())

    def test_both_forms_are_alike(self) -> None:
        def methods(form: type) -> dict[str, list[Any]]:
            found = inspect.getmembers(form, inspect.isfunction)
            return {
                name: [(p.name, p.kind, p.default, p.annotation) for p in inspect.signature(f).parameters.values()]
                for name, f in found
                if not name.startswith("_")
            }

        assert methods(grey.Client) == methods(grey.AsyncClient)
        for name in methods(grey.AsyncClient):
            assert getattr(grey.AsyncClient, name).__doc__ == f"As :meth:`Client.{name}`."
            assert len(getattr(grey.Client, name).__doc__) > 20


def use_in_child(client: grey.Client, url: str, queue: Any) -> None:
    said: list[Any] = []
    for call in (lambda: client.infer("mlp", X), client.models, lambda: copy.deepcopy(client)):
        try:
            said.append(type(call()).__name__)
        except grey.Error as e:
            said.append(f"{type(e).__name__}: {e}")
    client.close()
    with grey.Client(url) as own:
        said.append(own.infer("affine", [[1, 2]])["y"].tolist())
    queue.put(said)


class TestProcesses:
    def test_a_forked_child_is_told(self, client: grey.Client, node: GreyNode) -> None:
        client.infer("mlp", X)
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(target=use_in_child, args=(client, node.url, queue))
        child.start()
        infer, models, copied, own = queue.get(timeout=60)
        child.join(60)
        assert child.exitcode == 0
        assert infer.startswith("Forked: this object belongs to process ")
        assert models.startswith("Forked: ")
        assert (copied, own) == ("Client", [[5.0]])
        client.infer("mlp", X)

    def test_copies_have_the_settings(self, node: GreyNode) -> None:
        for form in (grey.Client, grey.AsyncClient):
            client = form(node.url, tenant="t", timeout=7, retries=1)
            for again in (pickle.loads(pickle.dumps(client)), copy.deepcopy(client), copy.copy(client)):
                assert (type(again), again.url, again._settings) == (form, client.url, client._settings)
        client = grey.Client(node.url)
        again = copy.copy(client)
        client.close()
        assert again.infer("affine", [[1, 2]])["y"].tolist() == [[5]]

    def test_results_and_exceptions_are_copied(self, client: grey.Client) -> None:
        result = client.infer("affine", [[1, 2]], prove=True)
        model, status, info = client.model("affine"), client.models()[0], client.node()
        assert result.proof is not None
        replay = client.replay(result.proof, [[1, 2]])
        for value in (model, status, info, grey.Policy(software_keys=["ab"])):
            assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value) == value
        for again in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
            assert again.proof == result.proof
            np.testing.assert_array_equal(again["y"], result["y"])
        assert pickle.loads(pickle.dumps(replay)).result == "reproduced"
        for kind, of in grey.errors.BY_KIND.items():
            if kind != "proof_rejected":
                error = of("why", 1.5)
                again = pickle.loads(pickle.dumps(error))
                assert (type(again), str(again), again.retry_after) == (of, "why", 1.5)

    def test_ctrl_c_ends_a_call(self) -> None:
        silent = Wrong(lambda _: None, hold=True)
        code = f"import grey\nprint('up', flush=True)\ngrey.Client({silent.url!r}).models(timeout=600)"
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        wait_until(lambda: silent.requests, "the request")
        os.kill(child.pid, signal.SIGINT)
        _, said = child.communicate(timeout=30)
        assert said.strip().endswith("KeyboardInterrupt"), said

    def test_a_closed_client(self, node: GreyNode) -> None:
        silent = Wrong(lambda _: None, hold=True)
        client = grey.Client(silent.url)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client.infer, "mlp", X)
            wait_until(lambda: silent.requests, "the request")
            client.close()
            with pytest.raises(grey.Closed, match="the client is closed"):
                waiting.result(20)
        assert silent.ended.wait(20)
        with pytest.raises(grey.Closed):
            client.models()
        client.close()

    def test_a_node_that_was_started_anew(self, start: Any, models: Path, tmp_path: Path) -> None:
        first = start("anew")
        first.add("affine", models / "affine.onnx")
        with grey.Client(first.url) as client:
            assert client.infer("affine", [[1, 2]])["y"].tolist() == [[5]]
            assert first.stop() == 0
            with pytest.raises(grey.ConnectFailed):
                client.infer("affine", {"x": np.ones((1, 2), np.float32)})
            start("anew", http=first.netloc)
            wait_until(client.ready, "the node")
            assert client.infer("affine", [[1, 2]])["y"].tolist() == [[5]]


def test_the_examples_of_the_documentation_run(
    node: GreyNode, key: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(models / "affine.onnx", tmp_path / "model.onnx")
    tried = 0
    with grey.Client(node.url) as client:
        for model in client.models():
            if model.id not in {"affine", "digits"}:
                client.unload(model.id)
        x = np.array([[1.0, 2.0]], np.float32)
        proven = client.infer("affine", {"x": x}, prove=True)
        reader = {
            "url": node.url,
            "client": client,
            "node_key": key,
            "proof": proven.proof,
            "proven": proven,
            "x": x,
            "np": np,
            "grey": grey,
            "asyncio": asyncio,
        }
        for module in (grey.client, sys.modules["grey.policy"]):
            done = doctest.testmod(module, extraglobs=reader, optionflags=doctest.ELLIPSIS)
            assert done.failed == 0
            tried += done.attempted
    assert tried >= 20


def test_the_server_is_asked_once_for_plain_arrays(node: GreyNode) -> None:
    seen: list[str] = []

    def note(path: str, body: bytes) -> bytes:
        seen.append(path)
        return body

    with grey.Client(Meddler(node, note).url) as client:
        client.infer("affine", {"x": np.ones((1, 2), np.float32)})
        client.infer("affine", [[1, 2]], version="1")
        client.infer("affine", [[1, 2]], version="1")
    infer = "/v2/models/affine/versions/1/infer"
    assert seen == ["/v2/models/affine/infer", "/v2/models/affine/versions/1", infer, infer]


def test_the_page_on_clients_runs(
    node: GreyNode,
    key: str,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = Path(__file__).parents[1] / "docs" / "client.md"
    shutil.copy(models / "affine.onnx", tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    reader: dict[str, Any] = {"url": node.url, "node_key": key}
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 8
    for block in blocks:
        line = page.read_text()[: page.read_text().index(block)].count("\n")
        exec(compile("\n" * line + block, str(page), "exec"), reader)
    printed = capsys.readouterr().out
    for says in ["affine 1", "did not answer within 0 s", "['measurement']", "the client is closed", '"SOFTWARE"']:
        assert says in printed
