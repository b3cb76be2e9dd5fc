"""Runs every operator of the engine's table with the installed ONNX Runtime, and compares bytes.

A row goes through a model of one operator in several buckets, at several positions, beside rows with hostile
content, on 1 to 3 threads. What the table calls `everywhere` must give the row the same bytes each time; what it
calls `slot` the same bytes in the same bucket and position. Run as a script, it prints what it measures.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NotImplemented_

TABLE = Path(__file__).parent.parent / "crates/grey-engine/src/engines/onnxruntime/operators.txt"
RELEASE = "1.32."
OPSET = 24
MICROSOFT = "com.microsoft."
ML = "ai.onnx.ml."
ALIGN = 64
BUCKETS = (1, 2, 4, 8, 16, 32) if "--wide" not in sys.argv else (1, 3, 64, 128, 200)
THREADS = (1, 2, 3)
DEEP = "--deep" in sys.argv

Array = np.ndarray[Any, Any]

KINDS = {
    "f4": T.FLOAT,
    "f8": T.DOUBLE,
    "f2": T.FLOAT16,
    "i1": T.INT8,
    "u1": T.UINT8,
    "i2": T.INT16,
    "u2": T.UINT16,
    "i4": T.INT32,
    "u4": T.UINT32,
    "i8": T.INT64,
    "u8": T.UINT64,
    "?": T.BOOL,
}


# ---- Rows ----


@dataclass
class Rows:
    """An input: the shape and type of a row, and values that the operator takes."""

    shape: tuple[int, ...] = (37,)
    kind: str = "f4"
    low: float = -4.0
    high: float = 4.0
    # Fillings may then be anything; else they stay in the range (indices, counts).
    free: bool = True

    def row(self, rng: np.random.Generator) -> Array:
        if self.kind == "?":
            return rng.integers(0, 2, self.shape).astype(bool)
        if np.dtype(self.kind).kind in "iu":
            return rng.integers(int(self.low), int(self.high) + 1, self.shape).astype(self.kind)
        return rng.uniform(self.low, self.high, self.shape).astype(np.dtype(self.kind))

    def fillings(self, rng: np.random.Generator) -> list[Array]:
        plain = self.row(rng)
        if self.kind == "?" or not self.free:
            return [plain, self.row(rng), np.full_like(plain, plain.flat[0] if plain.size else 0)]
        if np.dtype(self.kind).kind in "iu":
            limits = np.iinfo(self.kind)
            return [np.zeros_like(plain), np.full_like(plain, limits.max), np.full_like(plain, limits.min)]
        specials = np.resize([np.nan, np.inf, -np.inf, 1e-41, -0.0, 3e38, -3e38], self.shape)
        with np.errstate(over="ignore", invalid="ignore"):
            large = np.resize([1.0, -1e4, 1e6, 1e9, 1e30], self.shape)
            return [np.zeros_like(plain), specials.astype(plain.dtype), (plain * large).astype(plain.dtype)]


def aligned(shape: tuple[int, ...], kind: str) -> Array:
    """Memory as it is in a segment: at a multiple of 64 bytes."""
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    raw = np.zeros(size + ALIGN, np.uint8)
    start = -raw.ctypes.data % ALIGN
    return raw[start : start + size].view(np.dtype(kind)).reshape(shape)


@dataclass
class Case:
    """A model of one operator, or of a few around it."""

    nodes: list[onnx.NodeProto]
    inputs: list[Rows] = field(default_factory=lambda: [Rows()])
    constants: dict[str, Array | onnx.TensorProto] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    # Not every kernel exists for every type.
    optional: bool = False
    label: str = ""
    opset: int = OPSET

    def model(self) -> bytes:
        inputs = [h.make_tensor_value_info(f"x{i}", KINDS[r.kind], ["N", *r.shape]) for i, r in enumerate(self.inputs)]
        # The runtime infers what outputs are.
        outputs = [onnx.ValueInfoProto(name=o) for o in self.outputs]
        constants = [
            c if isinstance(c, onnx.TensorProto) else numpy_helper.from_array(c, n) for n, c in self.constants.items()
        ]
        graph = h.make_graph(self.nodes, "g", inputs, outputs, constants)
        domains = {n.domain for n in self.nodes} - {""}
        imports = [h.make_opsetid("", self.opset)] + [h.make_opsetid(d, 3 if d == "ai.onnx.ml" else 1) for d in domains]
        made: bytes = h.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()
        return made


# ---- Measuring ----


def session(model: bytes, threads: int) -> ort.InferenceSession:
    """With the options of `OnnxRuntime::builder`."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.enable_mem_pattern = False
    options.log_severity_level = 4
    for key, value in (
        ("session.intra_op.allow_spinning", "0"),
        ("session.inter_op.allow_spinning", "0"),
        ("session.set_denormal_as_zero", "0"),
    ):
        options.add_session_config_entry(key, value)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@dataclass
class Measured:
    """What differed, in words; empty if nothing did."""

    by_place: str = ""
    by_content: str = ""


