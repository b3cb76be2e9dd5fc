"""`grey infer` with arrays, pictures and standard input: what is sent is what the file holds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import GreyNode
from onnx import TensorProto, helper
from PIL import Image

SIDE = 8
NUMPY = ["bool", *(f"{kind}{bits}" for kind in ("uint", "int") for bits in (8, 16, 32, 64))]
NUMPY += ["float16", "float32", "float64"]


def identity(path: Path, kind: int, shape: list[int | str]) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["same"])],
        "g",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info("same", kind, shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[GreyNode]:
    node = GreyNode(tmp_path_factory.mktemp("node") / "data")
    try:
        for name in ["simple", "mlp"]:
            node.add(name, models / f"{name}.onnx", probed=False)
        folder = tmp_path_factory.mktemp("pictures")
        kinds = {n: (helper.np_dtype_to_tensor_dtype(np.dtype(n)), ["N", "M"]) for n in NUMPY} | {
            "texts": (TensorProto.STRING, ["N"]),
            "nchw": (TensorProto.FLOAT, ["N", 3, SIDE, SIDE]),
            "nhwc": (TensorProto.UINT8, ["N", "H", "W", 3]),
            "gray": (TensorProto.FLOAT16, [1, SIDE, SIDE]),
        }
        for name, (kind, shape) in kinds.items():
            node.add(name, identity(folder / f"{name}.onnx", kind, shape), probed=False)
        yield node
    finally:
        node.kill()


@pytest.fixture
def sent(node: GreyNode, tmp_path: Path) -> Callable[..., Any]:
    """Sends files through a model, and gives the arrays that come back."""

    def send(model: str, *args: str, stdin: bytes | None = None) -> Any:
        out = tmp_path / "y.npz"
        command = [sys.executable, "-m", "grey", "--url", node.url, "infer", model, "--output", str(out), *args]
        done = subprocess.run(command, input=stdin, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        with np.load(out) as arrays:
            return {name: arrays[name] for name in arrays.files}

    return send


@pytest.mark.parametrize("name", NUMPY)
def test_arrays_of_every_type_come_back_as_they_were(name: str, sent: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for shape in [(3, 4), (3, 0), (1, 4)]:
        x = rng.integers(0, 256, (*shape, np.dtype(name).itemsize), np.uint8)
        array = x.view(name).reshape(shape) if name != "bool" else x[..., 0] > 100
        for form in [array, np.asfortranarray(array), array.astype(array.dtype.newbyteorder(">"))]:
            np.save(tmp_path / "x.npy", form)
            [back] = sent(name, "--input", str(tmp_path / "x.npy")).values()
            assert back.dtype == array.dtype
            # Bytes: not a number is not itself.
            assert back.tobytes() == array.tobytes()


def test_texts_are_bytes(sent: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array(["é", "", "abc"]))
    assert sent("texts", "--input", str(tmp_path / "x.npy"))["same"].tolist() == ["é".encode(), b"", b"abc"]
    np.save(tmp_path / "x.npy", np.array([b"ab", b"x"]))
    assert sent("texts", "--input", str(tmp_path / "x.npy"))["same"].tolist() == [b"ab", b"x"]


def test_several_inputs_come_by_name(sent: Any, node: GreyNode, tmp_path: Path) -> None:
    shape = node.request("GET", "/v2/models/simple").json["inputs"][0]["shape"]
    a = np.arange(np.prod([abs(d) for d in shape]), dtype=np.int32).reshape([abs(d) for d in shape])
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "b.npy", 2 * a)
    np.savez(tmp_path / "both.npz", INPUT1=2 * a, INPUT0=a)
    np.savez_compressed(tmp_path / "packed.npz", INPUT1=2 * a, INPUT0=a)
    named = ["--input", f"INPUT0={tmp_path / 'a.npy'}", "--input", f"INPUT1={tmp_path / 'b.npy'}"]
    for args in [named, ["--input", str(tmp_path / "both.npz")], ["--input", str(tmp_path / "packed.npz")]]:
        out = sent("simple", *args)
        assert np.array_equal(out["OUTPUT0"], 3 * a)
        assert np.array_equal(out["OUTPUT1"], -a)


def test_standard_input_is_told_by_its_content(sent: Any, tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", image=x)
    body = {"inputs": [{"name": "image", "datatype": "FP32", "shape": [2, 3], "data": x.tolist()}]}
    for stdin in [(tmp_path / "x.npy").read_bytes(), (tmp_path / "x.npz").read_bytes(), json.dumps(body).encode()]:
        assert np.array_equal(sent("float32", "--input", "-", stdin=stdin)["same"], x)
    assert np.array_equal(sent("float32", "--input", "image=-", stdin=(tmp_path / "x.npy").read_bytes())["same"], x)
    # A file's name may hold a `=`.
    odd = tmp_path / "a=b"
    odd.write_bytes((tmp_path / "x.npy").read_bytes())
    assert np.array_equal(sent("float32", "--input", str(odd))["same"], x)


def test_pictures_take_the_models_layout(sent: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / "x.png")
    png = str(tmp_path / "x.png")
    back = sent("nchw", "--input", png, "--scale", "1/255")["same"]
    assert np.array_equal(back, pixels.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255))
    back = sent("nchw", "--input", png, "--scale", "1/255", "--mean", "0.5,0.4,0.3", "--std", "0.25")["same"]
    mean = np.array([0.5, 0.4, 0.3]).reshape(3, 1, 1)
    assert np.allclose(back, (pixels.transpose(2, 0, 1)[None] / 255 - mean) / 0.25, atol=1e-6)
    assert np.array_equal(sent("nhwc", "--input", png)["same"], pixels[None])
    both = sent("nhwc", "--input", png, "--input", f"image={png}")["same"]
    assert np.array_equal(both, np.stack([pixels, pixels]))
    gray = sent("gray", "--input", png, "--scale", "1")["same"]
    assert np.abs(gray[0].astype(int) - np.asarray(picture.convert("L")).astype(int)).max() <= 1
    # As Pillow reads it, and from standard input.
    picture.save(tmp_path / "x.jpg", quality=95, subsampling=0)
    jpeg = np.asarray(Image.open(tmp_path / "x.jpg")).astype(int)
    back = sent("nhwc", "--input", "-", stdin=(tmp_path / "x.jpg").read_bytes())["same"]
    assert np.abs(back[0].astype(int) - jpeg).max() <= 3


def test_pictures_are_scaled_only_if_asked(sent: Any, node: GreyNode, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (200, 100, 50)).save(tmp_path / "x.png")
    png = str(tmp_path / "x.png")
    refused = node.cli("infer", "nchw", "--input", png, "--scale", "1", code=1)
    assert "40x30 pixels, the model takes 8x8" in refused.stderr
    back = sent("nchw", "--input", png, "--scale", "1", "--resize")["same"]
    assert np.array_equal(back, np.broadcast_to(np.float32([200, 100, 50]).reshape(1, 3, 1, 1), (1, 3, SIDE, SIDE)))
    assert sent("nhwc", "--input", png, "--resize=5x4")["same"].shape == (1, 4, 5, 3)


def test_what_json_cannot_hold_goes_and_comes_as_arrays(sent: Any, node: GreyNode, tmp_path: Path) -> None:
    x = np.float32([[np.nan, np.inf, -0.0]])
    np.save(tmp_path / "x.npy", x)
    assert sent("float32", "--input", str(tmp_path / "x.npy"))["same"].tobytes() == x.tobytes()
    refused = node.cli("infer", "float32", "--input", str(tmp_path / "x.npy"), code=1)
    assert "JSON" in refused.stderr


def test_every_form_is_proven_and_verified(node: GreyNode, tmp_path: Path) -> None:
    x = np.random.default_rng(1).random((2, 8)).astype(np.float32)
    npy, npz, png = (str(tmp_path / n) for n in ["x.npy", "x.npz", "x.png"])
    y, saved, proof = (str(tmp_path / n) for n in ["y.npz", "saved.npz", "proof.json"])
    np.save(npy, x)
    np.savez(npz, x=x)
    Image.new("RGB", (SIDE, SIDE), (1, 2, 3)).save(png)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 8], "data": x.ravel().tolist()}]}
    (tmp_path / "x.json").write_text(json.dumps(body))
    forms = [
        ("mlp", [npy], [f"x={npy}"]),
        ("mlp", [npz], [npz]),
        ("mlp", [str(tmp_path / "x.json")], [f"x={npy}"]),
        ("mlp", [npy, "--save-input", saved], [saved]),
        ("nchw", [png, "--scale", "1/255", "--save-input", saved], [saved]),
    ]
    for model, given, known in forms:
        said = node.cli("infer", model, "--input", *given, "--output", y, "--prove", proof).stdout
        verify = [word for arg in known for word in ("--input", arg)]
        trust = ["--software-key", "any", "--output", y]
        assert node.cli("proof", "verify", proof, *trust, *verify).stdout.endswith("valid\n")
        assert "reproduced" in node.cli("proof", "replay", proof, *verify, "--output", y).stdout
        # The line that is printed does the same.
        [line] = [line for line in said.splitlines() if line.startswith("verify with: grey ")]
        node.cli(*line.removeprefix("verify with: grey ").split())
    other = tmp_path / "other.npy"
    np.save(other, x + 1)
    forged = node.cli("proof", "verify", proof, "--software-key", "any", "--input", f"image={other}", code=4)
    assert "not valid: input-hash" in forged.stdout
    # A picture's numbers are not in its file.
    said = node.cli("infer", "nchw", "--input", png, "--scale", "1", "--prove", proof).stdout
    assert "next time add --save-input" in said
    assert "--save-input" in node.cli("proof", "verify", proof, "--input", png, code=2).stderr
