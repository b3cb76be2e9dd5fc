"""A bare ONNX Runtime loop on batches that are already assembled: what the machine can do at most.

usage: raw.py MODEL ROWS THREADS SECONDS [LENGTH]; prints rows per second and the median time of one run in seconds.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import numpy as np
import onnxruntime

DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


def main(model: str, rows: int, threads: int, seconds: float, length: int) -> None:
    """`length` is that of dimensions that may vary beside the rows."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(1)
    feed = {}
    for spec in session.get_inputs():
        shape = [rows, *(d if isinstance(d, int) else length for d in spec.shape[1:])]
        feed[spec.name] = rng.integers(0, 100, size=shape).astype(DTYPES[spec.type])
    begin = time.perf_counter()
    while time.perf_counter() < begin + seconds / 5:
        session.run(None, feed)
    times = []
    begin = before = time.perf_counter()
    while before < begin + seconds:
        session.run(None, feed)
        now = time.perf_counter()
        times.append(now - before)
        before = now
    report = {"rows_per_second": rows * len(times) / (before - begin), "p50_seconds": statistics.median(times)}
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), int((sys.argv[5:] or ["32"])[0]))
