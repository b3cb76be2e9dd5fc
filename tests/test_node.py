"""The node inside a Python process: ``grey.Node`` and ``grey.AsyncNode``, with real models and real hosts."""

from __future__ import annotations

import asyncio
import copy
import gc
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grey
import ml_dtypes
import numpy as np
import pandas as pd
import pytest
from conftest import alive, wait_until
from grey import _native, errors
from PIL import Image

ONES = np.ones((1, 8), np.float32)


@pytest.fixture(scope="module")
def node(models: Path) -> Iterator[grey.Node]:
    with grey.Node() as node:
        for name in ["mlp", "gather", "spin", *(f"identity_{d}" for d in ["bool", "uint8", "int64", "fp16", "bf16"])]:
            node.add(name, models / f"{name}.onnx")
        node.add("text", models / "identity_bytes.onnx")
        node.add("image", models / "identity_uint8.onnx")
        yield node


def expected(models: Path, name: str, **inputs: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """What the runtime itself says."""
    import onnxruntime

    return list(onnxruntime.InferenceSession(models / f"{name}.onnx").run(None, inputs))


class TestInfer:
    def test_answers_are_the_runtime_s_own(self, node: grey.Node, models: Path) -> None:
        x = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
        result = node.infer("mlp", {"x": x}, request_id="mine", version="1")
        np.testing.assert_allclose(result["y"], expected(models, "mlp", x=x)[0], rtol=1e-5)
        assert (result.model, result.version, result.id, result.proof) == ("mlp", "1", "mine", None)
        assert result.queue_seconds is not None
        assert result.execute_seconds is not None
        assert 0 <= result.queue_seconds < 60
        assert 0 < result.execute_seconds < 60
        # What came back is the caller's own.
        result["y"][0, 0] = 7
        with pytest.raises(KeyError, match="no output 'z'; the answer has 'y'"):
            result["z"]

    def test_results_and_models_can_be_copied(self, node: grey.Node) -> None:
        result = node.infer("mlp", {"x": ONES}, prove=True)
        for again in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
            np.testing.assert_array_equal(again["y"], result["y"])
            assert again.proof == result.proof
        model = node.model("mlp")
        assert pickle.loads(pickle.dumps(model)) == copy.deepcopy(model) == model

    @pytest.mark.parametrize(
        ("name", "array"),
        [
            ("identity_bool", np.array([[True, False]])),
            ("identity_uint8", np.array([[0, 255]], np.uint8)),
            ("identity_int64", np.array([[-(2**63), 2**63 - 1]])),
            ("identity_fp16", np.array([[0.5, -np.inf]], np.float16)),
        ],
    )
    def test_dtypes_come_back(self, node: grey.Node, name: str, array: np.ndarray[Any, Any]) -> None:
        y = node.infer(name, {"x": array})["y"]
        assert (y.dtype, y.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(y, array)

    def test_bfloat16_goes_in_and_comes_back_as_float32(self, node: grey.Node) -> None:
        x = np.array([[1.5, -3.0]], ml_dtypes.bfloat16)
        y = node.infer("identity_bf16", {"x": x})["y"]
        assert y.dtype == np.float32
        np.testing.assert_array_equal(y, x.astype(np.float32))

    @pytest.mark.parametrize(
        "x", [[["é", "z"]], np.array([["é", b"z"]], object), np.array([["é", "z"]]), np.array([[b"\xc3\xa9", b"z"]])]
    )
    def test_texts_and_bytes(self, node: grey.Node, x: Any) -> None:
        assert node.infer("text", {"x": x})["y"].tolist() == [["é".encode(), b"z"]]

    @pytest.mark.parametrize("x", [[[b"\x01\x00", b"\x00\x00"]], (("a\0", "b"),), np.array([[b"a\0", "b"]], object)])
    def test_no_byte_of_a_text_is_lost(self, node: grey.Node, x: Any) -> None:
        sent = [e if isinstance(e, bytes) else e.encode() for e in next(iter(x))]
        assert node.infer("text", {"x": x})["y"].tolist() == [sent]

    def test_arrays_that_lie_otherwise_in_memory(self, node: grey.Node, models: Path) -> None:
        x = np.random.default_rng(2).normal(size=(8, 4)).astype(np.float32)
        want = expected(models, "mlp", x=np.ascontiguousarray(x.T))[0]
        others = [x.T, np.asfortranarray(x.T), x.T.astype(">f4"), np.repeat(x.T, 2, axis=1)[:, ::2], np.ma.array(x.T)]
        for other in others:
            np.testing.assert_allclose(node.infer("mlp", {"x": other})["y"], want, rtol=1e-5)

    def test_what_is_no_array_takes_the_model_s_dtype(self, node: grey.Node, models: Path) -> None:
        want = expected(models, "mlp", x=ONES)[0]
        frame = pd.DataFrame([[1] * 8], columns=list("abcdefgh"))
        for x in ([[1] * 8], ((1.0,) * 8,), frame):
            for inputs in (x, {"x": x}):
                np.testing.assert_allclose(node.infer("mlp", inputs)["y"], want, rtol=1e-5)
        assert node.infer("gather", [[3, 4]])["y"].tolist() == [[[6, 7], [8, 9]]]
        series = pd.Series([3, 4]).to_frame().T
        assert node.infer("gather", {"ids": series})["y"].tolist() == [[[6, 7], [8, 9]]]
        image = Image.new("L", (2, 3), 200)
        np.testing.assert_array_equal(node.infer("image", image)["y"], np.full((3, 2), 200, np.uint8))

    @pytest.mark.parametrize(
        ("inputs", "error", "says"),
        [
            ({"x": ONES.astype(np.float64)}, grey.InvalidArgument, "expected FP32, got FP64"),
            ({"z": ONES}, grey.InvalidArgument, "unexpected input 'z' for model 'mlp', which takes 'x'"),
            ({}, grey.InvalidArgument, "input"),
            ({"x": ONES[:0]}, grey.InvalidArgument, "the first dimension counts rows; it is 0, expected at least 1"),
            ({"x": ONES[:, :7]}, grey.InvalidArgument, r"expected \[-1, 8\], got \[1, 7\]"),
            ({"x": [["a"] * 8]}, grey.InvalidArgument, "expected FP32, got BYTES"),
            ({"x": [[1j] * 8]}, grey.InvalidArgument, "input 'x': expected numbers for FP32, found complex128"),
            (
                {"x": ONES.astype(np.complex64)},
                grey.InvalidArgument,
                "expected a dtype among bool, .*, found complex64",
            ),
            ({"x": ONES.astype("M8[s]")}, grey.InvalidArgument, "found datetime64"),
            (
                {"x": np.array([[object()] * 8])},
                grey.InvalidArgument,
                "input 'x': expected texts or bytes, found object",
            ),
            ({"x": [[1, 2], [3]]}, grey.InvalidArgument, "input 'x': expected an array, or what numpy makes one of"),
            ({"x": np.ma.masked_less(ONES, 2)}, grey.InvalidArgument, "expected an array without masked elements"),
            ({3: ONES}, grey.InvalidArgument, "expected texts as names, found int"),
            (object(), grey.InvalidArgument, "expected"),
        ],
    )
    def test_bad_inputs(self, node: grey.Node, inputs: Any, error: type[Exception], says: str) -> None:
        with pytest.raises(error, match=says):
            node.infer("mlp", inputs)

    @pytest.mark.parametrize(
        ("x", "says"),
        [
            ([[1.5, 2]], r"expected values that int64 \(INT64\) holds, found others among 1.5, 2.0"),
            ([[2**63, 1]], "INT64"),
        ],
    )
    def test_no_value_is_bent(self, node: grey.Node, x: Any, says: str) -> None:
        with pytest.raises(grey.InvalidArgument, match=says):
            node.infer("gather", x)
        with pytest.raises(grey.InvalidArgument, match=r"uint8 \(UINT8\) holds, found others among 256, 1"):
            node.infer("image", [[256, 1]])

    def test_no_number_becomes_infinite(self, node: grey.Node) -> None:
        for name, x in [("mlp", [[1e39] * 8]), ("identity_fp16", [[70_000, 1]])]:
            with pytest.raises(grey.InvalidArgument, match="holds, found others among"):
                node.infer(name, x)
        assert np.isinf(node.infer("identity_fp16", [[float("inf"), 1]])["y"][0, 0])

    def test_bad_calls(self, node: grey.Node) -> None:
        bad: list[tuple[type[Exception], str, dict[str, Any]]] = [
            (grey.NotFound, "'nope' is not found", {"model": "nope"}),
            (grey.InvalidArgument, "invalid model name '../x'", {"model": "../x"}),
            (grey.NotFound, "version '7'", {"version": "7"}),
            (grey.InvalidArgument, "output 'nope'", {"outputs": ["nope"]}),
            (grey.InvalidArgument, "outputs: expected a list of names, found one name alone: 'y'", {"outputs": "y"}),
            (grey.InvalidArgument, "timeout: expected seconds, 0 or more, found -1", {"timeout": -1}),
            (grey.InvalidArgument, "timeout: expected seconds, 0 or more, found NaN", {"timeout": float("nan")}),
            (grey.InvalidArgument, "invalid tenant 'a b'", {"tenant": "a b"}),
            (grey.InvalidArgument, "give prove=True", {"nonce": b"12345678"}),
            (grey.InvalidArgument, "salt: expected 32 bytes, found 3", {"prove": True, "salt": b"abc"}),
            (grey.InvalidArgument, "nonce", {"prove": True, "nonce": b"abc"}),
            (
                TypeError,
                "parameter 'p': expected a bool, an int, a float or a text, found list",
                {"parameters": {"p": []}},
            ),
        ]
        for error, says, given in bad:
            with pytest.raises(error, match=says):
                node.infer(**{"model": "mlp", "inputs": {"x": ONES}, **given})

    def test_a_proof_verifies(self, node: grey.Node) -> None:
        nonce, salt = os.urandom(32), os.urandom(32)
        result = node.infer("mlp", {"x": ONES}, prove=True, nonce=nonce, salt=salt, tenant="acme")
        assert result.proof is not None
        verdict = grey.verify(
            result.proof,
            software_keys=[node.identity()["node_key"]],
            expected_model_hash=node.model("mlp").model_hash,
            inputs={"x": ONES},
            outputs=result.outputs,
            nonce=nonce,
            salt=salt,
        )
        assert verdict, verdict.why
        other = grey.verify(result.proof, software_keys="any", inputs={"x": 2 * ONES}, salt=salt)
        assert [c.name for c in other.failed] == ["input-hash"]


class TestModels:
    def test_their_life(self, models: Path, tmp_path: Path) -> None:
        with grey.Node(tmp_path / "data") as node:
            added = node.add("m", models / "mlp.onnx", version="a", metadata={"accuracy": 0.9, "by": "me"})
            assert (added.version, added.state, added.metadata) == ("a", "ready", {"accuracy": "0.9", "by": "me"})
            assert [(m.id, m.version, m.latest, m.state) for m in node.models()] == [("m", "a", True, "ready")]
            assert [s.name for s in added.inputs] == ["x"]
            assert added.engine == "onnxruntime"
            pid = added.hosts[0]["pid"]
            assert alive(pid)
            assert node.ready()
            assert node.ready("m")
            node.unload("m")
            wait_until(lambda: not alive(pid), "the host ends with its model")
            assert not node.ready("m")
            with pytest.raises(grey.Unavailable, match="unloaded"):
                node.infer("m", {"x": ONES})
            assert node.load("m").state == "ready"
            assert node.infer("m", {"x": ONES})["y"].shape == (1, 3)
        # The folder stays, and what was loaded is loaded again.
        with grey.Node(tmp_path / "data") as node:
            assert node.infer("m", {"x": ONES})["y"].shape == (1, 3)
            assert node.remove("m") == ["a"]
            assert node.models() == []
            assert any(e["engine"] == "onnxruntime" and e["usable"] for e in node.engines())
            assert "grey_ai_models_loaded 0" in node.metrics()

    @pytest.mark.parametrize(
        ("name", "file", "error", "says"),
        [
            ("m", "nope.onnx", grey.InvalidArgument, "cannot read .*nope.onnx: No such file"),
            ("m", "/dev/null", grey.InvalidArgument, "/dev/null is a device: a model's files are regular files"),
            ("m", "truncated.onnx", grey.InvalidArgument, "model"),
            ("a/b", "mlp.onnx", grey.InvalidArgument, "invalid model name 'a/b'"),
        ],
    )
    def test_bad_models(self, node: grey.Node, models: Path, name: str, file: str, error: Any, says: str) -> None:
        with pytest.raises(error, match=says):
            node.add(name, models / file)


class TestNodes:
    def test_two_in_one_process(self, models: Path, tmp_path: Path) -> None:
        with grey.Node(tmp_path / "a") as a, grey.Node() as b:
            a.add("m", models / "mlp.onnx")
            with pytest.raises(grey.NotFound):
                b.infer("m", {"x": ONES})
            with pytest.raises(grey.FailedPrecondition, match="another"):
                grey.Node(tmp_path / "a")
            b.add("m", models / "mlp.onnx")
            np.testing.assert_array_equal(a.infer("m", {"x": ONES})["y"], b.infer("m", {"x": ONES})["y"])

    @pytest.mark.parametrize(
        ("config", "says"),
        [
            ({"drain_secs": 3}, "there is no key .drain_secs.; did you mean .drain_seconds."),
            ({"limits": {"queue_rows_max": 0}}, "limits.queue_rows_max is 0, expected a whole number from 1"),
            ({"name": object()}, "configuration: expected values that YAML has"),
            ("/nope/grey.yaml", "cannot read /nope/grey.yaml"),
        ],
    )
    def test_a_configuration_that_cannot_be(self, config: Any, says: str) -> None:
        with pytest.raises(grey.InvalidArgument, match=says):
            grey.Node(config=config)

    def test_the_folder_that_a_configuration_names(self, tmp_path: Path, models: Path) -> None:
        config = {"data": str(tmp_path / "kept")}
        with grey.Node(config=config) as node:
            node.add("m", models / "mlp.onnx")
            with pytest.raises(grey.InvalidArgument, match="labels: expected a list of names"):
                node.add("m", models / "mlp.onnx", labels="prod")
            with pytest.raises(grey.NotFound):
                node.ready("nope")
        assert (tmp_path / "kept").is_dir()
        with grey.Node(config=config) as node:
            assert node.infer("m", [[1] * 8], timeout=float("inf"))["y"].shape == (1, 3)

    def test_a_module_in_the_current_folder_is_not_a_host_s(self, tmp_path: Path, models: Path) -> None:
        (tmp_path / "grey.py").write_text("raise SystemExit('not this one')")
        program = f"import grey; n = grey.Node(); n.add('m', {str(models / 'mlp.onnx')!r}); print('served')"
        out = subprocess.run(
            [sys.executable, "-P", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert out.stdout == "served\n", out.stderr

    def test_a_configuration_from_a_file(self, tmp_path: Path, models: Path) -> None:
        (tmp_path / "grey.yaml").write_text("models:\n  m:\n    batching: {max_batch_size: 4}\n")
        with grey.Node(config=tmp_path / "grey.yaml") as node:
            assert node.add("m", models / "mlp.onnx").batching["max_batch_size"] == 4

    def test_a_closed_one(self, models: Path) -> None:
        node = grey.Node()
        pid = node.add("m", models / "mlp.onnx").hosts[0]["pid"]
        folder = node.data
        assert folder.exists()
        node.close()
        node.close()
        assert not alive(pid)
        assert not folder.exists()
        assert "closed" in repr(node)
        with pytest.raises(grey.Closed, match="the node was closed"):
            node.infer("m", {"x": ONES})
        with pytest.raises(grey.Closed):
            node.models()

    def test_one_that_nobody_closed(self, models: Path) -> None:
        node = grey.Node()
        pid, folder = node.add("m", models / "mlp.onnx").hosts[0]["pid"], node.data
        del node
        gc.collect()
        wait_until(lambda: not alive(pid), "the host ends with its node")
        assert not folder.exists()

    def test_hosts_end_with_a_process_that_is_killed(self, models: Path) -> None:
        program = textwrap.dedent(f"""
            import grey, sys, time
            node = grey.Node()
            print(node.add("m", {str(models / "mlp.onnx")!r}).hosts[0]["pid"], flush=True)
            time.sleep(60)
        """)
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert alive(pid)
        process.kill()
        process.wait()
        wait_until(lambda: not alive(pid), "the host ends with its node's process")

    def test_a_copy_is_refused(self, node: grey.Node) -> None:
        for make in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="a Node lives in its process"):
                make(node)

    def test_a_forked_child(self, node: grey.Node, models: Path) -> None:
        """In the child the parent's node raises, and a new one works; the parent's is unharmed."""
        node.infer("mlp", {"x": ONES})

        def child(say: Any) -> None:
            try:
                node.infer("mlp", {"x": ONES})
            except grey.Forked as e:
                say.send(str(e))
            with grey.Node() as own:
                own.add("m", models / "mlp.onnx")
                say.send(own.infer("m", {"x": ONES})["y"].shape)

        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=child, args=(there,))
        process.start()
        assert here.poll(60), "the child says something"
        assert f"belongs to process {os.getpid()}" in here.recv()
        assert here.poll(60)
        assert here.recv() == (1, 3)
        process.join(60)
        assert process.exitcode == 0
        assert node.infer("mlp", {"x": ONES})["y"].shape == (1, 3)
        assert node.data.exists()

    def test_a_child_that_ends_as_python_ends_leaves_the_folder(self, models: Path) -> None:
        program = textwrap.dedent(f"""
            import grey, os, sys
            node = grey.Node()
            node.add("m", {str(models / "mlp.onnx")!r})
            if (pid := os.fork()) == 0:
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            assert node.data.exists()
            print(node.infer("m", [[1] * 8])["y"].shape)
        """)
        out = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60
        )
        assert (out.stdout, out.returncode) == ("(1, 3)\n", 0), out.stderr

    def test_a_child_s_end_leaves_the_folder_locked(self, models: Path, tmp_path: Path) -> None:
        program = textwrap.dedent(f"""
            import grey, os, sys
            node = grey.Node({str(tmp_path / "data")!r})
            node.add("m", {str(models / "mlp.onnx")!r})
            if (pid := os.fork()) == 0:
                del node
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            try:
                grey.Node({str(tmp_path / "data")!r})
            except grey.FailedPrecondition as e:
                print("in use" in str(e))
        """)
        out = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60, check=False
        )
        assert (out.stdout, out.returncode) == ("True\n", 0), out.stderr

    def test_ctrl_c_ends_a_call(self, models: Path) -> None:
        program = textwrap.dedent(f"""
            import grey, numpy as np
            node = grey.Node()
            node.add("m", {str(models / "spin.onnx")!r})
            print("running", flush=True)
            try:
                node.infer("m", {{"n": [[2**40]], "x": [[0]]}})
            except KeyboardInterrupt:
                print("interrupted", flush=True)
        """)
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert process.wait(30) == 0


