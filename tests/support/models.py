"""Writes the small ONNX models that the tests use into a folder: `models.py DIR`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper

OPSET = 17
IR_VERSION = 8

DTYPES = {
    "BOOL": T.BOOL,
    "UINT8": T.UINT8,
    "UINT16": T.UINT16,
    "UINT32": T.UINT32,
    "UINT64": T.UINT64,
    "INT8": T.INT8,
    "INT16": T.INT16,
    "INT32": T.INT32,
    "INT64": T.INT64,
    "FP16": T.FLOAT16,
    "BF16": T.BFLOAT16,
    "FP32": T.FLOAT,
    "FP64": T.DOUBLE,
    "BYTES": T.STRING,
}


def value(name: str, kind: int, shape: list[int | str | None]) -> onnx.ValueInfoProto:
    return h.make_tensor_value_info(name, kind, shape)


def constant(name: str, array: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(array, name)


def model(nodes, inputs, outputs, constants=()) -> onnx.ModelProto:
    graph = h.make_graph(list(nodes), "g", list(inputs), list(outputs), list(constants))
    made = h.make_model(graph, opset_imports=[h.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="grey")
    onnx.checker.check_model(made)
    return made


def mlp() -> onnx.ModelProto:
    rng = np.random.default_rng(7)
    w1 = rng.normal(size=(8, 16)).astype(np.float32)
    w2 = rng.normal(size=(16, 3)).astype(np.float32)
    return model(
        [
            h.make_node("Gemm", ["x", "w1", "b1"], ["a"]),
            h.make_node("Relu", ["a"], ["r"]),
            h.make_node("Gemm", ["r", "w2", "b2"], ["z"]),
            h.make_node("Softmax", ["z"], ["y"], axis=1),
        ],
        [value("x", T.FLOAT, ["N", 8])],
        [value("y", T.FLOAT, ["N", 3])],
        [
            constant("w1", w1),
            constant("b1", np.zeros(16, np.float32)),
            constant("w2", w2),
            constant("b2", np.ones(3, np.float32)),
        ],
    )


def identity(kind: int, shape: list[int | str | None]) -> onnx.ModelProto:
    return model([h.make_node("Identity", ["x"], ["y"])], [value("x", kind, shape)], [value("y", kind, shape)])


def simple() -> onnx.ModelProto:
    return model(
        [
            h.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
            h.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
        ],
        [value("INPUT0", T.INT32, ["N", 16]), value("INPUT1", T.INT32, ["N", 16])],
        [value("OUTPUT0", T.INT32, ["N", 16]), value("OUTPUT1", T.INT32, ["N", 16])],
    )


def softmax_over_rows() -> onnx.ModelProto:
    return model(
        [h.make_node("Softmax", ["x"], ["y"], axis=0)],
        [value("x", T.FLOAT, ["N", 4])],
        [value("y", T.FLOAT, ["N", 4])],
    )


def time_major() -> onnx.ModelProto:
    """A recurrence over the first axis: every row depends on those before it."""
    return model(
        [h.make_node("CumSum", ["x", "axis"], ["y"])],
        [value("x", T.FLOAT, ["T", 4])],
        [value("y", T.FLOAT, ["T", 4])],
        [constant("axis", np.array(0, np.int64))],
    )


def fixed_batch() -> onnx.ModelProto:
    return model(
        [h.make_node("Mul", ["x", "two"], ["y"])],
        [value("x", T.FLOAT, [4, 3])],
        [value("y", T.FLOAT, [4, 3])],
        [constant("two", np.array(2, np.float32))],
    )


def gather() -> onnx.ModelProto:
    table = np.arange(20, dtype=np.float32).reshape(10, 2)
    return model(
        [h.make_node("Gather", ["table", "ids"], ["y"], axis=0)],
        [value("ids", T.INT64, ["N", 2])],
        [value("y", T.FLOAT, ["N", 2, 2])],
        [constant("table", table)],
    )


def nonzero() -> onnx.ModelProto:
    return model(
        [h.make_node("NonZero", ["x"], ["y"])], [value("x", T.FLOAT, ["N", 3])], [value("y", T.INT64, [2, "M"])]
    )


def scalar() -> onnx.ModelProto:
    return model(
        [h.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], [value("x", T.FLOAT, ["N", 3])], [value("y", T.FLOAT, [])]
    )


def sequence() -> onnx.ModelProto:
    return model(
        [h.make_node("SequenceConstruct", ["x"], ["y"])],
        [value("x", T.FLOAT, ["N"])],
        [h.make_tensor_sequence_value_info("y", T.FLOAT, None)],
    )


def spin() -> onnx.ModelProto:
    """Adds 1 as often as the largest `n` says, so a request chooses how long a run takes."""
    body = h.make_graph(
        [
            h.make_node("Identity", ["keep"], ["keep_out"]),
            h.make_node("Add", ["acc", "one"], ["acc_out"]),
        ],
        "body",
        [value("i", T.INT64, []), value("keep", T.BOOL, []), value("acc", T.FLOAT, ["N", 1])],
        [value("keep_out", T.BOOL, []), value("acc_out", T.FLOAT, ["N", 1])],
    )
    return model(
        [
            h.make_node("ReduceMax", ["n"], ["most"], keepdims=0),
            h.make_node("Sub", ["x", "x"], ["zero"]),
            h.make_node("Loop", ["most", "true", "zero"], ["y"], body=body),
        ],
        [value("n", T.INT64, ["N", 1]), value("x", T.FLOAT, ["N", 1])],
        [value("y", T.FLOAT, ["N", 1])],
        [constant("true", np.array(True)), constant("one", np.array(1, np.float32))],
    )


def slow(times: int) -> onnx.ModelProto:
    """Multiplies by 1 so often: rows that do not mix, in runs that take a while."""
    body = h.make_graph(
        [
            h.make_node("Identity", ["keep"], ["keep_out"]),
            h.make_node("Mul", ["acc", "one"], ["acc_out"]),
        ],
        "body",
        [value("i", T.INT64, []), value("keep", T.BOOL, []), value("acc", T.FLOAT, ["N", 1])],
        [value("keep_out", T.BOOL, []), value("acc_out", T.FLOAT, ["N", 1])],
    )
    return model(
        [h.make_node("Loop", ["times", "true", "x"], ["y"], body=body)],
        [value("x", T.FLOAT, ["N", 1])],
        [value("y", T.FLOAT, ["N", 1])],
        [
            constant("times", np.array(times, np.int64)),
            constant("true", np.array(True)),
            constant("one", np.array(1, np.float32)),
        ],
    )


def absurd() -> dict[str, onnx.ModelProto]:
    """Models whose signature no real model has."""
    names = [f"x{i}" for i in range(2000)]
    return {
        "rank": identity(T.FLOAT, ["N"] + [1] * 69),
        "inputs": model(
            [h.make_node("Identity", ["x0"], ["y"])],
            [value(n, T.FLOAT, ["N", 1]) for n in names],
            [value("y", T.FLOAT, ["N", 1])],
        ),
    }


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    models = {
        "mlp": mlp(),
        "simple": simple(),
        "softmax_over_rows": softmax_over_rows(),
        "time_major": time_major(),
        "fixed_batch": fixed_batch(),
        "gather": gather(),
        "nonzero": nonzero(),
        "scalar": scalar(),
        "sequence": sequence(),
        "spin": spin(),
        "slow": slow(40_000),
        "slower": slow(800_000),
    } | {f"identity_{name.lower()}": identity(kind, ["N", 2]) for name, kind in DTYPES.items()}
    for name, made in models.items():
        (folder / f"{name}.onnx").write_bytes(made.SerializeToString(deterministic=True))
    (folder / "absurd").mkdir(exist_ok=True)
    for name, made in absurd().items():
        (folder / "absurd" / f"{name}.onnx").write_bytes(made.SerializeToString(deterministic=True))
    good = mlp().SerializeToString()
    (folder / "truncated.onnx").write_bytes(good[: len(good) // 2])
    (folder / "text.onnx").write_text("this is no model\n")
    (folder / "empty.onnx").write_bytes(b"")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
