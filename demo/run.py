"""The demo: train a classifier on real handwritten digits, serve it batched, prove and check every answer."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import signal
import statistics
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grey
import numpy as np
from digits import train, write_onnx

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".demo"
CLIENTS = 64
PASSES = 10
START_WAIT_S = 30.0
TOLERANCE = 1e-4
REPLAYS = 100


def step(text: str) -> None:
    print(f"== {text}", flush=True)


class Node:
    """A ``grey serve`` on a free port, ended by its own pid."""

    def __init__(self, data: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "grey", "serve", "--http", "127.0.0.1:0", "--data", str(data), "--json"]
        command += flags
        log = (WORK / "node.log").open("wb")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(START_WAIT_S)
            raise SystemExit(f"the node did not start:\n{(WORK / 'node.log').read_text()}")
        self.url: str = json.loads(line)["url"]

    def grey(self, *args: str) -> Any:
        command = [sys.executable, "-m", "grey", "--url", self.url, "--json", *args]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"grey {' '.join(args)} failed:\n{done.stderr}")
        return json.loads(done.stdout)

    def request(self, method: str, path: str, body: str | None = None) -> bytes:
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc)
        connection.request(method, path, body)
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        if response.status != 200:
            raise SystemExit(f"{method} {path}: {response.status}: {answer[:300]!r}")
        return answer

    def get(self, path: str) -> Any:
        return json.loads(self.request("GET", path))

    def stop(self) -> int:
        os.kill(self.process.pid, signal.SIGTERM)
        return self.process.wait(START_WAIT_S)


@dataclass
class Classified:
    """What the clients got."""

    answers: np.ndarray  # FP32 [passes, images, 10]
    # By pass and image: the proof, and the session that signed it.
    proofs: dict[tuple[int, int], tuple[bytes, str]]
    times: list[float]
    seconds: float


def classify(url: str, images: np.ndarray, prove: bool = True) -> Classified:
    """Every image as a request of one row, from many clients at once, in the binary tensor extension."""
    netloc = urlsplit(url).netloc
    answers = np.zeros((PASSES, len(images), 10), np.float32)
    proofs: dict[tuple[int, int], tuple[bytes, str]] = {}
    times: list[float] = []
    failures: list[str] = []
    lock = threading.Lock()
    jobs = iter([(p, i) for p in range(PASSES) for i in range(len(images))])
    pixels = {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "parameters": {"binary_data_size": 256}}
    parameters = {"binary_data_output": True, "grey_prove": prove}
    header = json.dumps({"inputs": [pixels], "parameters": parameters}).encode()

    def client() -> None:
        connection = http.client.HTTPConnection(netloc)
        own: list[float] = []
        while True:
            with lock:
                job = next(jobs, None)
            if job is None or failures:
                break
            begin = time.perf_counter()
            connection.request(
                "POST",
                "/v2/models/digits/infer",
                header + images[job[1]].tobytes(),
                {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"},
            )
            response = connection.getresponse()
            body = response.read()
            own.append(time.perf_counter() - begin)
            if response.status != 200:
                failures.append(f"{response.status}: {body[:300]!r}")
                break
            head = int(response.headers["Inference-Header-Content-Length"])
            answers[job] = struct.unpack("<10f", body[head:])
            if prove:
                given = json.loads(body[:head])["parameters"]
                proofs[job] = (base64.b64decode(given["grey_proof"]), given["grey_session"])
        connection.close()
        with lock:
            times.extend(own)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    begin = time.perf_counter()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    seconds = time.perf_counter() - begin
    if failures:
        raise SystemExit(f"a request failed: {failures[0]}")
    return Classified(answers, proofs, times, seconds)


@dataclass
class Proven:
    """A proof with all that its verification needs, and what it is about."""

    bundle: bytes
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


def verdict(proven: Proven, model_hash: str, key: str) -> grey.Verdict:
    """Offline: no node, no network."""
    return grey.verify(
        proven.bundle,
        software_keys=[key],
        expected_model_hash=model_hash,
        inputs=proven.inputs,
        outputs=proven.outputs,
    )


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def tamper(proven: Proven, model_hash: str, key: str) -> bool:
    """Change one thing at a time, and show which check refuses it."""
    image, label = proven.inputs["pixels"], proven.outputs["probabilities"]
    view = grey.InferenceProof.from_bundle(proven.bundle)
    signature = proven.bundle.index(view.signature)
    claims = proven.bundle.index(b"digits")
    changed = {
        "model": ("model-hash", verdict(proven, hashlib.sha256(b"another model").hexdigest(), key)),
        "input": ("input-hash", verdict(Proven(proven.bundle, {"pixels": image + 1}, proven.outputs), model_hash, key)),
        "output": (
            "output-hash",
            verdict(Proven(proven.bundle, proven.inputs, {"probabilities": label[:, ::-1]}), model_hash, key),
        ),
        "claims": (
            "signature",
            verdict(Proven(flipped(proven.bundle, claims), proven.inputs, proven.outputs), model_hash, key),
        ),
        "signature": (
            "signature",
            verdict(Proven(flipped(proven.bundle, signature), proven.inputs, proven.outputs), model_hash, key),
        ),
    }
    for what, (check, found) in changed.items():
        print(f"   changed {what:9}  refused by: {', '.join(c.name for c in found.failed)}")
        if found or [c.name for c in found.failed] != [check]:
            return False
    return True


def replay(node: Node, proven: Proven) -> Any:
    image = proven.inputs["pixels"]
    pixels = {"name": "pixels", "datatype": "FP32", "shape": list(image.shape), "data": image.ravel().tolist()}
    proof = base64.b64encode(proven.bundle).decode()
    return json.loads(
        node.request("POST", "/grey/v1/replay", json.dumps({"inputs": [pixels], "parameters": {"grey_proof": proof}}))
    )


def main() -> None:
    WORK.mkdir(exist_ok=True)
    step("train a classifier on scikit-learn's handwritten digits")
    classifier, images, labels = train()
    expected = classifier.predict_proba(images.astype(np.float64))
    model = WORK / "digits.onnx"
    write_onnx(classifier, model)
    print(f"   {model.relative_to(ROOT)}: {model.stat().st_size:,} bytes; {len(images)} held-out images")

    step("start a node and register the model")
    node = Node(WORK / "data")
    try:
        added = node.grey("model", "add", "digits", str(model))
        print(f"   {node.url}: digits version {added['version']} is {added['state']} on {added['hosts'][0]['runtime']}")
        while (shown := node.grey("model", "show", "digits"))["proofs"]["self_test"] == "not ended":
            time.sleep(0.05)
        print(f"   batching: {shown['batching']['reason']}")

        print(f"   proofs: class {shown['proofs']['class']}, {shown['proofs']['reason']}")

        step(f"classify every image {PASSES} times from {CLIENTS} clients at once, each answer with a proof")
        got = classify(node.url, images)
        answers, times, seconds = got.answers, got.times, got.seconds
        stats = node.get("/v2/models/digits/stats")["model_stats"][0]
        key = node.get("/grey/v1/node")["proofs"]["node_key"]
        sessions = {s: node.request("GET", f"/grey/v1/sessions/{s}") for s in {s for _, s in got.proofs.values()}}
        proven = [
            Proven(
                grey.bundle(proof, sessions[session]),
                {"pixels": images[i : i + 1]},
                {"probabilities": answers[p, i : i + 1]},
            )
            for (p, i), (proof, session) in got.proofs.items()
        ]

        step(f"replay {REPLAYS} of them")
        replays = [replay(node, p) for p in proven[:: len(proven) // REPLAYS][:REPLAYS]]
        reproduced = sum(r["result"] == "reproduced" for r in replays)
        print(f"   {reproduced} of {len(replays)} gave the same bytes again")
    finally:
        code = node.stop()

    step("verify every proof, without the node")
    model_hash = hashlib.sha256(model.read_bytes()).hexdigest()
    begin = time.perf_counter()
    verdicts = [verdict(p, model_hash, key) for p in proven]
    each = (time.perf_counter() - begin) / len(verdicts)
    valid = sum(bool(v) for v in verdicts)
    print(f"   {valid:,} of {len(verdicts):,} are valid; {each * 1e6:.0f} us each, hashing and Python included")
    (WORK / "digits.proof").write_bytes(proven[0].bundle)
    print(f"   one is kept: grey proof verify {(WORK / 'digits.proof').relative_to(ROOT)} --software-key {key[:8]}...")

    step("tamper with one")
    refused = tamper(proven[0], model_hash, key)

    worst = float(np.abs(answers - expected).max())
    accuracy = float((answers.argmax(-1) == labels).mean())
    sizes = {b["batch_size"]: b["compute_infer"]["count"] for b in stats["batch_stats"]}
    runs, rows = sum(sizes.values()), sum(size * count for size, count in sizes.items())
    p50, p99 = statistics.median(times) * 1e3, sorted(times)[int(len(times) * 0.99)] * 1e3
    print(f"""
   requests            {len(times):,}
   accuracy            {accuracy:.1%} (scikit-learn's own: {(expected.argmax(-1) == labels).mean():.1%})
   largest difference  {worst:.1e} from scikit-learn's probabilities
   requests/s          {len(times) / seconds:,.0f} (clients and node on the same cores)
   latency             p50 {p50:.1f} ms, p99 {p99:.1f} ms
   batch sizes         1 to {max(sizes)}, {rows / runs:.1f} rows on average over {runs:,} runs
""")
    if worst > TOLERANCE or code != 0 or max(sizes) < 2:
        raise SystemExit(
            f"the demo FAILED: difference {worst:.1e}, node's exit code {code}, largest batch {max(sizes)}"
        )
    if valid != len(times) or reproduced != len(replays) or not refused:
        raise SystemExit(f"the demo FAILED: {valid} valid proofs, {reproduced} replays, tampering refused: {refused}")
    print("the demo passed: every answer is right and proven, replays gave the same bytes, and requests were batched")


if __name__ == "__main__":
    main()