class TestCapacity:
    def test_a_full_queue_makes_calls_wait(self, models: Path) -> None:
        """Where a server says 503, a call waits: 300 calls through a queue of 4 rows all have their own rows."""
        with grey.Node(config={"limits": {"queue_rows_max": 4}, "batching": {"max_batch_size": 2}}) as node:
            node.add("m", models / "gather.onnx")
            answers: dict[int, Any] = {}

            def call(i: int) -> None:
                for j in range(i, 300, 20):
                    answers[j] = node.infer("m", {"ids": np.array([[j % 10, 0]])})["y"]

            threads = [threading.Thread(target=call, args=(i,)) for i in range(20)]
            for t in threads:
                t.start()
            for t in threads:
                t.join(60)
            assert sorted(answers) == list(range(300))
            for j, y in answers.items():
                assert y.tolist() == [[[2 * (j % 10), 2 * (j % 10) + 1], [0, 1]]]

    def test_a_full_budget_makes_calls_wait(self, models: Path) -> None:
        async def run() -> None:
            async with grey.AsyncNode(config={"limits": {"inflight_bytes_max": 100_000}}) as node:
                await node.add("m", models / "gather.onnx")
                # Each takes a third of the budget for its input, and twice as much for its output.
                inputs = [np.full((2000, 2), i % 10) for i in range(50)]
                results = await asyncio.gather(*(node.infer("m", {"ids": x}) for x in inputs))
                for i, r in enumerate(results):
                    assert r["y"].shape == (2000, 2, 2)
                    assert (r["y"] == [2 * (i % 10), 2 * (i % 10) + 1]).all()
                with pytest.raises(grey.TooLarge, match="inflight_bytes_max"):
                    await node.infer("m", {"ids": np.zeros((10_000, 2), np.int64)})

        asyncio.run(run())

    def test_the_end_waits_for_those_in_line(self, models: Path) -> None:
        with grey.Node(config={"limits": {"queue_rows_max": 2}, "batching": {"max_batch_size": 1}}) as node:
            node.add("m", models / "spin.onnx")
            inputs = {"n": np.array([[20_000]]), "x": np.zeros((1, 1), np.float32)}
            node.infer("m", inputs)
            shapes: list[Any] = []
            call = lambda: shapes.append(node.infer("m", inputs)["y"].shape)  # noqa: E731
            threads = [threading.Thread(target=call) for _ in range(20)]
            for t in threads:
                t.start()
            time.sleep(0.05)
            node.close()
            for t in threads:
                t.join(60)
            assert shapes == [(1, 1)] * 20

    def test_the_wait_has_an_end(self, models: Path) -> None:
        config = {"limits": {"queue_rows_max": 1}, "batching": {"max_batch_size": 1}}
        with grey.Node(config=config) as node:
            node.add("m", models / "spin.onnx")
            long = {"n": np.array([[2_000_000]]), "x": np.zeros((1, 1), np.float32)}
            busy = [threading.Thread(target=node.infer, args=("m", long)) for _ in range(3)]
            for t in busy:
                t.start()
            time.sleep(0.2)
            with pytest.raises(grey.DeadlineExceeded) as e:
                node.infer("m", long, timeout=0.05)
            assert isinstance(e.value, TimeoutError)
            for t in busy:
                t.join(60)


