"""The model of the examples: a classifier of scikit-learn's handwritten digits, as an ONNX file."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier


def train(file: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Train it and write it to `file`. Returns images that it has not seen (FP32 [N, 64], 0 to 1), and what is
    on them."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    seen, held_out, seen_labels, labels = train_test_split(images, labels, test_size=0.25, random_state=7)
    classifier = MLPClassifier(hidden_layer_sizes=(64,), max_iter=1000, random_state=7).fit(seen, seen_labels)
    Path(file).write_bytes(to_onnx(classifier).SerializeToString())
    return held_out, labels


def to_onnx(classifier: MLPClassifier) -> onnx.ModelProto:
    """The weights in a graph that takes any number of rows. (`skl2onnx` does this for all of scikit-learn.)"""
    weights = dict(zip(["w1", "w2", "b1", "b2"], classifier.coefs_ + classifier.intercepts_, strict=True))
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["pixels", "w1", "b1"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["active"]),
            helper.make_node("Gemm", ["active", "w2", "b2"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        ],
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model
