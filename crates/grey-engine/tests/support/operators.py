"""Writes models whose operators differ in what they do to the bytes of a row: `operators.py DIR`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper
from onnxruntime import quantization

OPSET = 17
IR_VERSION = 8
RNG = np.random.default_rng(9)
node = h.make_node


def weights(*shape: int) -> np.ndarray:
    return (RNG.normal(size=shape) * 0.3).astype(np.float32)


def model(
    nodes: list[onnx.NodeProto], x: list[int], y: list[int], constants: dict[str, np.ndarray], kind: int = T.FLOAT
) -> onnx.ModelProto:
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info("x", kind, ["N", *x])],
        [h.make_tensor_value_info("y", T.FLOAT, ["N", *y])],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    made = h.make_model(graph, opset_imports=[h.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="grey")
    onnx.checker.check_model(made)
    return made


def mlp() -> onnx.ModelProto:
    nodes = [node("Gemm", ["x", "w", "b"], ["h"]), node("Tanh", ["h"], ["t"]), node("Gemm", ["t", "v", "c"], ["z"])]
    nodes.append(node("Softmax", ["z"], ["y"], axis=1))
    return model(nodes, [37], [3], {"w": weights(37, 16), "b": weights(16), "v": weights(16, 3), "c": weights(3)})


def cnn() -> onnx.ModelProto:
    norm = {n: np.abs(weights(8)) + np.float32(0.1) for n in ("scale", "shift", "mean", "var")}
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", *norm], ["n"]),
        node("Relu", ["n"], ["r"]),
        node("MaxPool", ["r"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["m", "d"], ["e"], kernel_shape=[3, 3], group=8),
        node("GlobalAveragePool", ["e"], ["a"]),
        node("Flatten", ["a"], ["f"]),
        node("Gemm", ["f", "v"], ["y"]),
    ]
    constants = {"w": weights(8, 3, 3, 3), "b": weights(8), "d": weights(8, 1, 3, 3), "v": weights(8, 5)}
    return model(nodes, [3, 11, 13], [5], constants | norm)


def gru() -> onnx.ModelProto:
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node("GRU", ["t", "w", "r", "b"], ["", "last"], hidden_size=12),
        node("Squeeze", ["last", "zero"], ["s"]),
        node("Gemm", ["s", "v"], ["y"]),
    ]
    constants = {"w": weights(1, 36, 5), "r": weights(1, 36, 12), "b": weights(1, 72), "v": weights(12, 2)}
    return model(nodes, [6, 5], [2], constants | {"zero": np.array([0])})


def encoder(pool: str) -> onnx.ModelProto:
    """One layer, as an exporter writes it."""
    words, heads, size = 9, 2, 8
    width = heads * size
    constants = {
        "table": weights(50, width),
        "places": weights(words, width),
        "split": np.array([0, 0, heads, size]),
        "join": np.array([0, 0, width]),
        "root": np.float32(size**0.5),
        "first": np.array(0),
        "up": weights(width, 40),
        "down": weights(40, width),
        "v": weights(width, 4),
    }
    nodes = [node("Gather", ["table", "x"], ["e"]), node("Add", ["e", "places"], ["ep"])]
    for n in ("n1", "n2"):
        constants |= {f"{n}s": np.ones(width, np.float32), f"{n}b": weights(width)}
    nodes.append(node("LayerNormalization", ["ep", "n1s", "n1b"], ["n1"]))
    for n, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("u", [0, 2, 1, 3])):
        constants |= {f"w{n}": weights(width, width), f"b{n}": weights(width)}
        nodes += [
            node("MatMul", ["n1", f"w{n}"], [f"{n}0"]),
            node("Add", [f"{n}0", f"b{n}"], [f"{n}1"]),
            node("Reshape", [f"{n}1", "split"], [f"{n}2"]),
            node("Transpose", [f"{n}2"], [n], perm=perm),
        ]
    nodes += [
        node("MatMul", ["q", "k"], ["s"]),
        node("Div", ["s", "root"], ["sd"]),
        node("Softmax", ["sd"], ["p"], axis=-1),
        node("MatMul", ["p", "u"], ["a"]),
        node("Transpose", ["a"], ["at"], perm=[0, 2, 1, 3]),
        node("Reshape", ["at", "join"], ["aj"]),
        node("Add", ["aj", "n1"], ["r"]),
        node("LayerNormalization", ["r", "n2s", "n2b"], ["n2"]),
        node("MatMul", ["n2", "up"], ["h"]),
        node("Div", ["h", "two"], ["hd"]),
        node("Erf", ["hd"], ["he"]),
        node("Add", ["he", "one"], ["h1"]),
        node("Mul", ["h", "h1"], ["hm"]),
        node("MatMul", ["hm", "down"], ["o"]),
    ]
    constants |= {"two": np.float32(2**0.5), "one": np.float32(1)}
    if pool == "first":
        nodes.append(node("Gather", ["o", "first"], ["g"], axis=1))
    else:
        nodes.append(node("ReduceMean", ["o"], ["g"], axes=[1], keepdims=0))
    nodes.append(node("MatMul", ["g", "v"], ["y"]))
    return model(nodes, [words], [4], constants, T.INT64)


def noisy() -> onnx.ModelProto:
    nodes = [node("RandomNormalLike", ["x"], ["r"], seed=1.0), node("Add", ["x", "r"], ["y"])]
    return model(nodes, [3], [3], {})


class Rows(quantization.CalibrationDataReader):
    def __init__(self) -> None:
        self.left = 8

    def get_next(self) -> dict[str, np.ndarray] | None:
        self.left -= 1
        return {"x": RNG.normal(size=(4, 37)).astype(np.float32)} if self.left else None


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    models = {
        "mlp": mlp(),
        "cnn": cnn(),
        "gru": gru(),
        "encoder": encoder("first"),
        "encoder_mean": encoder("mean"),
        "noisy": noisy(),
    }
    for name, made in models.items():
        onnx.save(made, folder / f"{name}.onnx")
    plain = str(folder / "mlp.onnx")
    quantization.quantize_dynamic(plain, str(folder / "dynamic.onnx"))
    quantization.quantize_static(plain, str(folder / "static.onnx"), Rows(), per_channel=True)
    (folder / "external").mkdir(exist_ok=True)
    onnx.save(mlp(), folder / "external/mlp.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "mlp.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    ort.InferenceSession(plain, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