class TestAsync:
    def test_ten_thousand_at_once(self, models: Path) -> None:
        async def run() -> None:
            async with grey.AsyncNode() as node:
                await node.add("m", models / "gather.onnx")
                calls = [node.infer("m", {"ids": np.array([[i % 10, i // 1000]])}) for i in range(10_000)]
                results = await asyncio.gather(*calls)
                for i, r in enumerate(results):
                    a, b = i % 10, i // 1000
                    assert r["y"].tolist() == [[[2 * a, 2 * a + 1], [2 * b, 2 * b + 1]]]
                # They ran together.
                assert "grey_ai_batch_size" in node.metrics()

        asyncio.run(run())

    def test_a_cancelled_call_leaves_its_queue(self, models: Path) -> None:
        async def run() -> None:
            async with grey.AsyncNode() as node:
                await node.add("m", models / "spin.onnx")
                await node.infer("m", {"n": [[1]], "x": [[0]]})
                begin = time.monotonic()
                tasks = [asyncio.create_task(node.infer("m", {"n": [[3_000_000 + i]], "x": [[0]]})) for i in range(200)]
                await asyncio.sleep(0.05)
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
                assert any(isinstance(e, asyncio.CancelledError) for e in ended)
                # What waited runs no more.
                await node.infer("m", {"n": [[1]], "x": [[0]]})
                assert time.monotonic() - begin < 30

        asyncio.run(run())

    def test_a_node_closed_with_calls_in_flight(self, models: Path) -> None:
        async def run() -> None:
            node = grey.AsyncNode()
            await node.add("m", models / "mlp.onnx")
            await node.infer("m", {"x": ONES})
            tasks = [asyncio.create_task(node.infer("m", {"x": ONES})) for _ in range(500)]
            await asyncio.sleep(0)
            await node.close()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(e, (grey.InferResult, grey.Unavailable)) for e in ended), ended
            assert sum(isinstance(e, grey.InferResult) for e in ended) > 0
            with pytest.raises(grey.Closed):
                await node.infer("m", {"x": ONES})
            await node.close()

        asyncio.run(run())

    def test_many_event_loops(self, node: grey.Node, models: Path, tmp_path: Path) -> None:
        """One node is used from several loops, one after the other and in several threads."""
        shared = grey.AsyncNode(tmp_path / "data")

        async def some() -> int:
            results = await asyncio.gather(*(shared.infer("m", {"x": ONES}) for _ in range(50)))
            return len(results)

        asyncio.run(shared.add("m", models / "mlp.onnx"))  # type: ignore[arg-type]
        assert [asyncio.run(some()) for _ in range(3)] == [50, 50, 50]
        counts: list[int] = []
        threads = [threading.Thread(target=lambda: counts.append(asyncio.run(some()))) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(60)
        assert counts == [50] * 4
        asyncio.run(shared.close())  # type: ignore[arg-type]

    def test_without_a_loop(self, models: Path) -> None:
        node = grey.AsyncNode()
        with pytest.raises(RuntimeError, match="no running event loop"):
            node._native.manage_async("models")
        asyncio.run(node.close())  # type: ignore[arg-type]

    def test_a_plain_node_inside_a_running_loop(self, node: grey.Node) -> None:
        """As in a notebook's cell."""

        async def cell() -> grey.InferResult:
            return node.infer("mlp", {"x": ONES})

        assert asyncio.run(cell())["y"].shape == (1, 3)


class TestErrors:
    def test_every_kind_of_the_core_has_its_class(self) -> None:
        others = {
            "bad_answer",
            "closed",
            "connect_failed",
            "connection_broken",
            "forked",
            "not_a_node",
            "proof_rejected",
        }
        assert set(_native.ERROR_KINDS) == set(errors.BY_KIND) - others
        for kind, cls in errors.BY_KIND.items():
            assert cls.kind == kind
            assert getattr(grey, cls.__name__) is cls
            assert cls.__doc__

    @pytest.mark.parametrize("cls", errors.BY_KIND.values())
    def test_they_can_be_copied(self, cls: type[grey.Error]) -> None:
        e = cls("what was wrong", 1.5)
        for again in (pickle.loads(pickle.dumps(e)), copy.copy(e), copy.deepcopy(e)):
            assert (type(again), str(again), again.message, again.retry_after) == (cls, str(e), "what was wrong", 1.5)


def test_the_page_on_embedding_runs(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[1] / "docs" / "embedding.md"
    (tmp_path / "model.onnx").write_bytes((models / "mlp.onnx").read_bytes())
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 3
    names: dict[str, Any] = {}
    for block in blocks:
        line = page.read_text()[: page.read_text().index(block)].count("\n")
        exec(compile("\n" * line + block, str(page), "exec"), names)
