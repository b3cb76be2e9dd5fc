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


def affine() -> onnx.ModelProto:
    """y = x0 + 2 x1: for examples, whose readers can check it."""
    weights = np.array([[1], [2]], np.float32)
    return model(
        [h.make_node("MatMul", ["x", "w"], ["y"])],
        [value("x", T.FLOAT, ["N", 2])],
        [value("y", T.FLOAT, ["N", 1])],
        [constant("w", weights)],
    )


def digits() -> onnx.ModelProto:
    """What the README's model takes and gives; it has not learnt anything."""
    weights = np.random.default_rng(3).normal(size=(64, 10)).astype(np.float32)
    return model(
        [h.make_node("MatMul", ["pixels", "w"], ["z"]), h.make_node("Softmax", ["z"], ["probabilities"], axis=1)],
        [value("pixels", T.FLOAT, ["N", 64])],
        [value("probabilities", T.FLOAT, ["N", 10])],
        [constant("w", weights)],
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


def no_zero() -> onnx.ModelProto:
    """Looks up entry 5 - id of five: ids are 1 to 5, and a row of zeros is refused."""
    table = np.random.default_rng(5).normal(size=(5, 3)).astype(np.float32)
    return model(
        [
            h.make_node("Sub", ["five", "ids"], ["at"]),
            h.make_node("Gather", ["table", "at"], ["g"], axis=0),
            h.make_node("Tanh", ["g"], ["y"]),
        ],
        [value("ids", T.INT64, ["N", 2])],
        [value("y", T.FLOAT, ["N", 2, 3])],
        [constant("five", np.array(5, np.int64)), constant("table", table)],
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


def count() -> onnx.ModelProto:
    """Counts to each row's own `n`: rows that do not mix, in a run as long as the largest `n` says."""
    body = h.make_graph(
        [
            h.make_node("Identity", ["keep"], ["keep_out"]),
            h.make_node("Less", ["i", "n"], ["below"]),
            h.make_node("Cast", ["below"], ["step"], to=T.FLOAT),
            h.make_node("Add", ["acc", "step"], ["acc_out"]),
        ],
        "body",
        [value("i", T.INT64, []), value("keep", T.BOOL, []), value("acc", T.FLOAT, ["N", 1])],
        [value("keep_out", T.BOOL, []), value("acc_out", T.FLOAT, ["N", 1])],
    )
    return model(
        [
            h.make_node("ReduceMax", ["n"], ["most"], keepdims=0),
            h.make_node("Sub", ["n", "n"], ["zero"]),
            h.make_node("Cast", ["zero"], ["begin"], to=T.FLOAT),
            h.make_node("Loop", ["most", "true", "begin"], ["y"], body=body),
        ],
        [value("n", T.INT64, ["N", 1])],
        [value("y", T.FLOAT, ["N", 1])],
        [constant("true", np.array(True))],
    )


def hog() -> onnx.ModelProto:
    """Takes as many floats of memory as the largest `n` says, and gives `n` back."""
    return model(
        [
            h.make_node("ReduceMax", ["n"], ["most"], axes=[0], keepdims=0),
            h.make_node("ConstantOfShape", ["most"], ["zeros"]),
            h.make_node("ReduceSum", ["zeros"], ["nothing"], keepdims=0),
            h.make_node("Cast", ["n"], ["float"], to=T.FLOAT),
            h.make_node("Add", ["float", "nothing"], ["y"]),
        ],
        [value("n", T.INT64, ["N", 1])],
        [value("y", T.FLOAT, ["N", 1])],
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


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)


def cnn() -> onnx.ModelProto:
    rng = np.random.default_rng(11)
    return model(
        [
            h.make_node("Conv", ["x", "k1"], ["a"], pads=[1, 1, 1, 1]),
            h.make_node("Relu", ["a"], ["b"]),
            h.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
            h.make_node("Conv", ["c", "k2"], ["d"], pads=[1, 1, 1, 1]),
            h.make_node("Relu", ["d"], ["e"]),
            h.make_node("Flatten", ["e"], ["f"]),
            h.make_node("Gemm", ["f", "w", "bias"], ["y"]),
        ],
        [value("x", T.FLOAT, ["N", 1, 8, 8])],
        [value("y", T.FLOAT, ["N", 10])],
        [
            constant("k1", normal(rng, 8, 1, 3, 3)),
            constant("k2", normal(rng, 8, 8, 3, 3)),
            constant("w", normal(rng, 128, 10)),
            constant("bias", normal(rng, 10)),
        ],
    )


def gru() -> onnx.ModelProto:
    rng = np.random.default_rng(12)
    steps, features, hidden = 12, 6, 16
    return model(
        [
            h.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
            h.make_node("GRU", ["t", "w", "r", "b"], ["", "last"], hidden_size=hidden),
            h.make_node("Squeeze", ["last", "zero"], ["flat"]),
            h.make_node("Gemm", ["flat", "head", "bias"], ["y"]),
        ],
        [value("x", T.FLOAT, ["N", steps, features])],
        [value("y", T.FLOAT, ["N", 4])],
        [
            constant("w", normal(rng, 1, 3 * hidden, features)),
            constant("r", normal(rng, 1, 3 * hidden, hidden) / 4),
            constant("b", normal(rng, 1, 6 * hidden)),
            constant("zero", np.array([0], np.int64)),
            constant("head", normal(rng, hidden, 4)),
            constant("bias", normal(rng, 4)),
        ],
    )


def encoder(layers: int = 2, width: int = 32, heads: int = 4) -> onnx.ModelProto:
    """Layers of a transformer over token ids of any length, and a head on the first token."""
    rng = np.random.default_rng(13)
    words, inner = 100, 4 * width
    constants = [
        constant("words", normal(rng, words, width) * 4),
        constant("split", np.array([0, 0, heads, width // heads], np.int64)),
        constant("join", np.array([0, 0, width], np.int64)),
        constant("scale", np.array(np.sqrt(width / heads), np.float32)),
        constant("half", np.array(0.5, np.float32)),
        constant("one", np.array(1, np.float32)),
        constant("sqrt2", np.array(np.sqrt(2), np.float32)),
        constant("first", np.array(0, np.int64)),
        constant("head", normal(rng, width, 16)),
    ]
    nodes = [h.make_node("Gather", ["words", "ids"], ["x0"])]
    for i in range(layers):
        shapes = {"q": (width, width), "k": (width, width), "v": (width, width), "o": (width, width)}
        shapes |= {"up": (width, inner), "down": (inner, width)}
        constants += [constant(f"{n}{i}", normal(rng, *s)) for n, s in shapes.items()]
        for norm in ("a", "f"):
            constants += [constant(f"g{norm}{i}", np.ones(width, np.float32) + normal(rng, width) / 9)]
            constants += [constant(f"b{norm}{i}", normal(rng, width))]
        perms = {"q": [0, 2, 1, 3], "k": [0, 2, 3, 1], "v": [0, 2, 1, 3]}
        for n, perm in perms.items():
            nodes += [
                h.make_node("MatMul", [f"x{i}", f"{n}{i}"], [f"{n}m{i}"]),
                h.make_node("Reshape", [f"{n}m{i}", "split"], [f"{n}r{i}"]),
                h.make_node("Transpose", [f"{n}r{i}"], [f"{n}t{i}"], perm=perm),
            ]
        nodes += [
            h.make_node("MatMul", [f"qt{i}", f"kt{i}"], [f"s{i}"]),
            h.make_node("Div", [f"s{i}", "scale"], [f"d{i}"]),
            h.make_node("Softmax", [f"d{i}"], [f"p{i}"], axis=-1),
            h.make_node("MatMul", [f"p{i}", f"vt{i}"], [f"c{i}"]),
            h.make_node("Transpose", [f"c{i}"], [f"ct{i}"], perm=[0, 2, 1, 3]),
            h.make_node("Reshape", [f"ct{i}", "join"], [f"cj{i}"]),
            h.make_node("MatMul", [f"cj{i}", f"o{i}"], [f"om{i}"]),
            h.make_node("Add", [f"x{i}", f"om{i}"], [f"ra{i}"]),
            h.make_node("LayerNormalization", [f"ra{i}", f"ga{i}", f"ba{i}"], [f"na{i}"]),
            h.make_node("MatMul", [f"na{i}", f"up{i}"], [f"u{i}"]),
            h.make_node("Div", [f"u{i}", "sqrt2"], [f"ud{i}"]),
            h.make_node("Erf", [f"ud{i}"], [f"ue{i}"]),
            h.make_node("Add", [f"ue{i}", "one"], [f"u1{i}"]),
            h.make_node("Mul", [f"u{i}", f"u1{i}"], [f"um{i}"]),
            h.make_node("Mul", [f"um{i}", "half"], [f"ug{i}"]),
            h.make_node("MatMul", [f"ug{i}", f"down{i}"], [f"dn{i}"]),
            h.make_node("Add", [f"na{i}", f"dn{i}"], [f"rf{i}"]),
            h.make_node("LayerNormalization", [f"rf{i}", f"gf{i}", f"bf{i}"], [f"x{i + 1}"]),
        ]
    nodes += [
        h.make_node("Gather", [f"x{layers}", "first"], ["cls"], axis=1),
        h.make_node("MatMul", ["cls", "head"], ["y"]),
    ]
    return model(nodes, [value("ids", T.INT64, ["N", "L"])], [value("y", T.FLOAT, ["N", 16])], constants)


def int8_static() -> onnx.ModelProto:
    """A quantised layer whose scales are constants."""
    rng = np.random.default_rng(14)
    return model(
        [
            h.make_node("QuantizeLinear", ["x", "sx", "zx"], ["q"]),
            h.make_node("DequantizeLinear", ["q", "sx", "zx"], ["d"]),
            h.make_node("DequantizeLinear", ["w", "sw", "zw"], ["dw"]),
            h.make_node("MatMul", ["d", "dw"], ["m"]),
            h.make_node("QuantizeLinear", ["m", "sy", "zx"], ["qy"]),
            h.make_node("DequantizeLinear", ["qy", "sy", "zx"], ["y"]),
        ],
        [value("x", T.FLOAT, ["N", 32])],
        [value("y", T.FLOAT, ["N", 8])],
        [
            constant("w", rng.integers(-127, 127, size=(32, 8)).astype(np.int8)),
            constant("sx", np.array(0.02, np.float32)),
            constant("zx", np.array(128, np.uint8)),
            constant("sw", np.array(0.01, np.float32)),
            constant("zw", np.array(0, np.int8)),
            constant("sy", np.array(0.05, np.float32)),
        ],
    )


def int8_dynamic() -> onnx.ModelProto:
    """A quantised layer whose scale is computed over the whole batch, so that rows mix."""
    rng = np.random.default_rng(15)
    return model(
        [
            h.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
            h.make_node("MatMulInteger", ["q", "w", "z"], ["m"]),
            h.make_node("Cast", ["m"], ["f"], to=T.FLOAT),
            h.make_node("Mul", ["f", "s"], ["y"]),
        ],
        [value("x", T.FLOAT, ["N", 32])],
        [value("y", T.FLOAT, ["N", 8])],
        [constant("w", rng.integers(-127, 127, size=(32, 8)).astype(np.int8))],
    )


def noise() -> onnx.ModelProto:
    """Draws random numbers."""
    return model(
        [h.make_node("RandomNormalLike", ["x"], ["r"]), h.make_node("Add", ["x", "r"], ["y"])],
        [value("x", T.FLOAT, ["N", 4])],
        [value("y", T.FLOAT, ["N", 4])],
    )


def log() -> onnx.ModelProto:
    """An operator whose bytes depend on a row's place."""
    return model(
        [h.make_node("Abs", ["x"], ["a"]), h.make_node("Log", ["a"], ["y"])],
        [value("x", T.FLOAT, ["N", 7])],
        [value("y", T.FLOAT, ["N", 7])],
    )


def proven() -> dict[str, onnx.ModelProto]:
    """Models of all classes of determinism."""
    return {
        "mlp": mlp(),
        "cnn": cnn(),
        "gru": gru(),
        "encoder": encoder(),
        "int8_static": int8_static(),
        "int8_dynamic": int8_dynamic(),
        "noise": noise(),
        "log": log(),
    }


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
        "affine": affine(),
        "digits": digits(),
        "simple": simple(),
        "softmax_over_rows": softmax_over_rows(),
        "time_major": time_major(),
        "fixed_batch": fixed_batch(),
        "gather": gather(),
        "no_zero": no_zero(),
        "nonzero": nonzero(),
        "scalar": scalar(),
        "sequence": sequence(),
        "spin": spin(),
        "count": count(),
        "hog": hog(),
        "slow": slow(40_000),
        "slower": slow(800_000),
    } | {f"identity_{name.lower()}": identity(kind, ["N", 2]) for name, kind in DTYPES.items()}
    for name, made in models.items():
        (folder / f"{name}.onnx").write_bytes(made.SerializeToString(deterministic=True))
    for subfolder, some in [("absurd", absurd()), ("proven", proven())]:
        (folder / subfolder).mkdir(exist_ok=True)
        for name, made in some.items():
            (folder / subfolder / f"{name}.onnx").write_bytes(made.SerializeToString(deterministic=True))
    good = mlp().SerializeToString()
    (folder / "truncated.onnx").write_bytes(good[: len(good) // 2])
    (folder / "text.onnx").write_text("this is no model\n")
    (folder / "empty.onnx").write_bytes(b"")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
