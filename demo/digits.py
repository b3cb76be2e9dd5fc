"""Train a small classifier on real handwritten digits: `digits.py FOLDER` writes it as ONNX, with inputs to try."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier


def train() -> tuple[MLPClassifier, np.ndarray, np.ndarray]:
    """The classifier, and the images and labels that it has not seen."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).astype(np.float32)
    x_train, x_test, y_train, y_test = train_test_split(images, labels, test_size=0.25, random_state=7, stratify=labels)
    classifier = MLPClassifier(hidden_layer_sizes=(64,), max_iter=400, random_state=7)
    classifier.fit(x_train.astype(np.float64), y_train)
    return classifier, x_test, y_test


def write_onnx(classifier: MLPClassifier, path: Path) -> None:
    """The classifier's weights as Gemm, Relu, Gemm, Softmax."""
    (w1, w2), (b1, b2) = classifier.coefs_, classifier.intercepts_
    weights = {"w1": w1, "b1": b1, "w2": w2, "b2": b2}
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
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="grey-demo"
    )
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    classifier, images, labels = train()
    write_onnx(classifier, folder / "digits.onnx")
    one = images[:1]
    body = {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": list(one.shape), "data": one.ravel().tolist()}]}
    (folder / "x.json").write_text(json.dumps(body))
    np.save(folder / "x.npy", images[:4])
    right = classifier.score(images.astype(np.float64), labels)
    print(
        f"{folder}: digits.onnx ({right:.1%} right), x.json (a {labels[0]}), x.npy ({', '.join(map(str, labels[:4]))})"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
