"""Random faults under load, with every answer compared with the runtime's own: none wrong, none missing.

`make soak` asks for 200 rounds; GREY_SEED repeats one.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from conftest import FOREVER, GreyNode, alive, children, wait_until
from support.proofs import tensor

ROUNDS = int(os.environ.get("GREY_FAULT_ROUNDS", "8"))
CLIENTS = 12
ROUND_SECONDS = 0.6
# Answers that a fault may cause; anything else is a defect.
EXPECTED = {200, 404, 499, 500, 503, 504}
CONFIG = "run_timeout_ms: 1500\nmodels:\n  count: {batch_axis: first}\n  gather: {instances: 2}\n"


class Reference:
    """What the runtime itself answers."""

    def __init__(self, model: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self.lock = threading.Lock()

    def answer(self, name: str, array: np.ndarray) -> np.ndarray:
        with self.lock:
            found: np.ndarray = self.session.run(None, {name: array})[0]
            return found


@dataclass
class Tally:
    """What the clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    # Calls that ended without an answer while the node lived.
    unanswered: list[str] = field(default_factory=list)


class Load:
    """Clients that ask three models all the while."""

    def __init__(self, node: GreyNode, references: dict[str, Reference]) -> None:
        self.node = node
        self.references = references
        self.stop = threading.Event()
        self.tally = Tally()
        self.threads = [threading.Thread(target=self.client, args=(k,)) for k in range(CLIENTS)]
        for t in self.threads:
            t.start()

    def request(self, rng: np.random.Generator) -> tuple[str, str, np.ndarray]:
        rows = int(rng.choice([1, 1, 2, 5]))
        match int(rng.integers(3)):
            case 0:
                return "mlp", "x", rng.normal(size=(rows, 8)).astype(np.float32)
            case 1:
                ids = rng.integers(0, 10, size=(rows, 2))
                if rng.random() < 0.05:
                    ids[0, 0] = 99  # out of the table
                return "gather", "ids", ids
            case _:
                return "count", "n", rng.integers(0, 50, size=(rows, 1))

    def client(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        while not self.stop.is_set():
            model, name, array = self.request(rng)
            body = {"inputs": [tensor(name, array)]}
            if rng.random() < 0.1:
                body["parameters"] = {"timeout": int(rng.integers(1, 3000))}
            try:
                reply = self.node.infer(model, body)
            except (OSError, http.client.HTTPException) as e:
                if self.node.process.poll() is None:
                    self.tally.unanswered.append(f"{model}: {e!r}")
                time.sleep(0.05)
                continue
            self.tally.statuses[reply.status] += 1
            self.judge(model, name, array, reply)

    def judge(self, model: str, name: str, array: np.ndarray, reply: Any) -> None:
        if reply.status != 200:
            if reply.status not in EXPECTED or not reply.error:
                self.tally.wrong.append(f"{model}: {reply.status} {reply.body!r}")
            return
        if array.max() >= 99 and model == "gather":
            self.tally.wrong.append("an index out of the table was answered")
            return
        [output] = reply.json["outputs"]
        found = np.array(output["data"], np.float32).reshape(output["shape"])
        expected = self.references[model].answer(name, array)
        if found.shape != expected.shape or not np.allclose(found, expected, rtol=1e-5, atol=1e-6):
            self.tally.wrong.append(f"{model} of {array.tolist()}: {found.tolist()}, expected {expected.tolist()}")

    def end(self) -> Tally:
        self.stop.set()
        for t in self.threads:
            t.join()
        return self.tally


def a_host(node: GreyNode, random: random.Random) -> int | None:
    hosts = children(node.process.pid)
    return random.choice(hosts) if hosts else None


def signalled(*numbers: signal.Signals) -> Callable[[GreyNode, random.Random], None]:
    def fault(node: GreyNode, random: random.Random) -> None:
        pid = a_host(node, random)
        for number in numbers:
            if pid is not None and alive(pid):
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    return
            time.sleep(random.uniform(0.01, 0.3))

    return fault


def hang(node: GreyNode, random: random.Random) -> None:
    body = {"inputs": [tensor("n", np.array([[FOREVER + random.randrange(10)]]))]}
    assert node.infer("count", body).status in (500, 503, 404)


def go_away(node: GreyNode, random: random.Random) -> None:
    """Clients that send half a request, or a whole one, and are gone."""
    host, port = node.netloc.split(":")
    body = json.dumps({"inputs": [tensor("x", np.zeros((3, 8), np.float32))]}).encode()
    head = f"POST /v2/models/mlp/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    whole = head + body
    for _ in range(20):
        with socket.create_connection((host, int(port))) as gone:
            gone.sendall(whole[: random.randrange(len(whole) + 1)])


def unload(node: GreyNode, random: random.Random) -> None:
    model = random.choice(["mlp", "gather", "count"])
    node.request("POST", f"/grey/v1/models/{model}/unload")
    time.sleep(random.uniform(0, 0.2))
    wait_until(lambda: node.request("POST", f"/grey/v1/models/{model}/load").status == 200, f"{model} to load")


FAULTS: list[Callable[[GreyNode, random.Random], None]] = [
    signalled(signal.SIGKILL),
    signalled(signal.SIGKILL, signal.SIGKILL),
    signalled(signal.SIGSTOP, signal.SIGCONT),
    signalled(signal.SIGABRT),
    signalled(signal.SIGSEGV),
    hang,
    go_away,
    unload,
]


def test_random_faults(start: Callable[..., GreyNode], models: Path) -> None:
    seed = int(os.environ.get("GREY_SEED", str(time.time_ns() % 2**32)))
    print(f"seed {seed} (GREY_SEED), {ROUNDS} rounds")
    chance = random.Random(seed)
    node = start(config=CONFIG)
    names = ["mlp", "gather", "count"]
    for name in names:
        node.add(name, models / f"{name}.onnx")
    references = {name: Reference(models / f"{name}.onnx") for name in names}
    load = Load(node, references)
    for i in range(ROUNDS):
        fault = FAULTS[i % len(FAULTS)] if i < len(FAULTS) else chance.choice(FAULTS)
        fault(node, chance)
        time.sleep(chance.uniform(0, ROUND_SECONDS))
        assert node.process.poll() is None, "the node ended"
        assert not load.tally.wrong, load.tally.wrong[:3]
    # Once the faults end, everything is served again.
    for name, inputs in {"mlp": ("x", np.ones((1, 8), np.float32)), "count": ("n", np.array([[3]]))}.items():
        body = {"inputs": [tensor(*inputs)]}
        wait_until(lambda name=name, body=body: node.infer(name, body).status == 200, f"{name} to be served")
    tally = load.end()
    print(f"{sum(tally.statuses.values())} answers: {dict(tally.statuses)}")
    assert not tally.wrong, tally.wrong[:3]
    assert not tally.unanswered, tally.unanswered[:3]
    assert tally.statuses[200] > 10 * ROUNDS
    assert node.stop() == 0