def measure(case: Case, threads: int, seed: int = 11) -> Measured:
    rng = np.random.default_rng(seed)
    opened = session(case.model(), threads)
    rows = [r.row(rng) for r in case.inputs]
    fillings = list(zip(*(r.fillings(rng) for r in case.inputs), strict=True))
    found = Measured()
    anywhere: list[bytes] | None = None
    for bucket in BUCKETS:
        batches = [aligned((bucket, *r.shape), r.kind) for r in case.inputs]
        feed = {f"x{i}": b for i, b in enumerate(batches)}
        for position in sorted({0, bucket // 2, bucket - 1}):
            here: list[bytes] | None = None
            for filling in fillings if bucket > 1 else fillings[:1]:
                for batch, other, row in zip(batches, filling, rows, strict=True):
                    batch[:] = other
                    batch[position] = row
                results = opened.run(list(case.outputs), feed)
                given = [r[position].tobytes() for r in results]
                place = f"bucket {bucket}, position {position}, {threads} threads"
                if here is None:
                    here = given
                elif here != given and not found.by_content:
                    found.by_content = place
                if anywhere is None:
                    anywhere = given
                elif anywhere != given and not found.by_place:
                    found.by_place = place
    return found


# ---- Operators ----

CASES: dict[str, list[Case]] = {}
# Row sizes that leave vectors and threads with odd parts at their ends.
SIZES = ((7,), (37,), (1,), (4099,))
# More rows of more sizes, when run as a script.
if DEEP:
    SIZES += ((3,), (5,), (13,), (100,), (1023,), (16385,))
FLOATS = ("f4", "f8", "f2")
INTS = ("i4", "i8", "u1", "i1")


def add(op: str, *cases: Case) -> None:
    CASES.setdefault(op, []).extend(cases)


def node(op: str, inputs: list[str], outputs: tuple[str, ...] = ("y",), **attributes: Any) -> onnx.NodeProto:
    domain, _, name = op.rpartition(".")
    return h.make_node(name, inputs, list(outputs), domain=domain, **attributes)


WEIGHTS = np.random.default_rng(5)


def weights(*shape: int, kind: str = "f4", scale: float = 0.3) -> Array:
    return (WEIGHTS.normal(size=shape) * scale).astype(np.dtype(kind))


def elementwise(
    op: str, kinds: tuple[str, ...] = FLOATS, low: float = -4.0, high: float = 4.0, free: bool = True, **attributes: Any
) -> None:
    for kind, shape in itertools.product(kinds, SIZES):
        if kind != kinds[0] and shape not in ((7,), (37,)) and not DEEP:
            continue
        rows = Rows(shape, kind, 0 if kind.startswith("u") else low, high, free)
        add(op, Case([node(op, ["x0"], **attributes)], [rows], optional=kind != kinds[0], label=f"{kind}{shape}"))


def binary(op: str, kinds: tuple[str, ...] = FLOATS, low: float = -4.0, high: float = 4.0, **attributes: Any) -> None:
    for kind, shape in itertools.product(kinds, SIZES):
        bottom = 1 if np.dtype(kind).kind in "iu" and op in ("Div", "Mod") else 0 if kind[0] == "u" else low
        rows = Rows(shape, kind, bottom, high, free=kind != "?" and op not in ("Div", "Mod", "BitShift"))
        one = node(op, ["x0", "x1"], **attributes)
        add(op, Case([one], [rows, rows], optional=kind != kinds[0], label=f"{kind}{shape}"))
    if kinds[0] != "?":
        # One operand from the model: a scalar, and one broadcast along the row.
        kind = kinds[0]
        for c in (np.array(3, np.dtype(kind)), np.arange(1, 38).astype(np.dtype(kind))):
            rows = Rows((5, 37), kind, 0 if kind[0] == "u" else low, high, op not in ("Div", "Mod", "BitShift"))
            one = node(op, ["x0", "c"], **attributes)
            add(op, Case([one], [rows], {"c": c}, label=f"{kind} constant{c.shape}"))


def arithmetic() -> None:
    for op in ("Abs", "Neg", "Sign"):
        elementwise(op, (*FLOATS, "i4", "i8"))
    for op in ("Ceil", "Floor", "Round"):
        elementwise(op)
    elementwise("Relu", (*FLOATS, "i4"))
    elementwise("Sqrt", low=0)
    elementwise("Reciprocal", low=0.1)
    elementwise("Clip", (*FLOATS, "i4", "u1"))
    add("Clip", Case([node("Clip", ["x0", "a", "b"])], constants={"a": np.float32(-1), "b": np.float32(1)}))
    for op in ("Add", "Sub", "Mul", "Div"):
        binary(op, (*FLOATS, "i4", "i8"))
    for op in ("Max", "Min"):
        binary(op, (*FLOATS, "i4"))
    binary("Mod", ("i4", "i8"))
    add("Mod", Case([node("Mod", ["x0", "x1"], fmod=1)], [Rows(), Rows(low=1.0)]))
    for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"):
        binary(op, ("f4", "f8", "i4", "i8"))
    for op in ("And", "Or", "Xor"):
        binary(op, ("?",))
    elementwise("Not", ("?",))
    for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        binary(op, ("i4",))
    elementwise("BitwiseNot", ("i4",))
    binary("BitShift", ("u4",), 0, 7, direction="LEFT")
    elementwise("IsInf", ("f4", "f8"))
    elementwise("IsNaN", FLOATS)
    elementwise("Identity", tuple(KINDS))
    for kind, to in itertools.product(("f4", "f8", "f2", "i4", "i8", "u1", "?"), repeat=2):
        if kind != to:
            rows = Rows((37,), kind, 0, 100, free=False)
            add("Cast", Case([node("Cast", ["x0"], to=KINDS[to])], [rows], label=f"{kind} to {to}"))
    for kind, to in (("f4", "f2"), ("f2", "f4"), ("f4", "f8"), ("f8", "f4")):
        for shape in ((7,), (4099,)):
            add("Cast", Case([node("Cast", ["x0"], to=KINDS[to])], [Rows(shape, kind)], label=f"{kind} to {to}"))
    # NumPy has no bfloat16 to give and take.
    there_and_back = [node("Cast", ["x0"], ("b",), to=T.BFLOAT16), node("Cast", ["b"], to=T.FLOAT)]
    add("Cast", *(Case(there_and_back, [Rows(s)], label=f"f4 to b2 {s}") for s in SIZES))
    add("CastLike", Case([node("CastLike", ["x0", "c"])], constants={"c": np.zeros(1, np.float16)}))
    add("Where", *(Case([node("Where", ["x0", "x1", "x2"])], [Rows(s, "?"), Rows(s), Rows(s)]) for s in SIZES))
    add(
        "PRelu",
        *(Case([node("PRelu", ["x0", "c"])], [Rows((3, 37))], {"c": weights(*s)}) for s in ((1,), (3, 1), (37,))),
    )
    elementwise("LeakyRelu", FLOATS, alpha=0.013)
    elementwise("ThresholdedRelu", ("f4",), alpha=0.7)
    elementwise("Shrink", ("f4", "f8", "f2"), lambd=0.7, bias=0.31)
    for count in (2, 3, 5):
        names = [f"x{i}" for i in range(count)]
        for op in ("Sum", "Mean"):
            add(op, *(Case([node(op, names)], [Rows(s)] * count, label=f"{count}{s}") for s in SIZES))


def moving() -> None:
    def one(op: str, rows: Rows | list[Rows], constants: dict[str, Array] | None = None, **attributes: Any) -> None:
        inputs = rows if isinstance(rows, list) else [rows]
        names = [f"x{i}" for i in range(len(inputs))] + list(constants or {})
        outputs = ("y", "z") if op in ("Split", "TopK") else ("y",)
        add(op, Case([node(op, names, outputs, **attributes)], inputs, dict(constants or {}), outputs))

    r = Rows((4, 9))
    one("Reshape", r, {"s": np.array([0, -1])})
    one("Flatten", r)
    one("Squeeze", Rows((1, 9)), {"a": np.array([1])})
    one("Unsqueeze", r, {"a": np.array([2])})
    one("Transpose", r, perm=[0, 2, 1])
    one("Transpose", Rows((5, 37, 3)), perm=[0, 3, 2, 1])
    one("Concat", [r, r], axis=2)
    one("Split", r, {"s": np.array([3, 6])}, axis=2)
    one("Slice", r, {"b": np.array([1]), "e": np.array([9]), "a": np.array([2]), "s": np.array([3])})
    one("Expand", Rows((1, 9)), {"s": np.array([1, 4, 1])})
    one("Tile", r, {"s": np.array([1, 2, 3])})
    one("Pad", r, {"p": np.array([0, 1, 2, 0, 3, 1])})
    one("Pad", r, {"p": np.array([0, 1, 2, 0, 3, 1])}, mode="reflect")
    one("Gather", r, {"i": np.array([3, 0, 2])}, axis=2)
    add("Gather", Case([node("Gather", ["c", "x0"])], [Rows((6,), "i8", 0, 9, False)], {"c": weights(10, 7)}))
    one("GatherElements", [r, Rows((4, 5), "i8", 0, 8, False)], axis=2)
    one("GatherND", [r, Rows((3, 2), "i8", 0, 3, False)], batch_dims=1)
    one("ScatterElements", [r, Rows((4, 1), "i8", 0, 8, False), Rows((4, 1))], axis=2)
    one("DepthToSpace", Rows((8, 3, 5)), blocksize=2)
    one("SpaceToDepth", Rows((2, 4, 6)), blocksize=2)
    one("Trilu", r)
    place = {"i": np.array([[1], [3]])}
    turn = [node("Transpose", ["x0"], ("t",), perm=[1, 0, 2]), node("Transpose", ["x1"], ("u",), perm=[1, 0, 2])]
    turn += [node("ScatterND", ["t", "i", "u"], ("s",)), node("Transpose", ["s"], perm=[1, 0, 2])]
    add("ScatterND", Case(turn, [r, Rows((2, 9))], place))
    one("Dropout", r)
    one("OneHot", Rows((5,), "i8", 0, 9, False), {"d": np.array(10), "v": np.array([0, 1], np.float32)})
    one("TopK", Rows((37,)), {"k": np.array([5])})
    one("TopK", Rows((4099,)), {"k": np.array([300])})
    one("ArgMax", r, axis=2)
    one("ArgMin", r, axis=2)
    one("Hardmax", Rows((37,)), axis=-1)
    one("CenterCropPad", r, {"s": np.array([3, 5])}, axes=[1, 2])
    seq = [node("Transpose", ["x0"], ("t",), perm=[1, 0, 2]), node("ReverseSequence", ["t", "n"], ("r",))]
    seq[1] = node("ReverseSequence", ["t", "x1"], ("r",), time_axis=0, batch_axis=1)
    back = node("Transpose", ["r"], perm=[1, 0, 2])
    add("ReverseSequence", Case([*seq, back], [Rows((6, 3)), Rows((), "i8", 1, 6, False)]))
    one("Compress", r, {"c": np.array([True, False, True])}, axis=2)
    for op in ("ReduceMax", "ReduceMin"):
        for axis, shape, kind in (
            (1, (37,), "f4"),
            (2, (5, 37), "f4"),
            (1, (5, 37), "f4"),
            (1, (4099,), "f4"),
            (1, (9,), "i4"),
        ):
            one(op, Rows(shape, kind), {"a": np.array([axis])})
    one("MaxPool", Rows((3, 9, 11)), kernel_shape=[3, 3], strides=[2, 1], pads=[1, 1, 1, 1])
    one("MaxPool", Rows((16, 9, 11)), kernel_shape=[2, 2])
    one("MaxPool", Rows((3, 37)), kernel_shape=[3])
    one("GlobalMaxPool", Rows((3, 9, 11)))
    one("GlobalMaxPool", Rows((16, 9, 11)))


def resizing() -> None:
    for mode, scale, shape in itertools.product(("nearest", "linear", "cubic"), (2.0, 1.7), ((3, 7, 9), (16, 8, 8))):
        one = node("Resize", ["x0", "", "s"], mode=mode)
        add("Resize", Case([one], [Rows(shape)], {"s": np.array([1, 1, scale, scale], np.float32)}, label=mode))


def special_functions() -> None:
    for op in ("Exp", "Erf", "Tanh", "Sigmoid", "Sin", "Cos", "Tan", "Gelu", "HardSwish", "HardSigmoid", "Softsign"):
        elementwise(op)
    elementwise("Celu", ("f4",))
    for op in ("Softplus", "Elu", "Selu", "Mish", "Swish"):
        elementwise(op)
    elementwise("Gelu", approximate="tanh")
    for op in ("Log",):
        elementwise(op, low=0.01, high=50)
    for op in ("Asin", "Acos", "Atanh"):
        elementwise(op, ("f4", "f8"), -0.99, 0.99)
    for op in ("Atan", "Sinh", "Cosh", "Asinh"):
        elementwise(op, ("f4", "f8"))
    elementwise("Acosh", ("f4", "f8"), 1.0, 9.0)
    binary("Pow", ("f4", "f8", "f2"), 0.1, 4)
    for power in (2.0, 3.0, 0.5, -1.5):
        for shape in SIZES:
            case = Case([node("Pow", ["x0", "c"])], [Rows(shape, low=0.01)], {"c": np.float32(power)}, label=str(power))
            add("Pow", case)
    for op in ("Gelu", "FastGelu", "QuickGelu"):
        elementwise(MICROSOFT + op, ("f4",))
    for op in ("BiasGelu", "FastGelu"):
        for size in (7, 37, 1030):
            one = node(MICROSOFT + op, ["x0", "c"])
            add(MICROSOFT + op, Case([one], [Rows((3, size))], {"c": weights(size)}))


def reductions() -> None:
    shapes = (((37,), [1]), ((5, 37), [2]), ((5, 37), [1]), ((5, 37), [1, 2]), ((4099,), [1]), ((64, 7, 7), [2, 3]))
    ops = ["ReduceSum", "ReduceMean", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd"]
    for op in [*ops, "ReduceSumSquare"]:
        for (shape, axes), kind in itertools.product(shapes, ("f4", "f8")):
            rows = Rows(shape, kind, 0.1, 1.2)
            one = node(op, ["x0", "a"])
            add(op, Case([one], [rows], {"a": np.array(axes)}, optional=kind != "f4", label=f"{kind}{shape}{axes}"))
    for kind, shape, axis in itertools.product(("f4", "f8", "f2"), ((3, 37), (3, 8), (2, 1030), (3, 1)), (-1, 1)):
        for op in ("Softmax", "LogSoftmax"):
            one = node(op, ["x0"], axis=axis)
            add(op, Case([one], [Rows(shape, kind)], optional=kind != "f4", label=f"{kind}{shape} axis {axis}"))
    for kind, shape in itertools.product(("f4", "f8"), ((37,), (3, 8), (4099,))):
        for p in (1, 2):
            one = node("LpNormalization", ["x0"], axis=-1, p=p)
            add("LpNormalization", Case([one], [Rows(shape, kind)], optional=kind != "f4", label=f"{kind}{shape} {p}"))
        one = node("CumSum", ["x0", "a"])
        add("CumSum", Case([one], [Rows(shape, kind)], {"a": np.array(1)}, optional=kind != "f4"))
        one = node("CumProd", ["x0", "a"])
    for kind, size in itertools.product(("f4", "f8", "f2"), (8, 37, 64, 1030)):
        c = {"s": weights(size, kind=kind), "b": weights(size, kind=kind)}
        for shape in ((size,), (5, size)):
            rows = Rows(shape, kind)
            optional = kind != "f4"
            add(
                "LayerNormalization",
                Case([node("LayerNormalization", ["x0", *c])], [rows], c, optional=optional, label=f"{kind}{shape}"),
            )
            scale = {"s": c["s"]}
            add(
                "RMSNormalization",
                Case([node("RMSNormalization", ["x0", "s"])], [rows], scale, optional=optional, label=f"{kind}{shape}"),
            )
            simple = node("SimplifiedLayerNormalization", ["x0", "s"], axis=-1, epsilon=1e-5)
            add(
                "SimplifiedLayerNormalization", Case([simple], [rows], scale, optional=optional, label=f"{kind}{shape}")
            )
        if kind == "f4":
            two = [Rows((5, size)), Rows((5, size))]
            skip = node(MICROSOFT + "SkipLayerNormalization", ["x0", "x1", *c])
            add(MICROSOFT + "SkipLayerNormalization", Case([skip], two, c))
            skip = node(MICROSOFT + "SkipSimplifiedLayerNormalization", ["x0", "x1", "s"])
            add(MICROSOFT + "SkipSimplifiedLayerNormalization", Case([skip], two, {"s": c["s"]}))
    for channels, kind in itertools.product((3, 16, 20), ("f4", "f8", "f2")):
        c = {n: np.abs(weights(channels, kind=kind)) + np.dtype(kind).type(0.1) for n in "sbmv"}
        c = {n: a.astype(np.dtype(kind)) for n, a in c.items()}
        pair = {n: c[n] for n in "sb"}
        for shape in ((channels,), (channels, 37), (channels, 9, 11)):
            rows = Rows(shape, kind)
            optional = kind != "f4"
            add(
                "BatchNormalization",
                Case([node("BatchNormalization", ["x0", *c])], [rows], c, optional=optional, label=f"{kind}{shape}"),
            )
            if len(shape) > 1:
                add(
                    "InstanceNormalization",
                    Case(
                        [node("InstanceNormalization", ["x0", *pair])],
                        [rows],
                        pair,
                        optional=optional,
                        label=f"{kind}{shape}",
                    ),
                )
                if channels % 4 == 0:
                    one = node("GroupNormalization", ["x0", *pair], num_groups=4)
                    add("GroupNormalization", Case([one], [rows], pair, optional=optional, label=f"{kind}{shape}"))
    for shape in ((3, 9, 11), (16, 9, 11), (64, 7, 7), (5, 1, 1), (4, 33, 35)):
        add("GlobalAveragePool", Case([node("GlobalAveragePool", ["x0"])], [Rows(shape)], label=str(shape)))
        if shape[1] > 2:
            for op in ("AveragePool", "LpPool"):
                one = node(op, ["x0"], kernel_shape=[3, 3], strides=[2, 1], pads=[1, 1, 1, 1])
                add(op, Case([one], [Rows(shape)], label=str(shape)))
        add("LRN", Case([node("LRN", ["x0"], size=3)], [Rows(shape)], label=str(shape)))
        add(
            "MeanVarianceNormalization",
            Case([node("MeanVarianceNormalization", ["x0"], axes=[1, 2, 3])], [Rows(shape)], label=str(shape)),
        )


def products() -> None:
    for kind, (k, n) in itertools.product(
        ("f4", "f8", "f2"), ((8, 16), (37, 5), (64, 64), (130, 1), (784, 33), (1, 9))
    ):
        w, b = weights(k, n, kind=kind), weights(n, kind=kind)
        optional = kind != "f4"
        label = f"{kind} {k}x{n}"
        add("MatMul", Case([node("MatMul", ["x0", "w"])], [Rows((k,), kind)], {"w": w}, optional=optional, label=label))
        add(
            "MatMul",
            Case(
                [node("MatMul", ["x0", "w"])], [Rows((5, k), kind)], {"w": w}, optional=optional, label="3-D " + label
            ),
        )
        add(
            "Gemm",
            Case(
                [node("Gemm", ["x0", "w", "b"])], [Rows((k,), kind)], {"w": w, "b": b}, optional=optional, label=label
            ),
        )
        turned = np.ascontiguousarray(w.T)
        one = node("Gemm", ["x0", "w", "b"], transB=1, alpha=0.7, beta=1.3)
        add("Gemm", Case([one], [Rows((k,), kind)], {"w": turned, "b": b}, optional=optional, label="turned " + label))
        if kind == "f4":
            fused = node(MICROSOFT + "FusedMatMul", ["x0", "w"], transB=1, alpha=0.5)
            add(MICROSOFT + "FusedMatMul", Case([fused], [Rows((5, k))], {"w": turned}, label=label))
            fused = node(MICROSOFT + "FusedGemm", ["x0", "w", "b"], activation="Relu")
            add(MICROSOFT + "FusedGemm", Case([fused], [Rows((k,))], {"w": w, "b": b}, label=label))
            # Weights that the runtime computes once, when it opens the model.
            folded = [
                node("Cast", ["w"], ("c",), to=T.FLOAT),
                node("Transpose", ["c"], ("t",)),
                node("Mul", ["t", "two"], ("m",)),
            ]
            c = {"w": turned.astype(np.float16), "two": np.float32(2)}
            add("MatMul", Case([*folded, node("MatMul", ["x0", "m"])], [Rows((k,))], c, label="folded " + label))
            scaled = [node("DequantizeLinear", ["w", "s"], ("d",)), node("MatMul", ["x0", "d"])]
            c = {"w": WEIGHTS.integers(-127, 127, (k, n)).astype(np.int8), "s": np.float32(0.01)}
            add("MatMul", Case(scaled, [Rows((k,))], c, label="dequantised " + label))
    for channels, out, group in ((3, 8, 1), (16, 16, 1), (16, 16, 16), (8, 12, 4), (5, 7, 1), (32, 32, 32)):
        for shape, kernel in (((9, 11), [3, 3]), ((8, 8), [1, 1]), ((7, 7), [5, 5]), ((29,), [3])):
            w, b = weights(out, channels // group, *kernel), weights(out)
            attributes = {"kernel_shape": kernel, "group": group, "pads": [k // 2 for k in kernel] * 2}
            label = f"{channels}-{out} group {group} {shape} {kernel}"
            one = node("Conv", ["x0", "w", "b"], **attributes)
            add("Conv", Case([one], [Rows((channels, *shape))], {"w": w, "b": b}, label=label))
            fused = node(MICROSOFT + "FusedConv", ["x0", "w", "b"], activation="Relu", **attributes)
            add(MICROSOFT + "FusedConv", Case([fused], [Rows((channels, *shape))], {"w": w, "b": b}, label=label))
            strided = node("Conv", ["x0", "w"], **attributes, strides=[2] * len(kernel))
            add("Conv", Case([strided], [Rows((channels, *shape))], {"w": w}, label="strided " + label))
            if len(kernel) > 1 and out % group == 0:
                w = weights(channels, out // group, *kernel)
                one = node("ConvTranspose", ["x0", "w"], **attributes, strides=[2, 2])
                add("ConvTranspose", Case([one], [Rows((channels, *shape))], {"w": w}, label=label))
    conv = node("Conv", ["x0", "w"], kernel_shape=[3, 3])
    for kind in ("f2", "f8"):
        add(
            "Conv",
            Case([conv], [Rows((3, 9, 11), kind)], {"w": weights(8, 3, 3, 3, kind=kind)}, optional=True, label=kind),
        )
    for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        for inputs, hidden, direction in ((5, 7, "forward"), (16, 32, "bidirectional"), (37, 64, "reverse")):
            d = 2 if direction == "bidirectional" else 1
            c = {
                "w": weights(d, gates * hidden, inputs),
                "r": weights(d, gates * hidden, hidden),
                "b": weights(d, 2 * gates * hidden),
            }
            extra = {"linear_before_reset": 1} if op == "GRU" else {}
            nodes = [
                node("Transpose", ["x0"], ("t",), perm=[1, 0, 2]),
                node(op, ["t", "w", "r", "b"], ("s",), hidden_size=hidden, direction=direction, **extra),
                node("Transpose", ["s"], perm=[2, 0, 1, 3]),
            ]
            add(op, Case(nodes, [Rows((6, inputs))], c, label=f"{inputs}-{hidden} {direction}"))


def attention() -> None:
    for tokens, heads, size in ((5, 2, 8), (17, 4, 16), (33, 3, 32)):
        width = heads * size
        qkv = [Rows((heads, tokens, size))] * 3
        label = f"{tokens} tokens, {heads} heads of {size}"
        plain = [
            node("Transpose", ["x1"], ("t",), perm=[0, 1, 3, 2]),
            node("MatMul", ["x0", "t"], ("s",)),
            node("Div", ["s", "c"], ("d",)),
            node("Add", ["d", "x3"], ("m",)),
            node("Softmax", ["m"], ("p",), axis=-1),
            node("MatMul", ["p", "x2"]),
        ]
        mask = Rows((1, 1, tokens), low=-9, high=0)
        add("MatMul", Case(plain, [*qkv, mask], {"c": np.float32(size**0.5)}, label="attention, " + label))
        add("Attention", Case([node("Attention", ["x0", "x1", "x2"])], qkv, label=label))
        add("Attention", Case([node("Attention", ["x0", "x1", "x2"], is_causal=1)], qkv, label="causal, " + label))
        flat = [Rows((tokens, width))] * 3
        many = node(MICROSOFT + "MultiHeadAttention", ["x0", "x1", "x2"], num_heads=heads)
        add(MICROSOFT + "MultiHeadAttention", Case([many], flat, label=label))
        one = node(MICROSOFT + "Attention", ["x0", "w", "b"], num_heads=heads)
        c = {"w": weights(width, 3 * width, scale=0.1), "b": weights(3 * width)}
        add(MICROSOFT + "Attention", Case([one], flat[:1], c, label=label))
        masked = node(MICROSOFT + "Attention", ["x0", "w", "b", "x1"], num_heads=heads)
        mask = Rows((tokens,), "i4", 0, 1, False)
        add(MICROSOFT + "Attention", Case([masked], [flat[0], mask], c, label="masked, " + label))
        c = {"i": np.arange(tokens).reshape(1, -1)}
        tables = {"cos": weights(tokens, size // 2), "sin": weights(tokens, size // 2)}
        rotary = node("RotaryEmbedding", ["x0", "cc", "ss"])
        spread = [node("Expand", [n, "shape"], (2 * n[0],)) for n in ("cos", "sin")]
        batch = [node("Shape", ["x0"], ("n",), start=0, end=1), node("Concat", ["n", "rest"], ("shape",), axis=0)]
        c = tables | {"rest": np.array([tokens, size // 2])}
        add("RotaryEmbedding", Case([*batch, *spread, rotary], qkv[:1], c, label=label))
    size, words = 24, 11
    c = {"words": weights(50, size), "places": weights(64, size), "s": weights(size), "b": weights(size)}
    embed = node(MICROSOFT + "EmbedLayerNormalization", ["x0", "", "words", "places", "", "s", "b"], ("y", "mask"))
    add(MICROSOFT + "EmbedLayerNormalization", Case([embed], [Rows((words,), "i4", 0, 49, False)], c))


def quantised() -> None:
    for kind, shape in itertools.product(("u1", "i1", "u2", "i2"), ((7,), (37,), (4099,))):
        c = {"s": np.float32(0.037), "z": np.array(3, kind)}
        for op in ("QuantizeLinear", MICROSOFT + "QuantizeLinear"):
            add(op, Case([node(op, ["x0", *c])], [Rows(shape)], c, label=f"{kind}{shape}"))
        rows = Rows(shape, kind, 0 if kind[0] == "u" else -128, 127)
        for op in ("DequantizeLinear", MICROSOFT + "DequantizeLinear"):
            add(op, Case([node(op, ["x0", *c])], [rows], c, label=f"{kind}{shape}"))
    c = {"s": np.abs(weights(3)) + np.float32(0.01), "z": np.zeros(3, np.uint8)}
    add("QuantizeLinear", Case([node("QuantizeLinear", ["x0", *c], axis=1)], [Rows((3, 37))], c, label="per channel"))

    def q(name: str, scale: float = 0.02, zero: int = 7) -> dict[str, Array]:
        return {f"{name}s": np.float32(scale), f"{name}z": np.uint8(zero)}

    for k, n in ((8, 16), (37, 5), (64, 64), (784, 33)):
        w = {"w": WEIGHTS.integers(-100, 100, (k, n)).astype(np.int8)}
        rows = Rows((k,), "u1", 0, 255)
        add("MatMulInteger", Case([node("MatMulInteger", ["x0", "w"])], [rows], w))
        c = q("a") | w | {"ws": np.float32(0.01), "wz": np.int8(0)} | q("y", 0.5)
        add("QLinearMatMul", Case([node("QLinearMatMul", ["x0", *c])], [rows], c))
        c = {"w": w["w"], "as": np.float32(0.02), "ws": np.float32(0.01), "az": np.uint8(7)}
        one = node(MICROSOFT + "MatMulIntegerToFloat", ["x0", *c])
        add(MICROSOFT + "MatMulIntegerToFloat", Case([one], [rows], c))
        c = q("a") | w | {"ws": np.float32(0.01), "wz": np.int8(0), "c": np.zeros(n, np.int32)} | q("y", 0.5)
        add(MICROSOFT + "QGemm", Case([node(MICROSOFT + "QGemm", ["x0", *c])], [rows], c))
        # As static quantisation writes it; the runtime makes one node of these.
        c = q("a") | w | {"ws": np.float32(0.01), "wz": np.int8(0)} | q("y", 0.5)
        nodes = [
            node("QuantizeLinear", ["x0", "as", "az"], ("qx",)),
            node("DequantizeLinear", ["qx", "as", "az"], ("dx",)),
            node("DequantizeLinear", ["w", "ws", "wz"], ("dw",)),
            node("MatMul", ["dx", "dw"], ("m",)),
            node("QuantizeLinear", ["m", "ys", "yz"], ("qm",)),
            node("DequantizeLinear", ["qm", "ys", "yz"]),
        ]
        add("QLinearMatMul", Case(nodes, [Rows((k,))], c, label="from pairs"))
    for channels, out, group in ((3, 8, 1), (16, 16, 16), (16, 32, 1)):
        w = {"w": WEIGHTS.integers(-100, 100, (out, channels // group, 3, 3)).astype(np.int8)}
        rows = Rows((channels, 9, 11), "u1", 0, 255)
        add("ConvInteger", Case([node("ConvInteger", ["x0", "w"], group=group)], [rows], w))
        c = q("a") | w | {"ws": np.float32(0.01), "wz": np.int8(0)} | q("y", 0.5)
        add("QLinearConv", Case([node("QLinearConv", ["x0", *c], group=group)], [rows], c))
    for shape in ((7,), (37,), (4099,)):
        rows = Rows(shape, "u1", 0, 255)
        for op in ("QLinearAdd", "QLinearMul"):
            one = node(MICROSOFT + op, ["x0", "as", "az", "x1", "bs", "bz", "ys", "yz"])
            add(MICROSOFT + op, Case([one], [rows, rows], q("a") | q("b", 0.03) | q("y", 0.1), label=str(shape)))
        for op in ("QLinearSigmoid", "QLinearLeakyRelu"):
            one = node(MICROSOFT + op, ["x0", "as", "az", "ys", "yz"])
            add(MICROSOFT + op, Case([one], [rows], q("a") | q("y", 0.01), label=str(shape)))
        one = node(MICROSOFT + "QLinearConcat", ["ys", "yz", "x0", "as", "az", "x1", "bs", "bz"], axis=1)
        add(MICROSOFT + "QLinearConcat", Case([one], [rows, rows], q("a") | q("b", 0.03) | q("y", 0.1)))
        one = node(MICROSOFT + "QLinearSoftmax", ["x0", "as", "az", "ys", "yz"], axis=1, opset=13)
        add(MICROSOFT + "QLinearSoftmax", Case([one], [rows], q("a") | q("y", 1 / 256, 0), label=str(shape)))
    for shape in ((3, 9, 11), (16, 7, 7)):
        rows = Rows(shape, "u1", 0, 255)
        one = node(MICROSOFT + "QLinearAveragePool", ["x0", "as", "az", "ys", "yz"], kernel_shape=[3, 3])
        add(MICROSOFT + "QLinearAveragePool", Case([one], [rows], q("a") | q("y", 0.03), label=str(shape)))
        one = node(MICROSOFT + "QLinearGlobalAveragePool", ["x0", "as", "az", "ys", "yz"])
        add(MICROSOFT + "QLinearGlobalAveragePool", Case([one], [rows], q("a") | q("y", 0.03), label=str(shape)))
    for accuracy, bits, (k, n) in itertools.product((0, 1, 4), (4, 8), ((64, 16), (256, 48))):
        blocks = k // 32
        c = {
            "w": WEIGHTS.integers(0, 255, (n, blocks, 32 * bits // 8)).astype(np.uint8),
            "s": np.abs(weights(n * blocks, scale=0.02)),
        }
        one = node(MICROSOFT + "MatMulNBits", ["x0", *c], K=k, N=n, bits=bits, block_size=32, accuracy_level=accuracy)
        for shape in ((k,), (5, k)):
            add(
                MICROSOFT + "MatMulNBits",
                Case([one], [Rows(shape)], c, label=f"{bits} bits, accuracy {accuracy}, {shape}"),
            )


def dynamic_and_random() -> None:
    for shape in ((7,), (4099,)):
        three = ("y", "scale", "zero")
        add("DynamicQuantizeLinear", Case([node("DynamicQuantizeLinear", ["x0"], three)], [Rows(shape)], outputs=three))
    c = {"w": WEIGHTS.integers(-100, 100, (37, 5)).astype(np.int8), "s": np.float32(0.01)}
    one = node(MICROSOFT + "DynamicQuantizeMatMul", ["x0", "w", "s"])
    add(MICROSOFT + "DynamicQuantizeMatMul", Case([one], [Rows((37,))], c))
    for op in ("RandomNormalLike", "RandomUniformLike"):
        add(op, Case([node(op, ["x0"])], opset=21), Case([node(op, ["x0"], seed=3.0)], opset=21))
    for op in ("RandomNormal", "RandomUniform"):
        add(op, Case([node(op, [], ("r",), shape=[1, 37], seed=3.0), node("Add", ["x0", "r"])], opset=21))
    add("Multinomial", Case([node("Multinomial", ["x0"], sample_size=50)], opset=21))


def trees_and_lines() -> None:
    for size in (3, 30):
        flat = [Rows((size,))]
        scale = {"offset": weights(size).tolist(), "scale": weights(size).tolist()}
        add(ML + "Scaler", Case([node(ML + "Scaler", ["x0"], **scale)], flat))
        for norm in ("MAX", "L1", "L2"):
            add(ML + "Normalizer", Case([node(ML + "Normalizer", ["x0"], norm=norm)], flat, label=f"{norm} {size}"))
        add(ML + "Binarizer", Case([node(ML + "Binarizer", ["x0"], threshold=0.5)], [Rows((size,), free=False)]))
        add(
            ML + "Imputer",
            Case([node(ML + "Imputer", ["x0"], imputed_value_floats=[0.5], replaced_value_float=np.nan)], flat),
        )
        add(
            ML + "ArrayFeatureExtractor",
            Case([node(ML + "ArrayFeatureExtractor", ["x0", "c"])], flat, {"c": np.array([2, 0])}),
        )
        for targets in (1, 3):
            line = {"coefficients": weights(size * targets).tolist(), "intercepts": weights(targets).tolist()}
            one = node(ML + "LinearRegressor", ["x0"], targets=targets, **line)
            add(ML + "LinearRegressor", Case([one], flat, label=f"{size}-{targets}"))
        for post in ("NONE", "SOFTMAX", "LOGISTIC"):
            line = {"coefficients": weights(size * 3).tolist(), "intercepts": weights(3).tolist()}
            one = node(
                ML + "LinearClassifier", ["x0"], ("l", "y"), classlabels_ints=[0, 1, 2], post_transform=post, **line
            )
            add(ML + "LinearClassifier", Case([one], flat, outputs=("l", "y"), label=f"{size} {post}"))
        for trees in (1, 7, 150):
            common = stumps(trees, size)
            one = node(
                ML + "TreeEnsembleRegressor",
                ["x0"],
                n_targets=1,
                **common,
                **{f"target_{k}": v for k, v in leaves(trees).items()},
            )
            add(ML + "TreeEnsembleRegressor", Case([one], flat, label=f"{trees} trees"))
            classes = {f"class_{k}": v for k, v in leaves(trees, 3).items()}
            one = node(
                ML + "TreeEnsembleClassifier", ["x0"], ("l", "y"), classlabels_int64s=[0, 1, 2], **common, **classes
            )
            add(ML + "TreeEnsembleClassifier", Case([one], flat, outputs=("l", "y"), label=f"{trees} trees"))
        vectors = weights(9, size).ravel().tolist()
        for kernel in ("LINEAR", "RBF"):
            one = node(
                ML + "SVMRegressor",
                ["x0"],
                kernel_type=kernel,
                kernel_params=[0.1, 0.0, 3.0],
                n_supports=9,
                support_vectors=vectors,
                coefficients=weights(9).tolist(),
                rho=[0.2],
            )
            add(ML + "SVMRegressor", Case([one], flat, label=f"{size} {kernel}"))
    one = node(ML + "LabelEncoder", ["x0"], keys_int64s=[0, 1, 2], values_floats=[0.5, 1.5, 2.5])
    add(ML + "LabelEncoder", Case([one], [Rows((9,), "i8", 0, 2, False)]))
    one = node(ML + "OneHotEncoder", ["x0"], cats_int64s=[0, 1, 2])
    add(ML + "OneHotEncoder", Case([one], [Rows((9,), "i8", 0, 2, False)]))
    one = node(ML + "FeatureVectorizer", ["x0", "x1"], inputdimensions=[9, 4])
    add(ML + "FeatureVectorizer", Case([one], [Rows((9,)), Rows((4,))]))


def stumps(trees: int, features: int) -> dict[str, Any]:
    """Trees of one decision: nodes 0 (branch), 1 and 2 (leaves)."""
    ids = [[t, n] for t in range(trees) for n in range(3)]
    return {
        "nodes_treeids": [t for t, _ in ids],
        "nodes_nodeids": [n for _, n in ids],
        "nodes_featureids": [t % features if n == 0 else 0 for t, n in ids],
        "nodes_values": [float(np.sin(t)) if n == 0 else 0.0 for t, n in ids],
        "nodes_modes": ["BRANCH_LEQ" if n == 0 else "LEAF" for _, n in ids],
        "nodes_truenodeids": [1 if n == 0 else 0 for _, n in ids],
        "nodes_falsenodeids": [2 if n == 0 else 0 for _, n in ids],
    }


def leaves(trees: int, targets: int = 1) -> dict[str, Any]:
    ids = [(t, n) for t in range(trees) for n in (1, 2)]
    return {
        "treeids": [t for t, _ in ids],
        "nodeids": [n for _, n in ids],
        "ids": [t % targets for t, _ in ids],
        "weights": [float(np.cos(3 * t + n)) for t, n in ids],
    }


for build in (
    arithmetic,
    moving,
    resizing,
    special_functions,
    reductions,
    products,
    attention,
    quantised,
    dynamic_and_random,
    trees_and_lines,
):
    build()


# ---- The table ----


def read_table() -> dict[str, tuple[str, str]]:
    """Operator -> class and kind."""
    table: dict[str, tuple[str, str]] = {}
    group = ("", "")
    for line in TABLE.read_text().splitlines():
        if line.startswith("["):
            words = line[1 : line.index("]")].split()
            group = (words[0], words[1] if len(words) > 1 else "")
        elif not line.startswith("#"):
            table |= dict.fromkeys(line.split(), group)
    return table


OPERATORS = read_table()

NOT_BUILT = {
    "Constant": "has no input: the runtime computes it when it opens the model",
    "ConstantOfShape": "is filled with one value, whatever the rows hold",
    "EyeLike": "has no row: its second dimension is not the request's",
    "NonZero": "its output has no rows",
    "Range": "its output has no rows",
    "Shape": "its output has no rows",
    "Size": "its output has no rows",
    "If": "one class holds for every graph inside",
    "Loop": "one class holds for every graph inside",
    "Scan": "one class holds for every graph inside",
    "SequenceMap": "one class holds for every graph inside",
    "Bernoulli": "has no kernel on CPU but in training builds",
    "com.microsoft.BiasDropout": "has no kernel on CPU but in training builds",
    "com.microsoft.BitmaskBiasDropout": "has no kernel on CPU but in training builds",
    "com.microsoft.BitmaskDropout": "has no kernel on CPU but in training builds",
    "com.microsoft.Sampling": "needs a language model inside",
    "com.microsoft.DynamicQuantizeLSTM": "quantises as DynamicQuantizeMatMul does",
}


def class_of(op: str, case: Case) -> str:
    """What the table promises for a case, which may be in a type that was not measured."""
    double = any(r.kind == "f8" for r in case.inputs)
    repeats, kind = OPERATORS.get(f"{op}/fp64" if double else op) or OPERATORS[op]
    return "slot" if double and kind == "measured" else repeats


def test_the_table_was_measured_with_this_release() -> None:
    assert ort.__version__.startswith(RELEASE), "another release: measure every operator anew, then name it in judge.rs"


def test_every_operator_of_the_table_is_run_or_explained() -> None:
    names = {op.removesuffix("/fp64") for op in OPERATORS}
    assert names == CASES.keys() | NOT_BUILT.keys()
    assert not CASES.keys() & NOT_BUILT.keys()


@pytest.mark.parametrize("op", [op for op in CASES if OPERATORS.get(op, ("",))[0] in ("everywhere", "slot")])
def test_bytes_of_a_row(op: str) -> None:
    for case in CASES[op]:
        repeats = class_of(op, case)
        if repeats not in ("everywhere", "slot"):
            continue
        for threads in THREADS if repeats == "everywhere" and OPERATORS[op][1] == "measured" else (1, 3):
            try:
                found = measure(case, threads)
            except NotImplemented_:
                assert case.optional, f"{case.label}: no kernel"
                break
            assert not found.by_content, f"{case.label}: depends on other rows in {found.by_content}"
            if repeats == "everywhere":
                assert not found.by_place, f"{case.label}: another result in {found.by_place}"


@pytest.mark.parametrize("op", [op for op in CASES if any(class_of(op, c) == "alone" for c in CASES[op])])
def test_a_row_alone_repeats(op: str) -> None:
    for case in (c for c in CASES[op] if class_of(op, c) == "alone"):
        feed = {f"x{i}": r.row(np.random.default_rng(3))[None] for i, r in enumerate(case.inputs)}
        for threads in THREADS:
            given = {
                tuple(a.tobytes() for a in session(case.model(), threads).run(list(case.outputs), feed)) for _ in "ab"
            }
            assert len(given) == 1, f"{case.label}: {threads} threads"


@pytest.mark.parametrize("op", [op for op in CASES if OPERATORS.get(op, ("",))[0] == "never"])
def test_random_operators_do_not_repeat(op: str) -> None:
    for case in CASES[op]:
        feed = {f"x{i}": r.row(np.random.default_rng(3))[None] for i, r in enumerate(case.inputs)}
        opened = session(case.model(), 1)
        assert len({opened.run(["y"], feed)[0].tobytes() for _ in range(3)}) > 1


def main() -> None:
    """Prints what every operator does here, whatever the table says."""
    chosen = set(sys.argv[1:]) - {"--deep", "--wide"}
    seeds = range(4) if DEEP else (11,)
    for op, cases in CASES.items():
        if chosen and op not in chosen:
            continue
        marks = []
        for case in cases:
            try:
                found = [measure(case, t, s) for t in THREADS for s in seeds]
            except Exception as e:
                if not case.optional:
                    print(f"FAILED   {op:40} {case.label}: {str(e)[:160]}")
                marks.append("-" if case.optional else "!")
                continue
            place = next((f.by_place for f in found if f.by_place), "")
            content = next((f.by_content for f in found if f.by_content), "")
            if place or content:
                print(f"{'CONTENT' if content else 'PLACE':8} {op:40} {case.label}: {content or place}")
            marks.append("C" if content else "p" if place else ".")
        print(f"{'ok' if set(marks) <= {'.', '-'} else 'DIFFERS':8} {op:40} {''.join(marks)}", flush=True)


if __name__ == "__main__":
    main()
