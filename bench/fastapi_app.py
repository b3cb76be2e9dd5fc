"""The peer that many teams would write themselves: FastAPI around ONNX Runtime, raw float32 in and out."""

from __future__ import annotations

import os

import numpy as np
import onnxruntime
from fastapi import FastAPI, Request, Response

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
[spec] = session.get_inputs()
columns = spec.shape[1]
app = FastAPI()


@app.post("/infer")
async def infer(request: Request) -> Response:
    rows = np.frombuffer(await request.body(), np.float32).reshape(-1, columns)
    [y] = session.run(None, {spec.name: rows})
    return Response(y.tobytes(), media_type="application/octet-stream")
