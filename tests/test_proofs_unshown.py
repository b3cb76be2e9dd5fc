"""Proofs of models of which nothing is shown, or not yet: what is proven replays all the same."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FOREVER, GreyNode, alive, children, cpu_ticks, in_background, spin, wait_until
from support.proofs import Answer, hash_of, prove, replay, restated, tensor

CLIENTS = 16


def under_load(node: GreyNode, model: str, make: Callable[[np.random.Generator], Any], each: int) -> list[Answer]:
    """Proven answers of clients that ask at once, with unproven requests between; no request may fail."""
    answers: list[Answer] = []
    failures: list[str] = []

    def client(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for i in range(each):
                inputs = make(rng)
                if i % 3 == 2:
                    reply = node.infer(model, {"inputs": inputs})
                    assert reply.status == 200, reply.body
                else:
                    answers.append(prove(node, model, inputs))
        except AssertionError as e:
            failures.append(str(e))

    threads = [threading.Thread(target=client, args=(k,)) for k in range(CLIENTS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures, failures[0]
    return answers


def all_replay(node: GreyNode, answers: list[Answer]) -> None:
    assert answers
    for answer in answers:
        found = replay(node, answer)
        assert found.status == 200, found.body
        assert found.json["result"] == "reproduced", (answer.segments, found.body)


def floats(*shape: int) -> Callable[[np.random.Generator], list[dict[str, Any]]]:
    return lambda rng: [tensor("x", rng.normal(size=shape).astype(np.float32))]


def ids(rng: np.random.Generator) -> list[dict[str, Any]]:
    return [tensor("ids", rng.integers(1, 6, size=(int(rng.choice([1, 2, 3, 5])), 2)))]


def test_rows_that_mix_unseen_replay(start: Callable[..., GreyNode], models: Path) -> None:
    """The operator says that rows do not mix. They do, and the self-test cannot see it: every row alone gives 1."""
    node = start(config="models:\n  s: {batch_axis: first}\n")
    node.add("s", models / "softmax_over_rows.onnx")
    wait_until(lambda: node.show("s")["proofs"]["self_test"] != "not ended", "the self-test")
    shown = node.show("s")["proofs"]
    assert shown["class"] == "slot"
    assert shown["alone"]
    assert shown["reason"].endswith("; proven requests run alone")
    answers = under_load(node, "s", floats(2, 4), 6)
    assert {tuple(a.segments) for a in answers} == {((2, 0, 2),)}
    all_replay(node, answers)


@pytest.mark.parametrize("declared", [True, False])
def test_rows_of_zeros_that_are_refused_cost_nobody_an_answer(
    start: Callable[..., GreyNode], models: Path, declared: bool
) -> None:
    """Also before the self-test has found it out: the first answers come at once."""
    node = start(config="models:\n  z: {batch_axis: first}\n" if declared else None)
    node.add("z", models / "no_zero.onnx", probed=False)
    early = under_load(node, "z", ids, 12)
    wait_until(lambda: node.show("z")["proofs"]["self_test"] != "not ended", "the self-test")
    late = under_load(node, "z", ids, 12)
    all_replay(node, early[::4] + late[::4])


def test_what_is_proven_before_the_self_test_replays(start: Callable[..., GreyNode], models: Path) -> None:
    node = start(config="models:\n  t: {batch_axis: first}\n")
    node.add("t", models / "time_major.onnx", probed=False)
    answers: list[Answer] = []

    def client(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(20):
            inputs = floats(1, 4)(rng)
            reply = node.infer("t", {"inputs": inputs, "parameters": {"grey_prove": True}})
            if reply.status == 409:
                assert "cannot be proven: self-test" in reply.error
                return
            answers.append(Answer.read("t", inputs, reply))

    threads = [threading.Thread(target=client, args=(k,)) for k in range(CLIENTS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for answer in answers:
        assert replay(node, answer).json["result"] == "reproduced", answer.segments


def test_a_large_request_during_the_probe_stays_whole(start: Callable[..., GreyNode], models: Path) -> None:
    node = start()
    node.add("slow", models / "slow.onnx", probed=False)
    assert "being probed" in node.show("slow")["batching"]["reason"]
    answer = prove(node, "slow", floats(20_000, 1)(np.random.default_rng(1)))
    assert sum(rows for _, _, rows in answer.segments) == 20_000
    assert len(answer.segments) == 1
    assert replay(node, answer).json["result"] == "reproduced"


def test_inline_models_replay_and_come_again(start: Callable[..., GreyNode], models: Path) -> None:
    """All threads of one process: they share the runtime's one environment."""
    node = start(config="isolation: inline\n")
    node.add("mlp", models / "mlp.onnx")
    node.add("gather", models / "gather.onnx")
    answer = prove(node, "mlp", floats(3, 8)(np.random.default_rng(2)))
    assert replay(node, answer).json["result"] == "reproduced"
    node.cli("model", "unload", "mlp")
    node.cli("model", "load", "mlp")
    assert replay(node, prove(node, "mlp", floats(1, 8)(np.random.default_rng(3)))).json["result"] == "reproduced"


def endless(node: GreyNode) -> Answer:
    """A proof of a run that never ends, which no signature covers."""
    answer = prove(node, "spin", spin(1)["inputs"])
    inputs = spin(FOREVER)["inputs"]
    return Answer("spin", inputs, answer.outputs, restated(answer.proof, {-70006: hash_of(inputs)}), answer.session)


def replay_host(node: GreyNode) -> int:
    others = node.host_pids("spin")
    host: int = wait_until(lambda: next((p for p in children(node.process.pid) if p not in others), None), "a host")
    wait_until(lambda: cpu_ticks(host) > 20, "the replay to run")
    return host


def test_a_drain_ends_replays_that_wait(start: Callable[..., GreyNode], models: Path) -> None:
    node = start(config="drain_seconds: 1\n")
    node.add("spin", models / "spin.onnx")
    answer = endless(node)
    calls = [in_background(lambda: replay(node, answer)) for _ in range(5)]
    host = replay_host(node)
    os.kill(node.process.pid, signal.SIGTERM)
    begin = time.monotonic()
    assert node.process.wait(20) == 0
    assert time.monotonic() - begin < 10
    for thread, result in calls:
        thread.join()
        assert result[0].status == 503, result[0].body
        assert "shutting down" in result[0].error
    assert not alive(host)


def test_a_replay_whose_caller_goes_away_takes_its_host_with_it(start: Callable[..., GreyNode], models: Path) -> None:
    node = start()
    node.add("spin", models / "spin.onnx")
    answer = endless(node)
    connection = http.client.HTTPConnection(node.netloc)
    body = json.dumps({"inputs": answer.inputs, "parameters": {"grey_proof": answer.base64}})
    connection.request("POST", "/grey/v1/replay", body)
    host = replay_host(node)
    connection.close()
    wait_until(lambda: not alive(host), "the host to end")
    # And the next replay has its turn.
    good = prove(node, "spin", spin(5)["inputs"])
    assert replay(node, good).json["result"] == "reproduced"
