"""Proven answers: made under load, verified offline by the second verifier, and replayed to the same bytes."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from conftest import GreyNode, alive, children, cpu_ticks, gauge, in_background, spin, wait_until
from support.proofs import (
    Answer,
    bundle,
    check,
    known_tensor,
    node_key,
    prove,
    replay,
    restated,
    session,
    tensor,
)
from support.second_verifier import verify, verify_session

# `make soak` asks for more.
PROVEN_REQUESTS = int(os.environ.get("GREY_PROVEN_REQUESTS", "500"))
CLIENTS = 24
# The names of determinism classes in the order of strength, and what the operators of each model allow.
CLASSES = {
    "mlp": "invariant",
    "cnn": "invariant",
    "gru": "invariant",
    "encoder": "invariant",
    "int8_static": "invariant",
}


def proven_node(folder: Path, models: Path, config: str | None = None) -> GreyNode:
    node = GreyNode(folder / "data", config=config)
    for file in sorted((models / "proven").glob("*.onnx")):
        node.add(file.stem, file, probed=False)
    for file in (models / "proven").glob("*.onnx"):
        wait_until(lambda m=file.stem: is_tested(node, m), f"the self-test of {file.stem}")
    return node


def is_tested(node: GreyNode, model: str) -> bool:
    return bool(node.show(model)["proofs"]["self_test"] != "not ended")


@pytest.fixture(scope="module")
def proving(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[GreyNode]:
    """A node with models of all classes of determinism."""
    node = proven_node(tmp_path_factory.mktemp("proving"), models)
    yield node
    node.kill()


def inputs(model: str, rows: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    shapes = {"mlp": (8,), "cnn": (1, 8, 8), "gru": (12, 6), "int8_static": (32,), "int8_dynamic": (32,), "log": (7,)}
    if model == "encoder":
        return [tensor("ids", rng.integers(0, 100, size=(rows, int(rng.integers(1, 33)))))]
    return [tensor("x", rng.normal(size=(rows, *shapes[model])).astype(np.float32))]


def failed(verdict: dict[str, Any]) -> list[str]:
    return [c["name"] for c in verdict["checks"] if c["result"] == "fail"]


def now() -> int:
    return int(time.time())


def test_every_answer_is_proven_under_load_and_replays(proving: GreyNode) -> None:
    seed = int(os.environ.get("GREY_SEED", str(time.time_ns() % 2**32)))
    print(f"seed {seed} (GREY_SEED)")
    rng = np.random.default_rng(seed)
    jobs: list[tuple[str, list[dict[str, Any]], bool]] = []
    common = {model: inputs(model, 1, rng) for model in CLASSES}
    for i in range(PROVEN_REQUESTS * 5 // 4):
        model = list(CLASSES)[int(rng.integers(len(CLASSES)))]
        rows = int(rng.choice([1, 1, 1, 2, 3, 5, 40]))
        # Every fifth is not proven and shares runs with those that are; every third repeats the model's common input.
        jobs.append((model, common[model] if i % 3 == 0 else inputs(model, rows, rng), i % 5 != 0))
    answers: list[Answer] = []
    failures: list[str] = []
    left = iter(jobs)
    lock = threading.Lock()

    def client() -> None:
        while not failures:
            with lock:
                job = next(left, None)
            if job is None:
                return
            model, tensors, proven = job
            try:
                if proven:
                    answer = prove(proving, model, tensors)
                    with lock:
                        answers.append(answer)
                else:
                    reply = proving.infer(model, {"inputs": tensors})
                    assert reply.status == 200, reply.body
                    assert "grey_proof" not in reply.json.get("parameters", {}), reply.body
            except AssertionError as e:
                failures.append(str(e))

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures, failures[0]
    assert len(answers) == PROVEN_REQUESTS

    sessions = {digest: session(proving, digest) for digest in {a.session for a in answers}}
    policy = {"software_keys": [node_key(proving)], "execution": "slot"}
    hashes: dict[tuple[str, str], set[bytes]] = defaultdict(set)
    tasks = set()
    # The second verifier multiplies points in Python: a hundred are enough of it.
    for answer in answers[:100]:
        verdict = verify(bundle(answer.proof, sessions[answer.session]), policy, now(), answer.known())
        assert verdict["overall"] == "valid", verdict
    # By model, since the node keeps a replay's host for the next replay of the same model.
    for answer in sorted(answers, key=lambda a: a.model):
        assert sum(rows for _, _, rows in answer.segments) == answer.inputs[0]["shape"][0]
        hashes[answer.model, json.dumps(answer.inputs)].add(answer.claims[-70007])
        tasks.add(answer.claims[7])
        # The outputs are those that were hashed: the proof states them, and they are sent.
        reply = replay(proving, answer)
        assert reply.status == 200, reply.body
        assert reply.json["result"] == "reproduced", reply.body
        assert reply.json["profile_differences"] == [], reply.body
        replayed = {t["name"]: t["data"] for t in reply.json["outputs"]}
        assert replayed == {t["name"]: known_tensor(t)["data"] for t in answer.outputs}
    assert len(tasks) == len(answers), "every task has an id of its own"
    # It was a load: requests stood beside others, were padded, were cut, and were signed in both forms.
    segments = [s for a in answers for s in a.segments]
    assert any(position > 0 for _, position, _ in segments), "nothing was batched"
    assert any(len(a.segments) > 1 for a in answers), "nothing was cut"
    assert {a.is_batch for a in answers} == {True, False}, "one form was not used"
    for (model, _), found in hashes.items():
        if CLASSES[model] == "invariant":
            assert len(found) == 1, f"{model}: one input, several output hashes"
    assert Counter(a.exec[1] for a in answers if CLASSES[a.model] == "invariant").keys() == {"invariant"}
    assert gauge(proving, "grey_ai_proofs_total", form="batch")
    assert gauge(proving, "grey_ai_proofs_total", form="single")


def test_classes_and_their_reasons(proving: GreyNode) -> None:
    proofs = {m: proving.show(m)["proofs"] for m in [*CLASSES, "int8_dynamic", "log", "noise"]}
    assert {m: proofs[m]["class"] for m in CLASSES} == CLASSES
    assert proofs["log"]["class"] == "slot"
    assert "operator Log" in proofs["log"]["reason"]
    assert proofs["int8_dynamic"]["class"] == "slot"
    assert proofs["int8_dynamic"]["alone"] is True
    assert "DynamicQuantizeLinear" in proofs["int8_dynamic"]["reason"]
    assert proofs["noise"]["class"] is None
    assert "random numbers" in proofs["noise"]["reason"]
    shown = proving.cli("model", "show", "log").stdout
    assert "slot" in shown
    assert "operator Log" in shown


def test_a_model_that_draws_random_numbers_is_not_proven(proving: GreyNode) -> None:
    x = [tensor("x", np.zeros((1, 4), np.float32))]
    reply = proving.infer("noise", {"inputs": x, "parameters": {"grey_prove": True}})
    assert reply.status == 409
    assert reply.error.startswith("model 'noise' version '1' cannot be proven: ")
    assert "RandomNormalLike" in reply.error
    assert proving.infer("noise", {"inputs": x}).status == 200


def test_a_model_whose_scale_is_over_the_batch_runs_alone(proving: GreyNode) -> None:
    rng = np.random.default_rng(1)
    answers: list[Answer] = []

    def client(tensors: list[dict[str, Any]]) -> None:
        answers.append(prove(proving, "int8_dynamic", tensors))

    threads = [threading.Thread(target=client, args=(inputs("int8_dynamic", 1 + i % 3, rng),)) for i in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(answers) == 12
    for answer in answers:
        rows = answer.inputs[0]["shape"][0]
        assert answer.segments == [(rows, 0, rows)]
        assert replay(proving, answer).json["result"] == "reproduced"


def test_rows_that_are_declared_independent_still_run_alone_when_proven(
    start: Callable[..., GreyNode], models: Path
) -> None:
    node = start(
        config="models:\n  m:\n    batch_axis: first\n    batching:\n      hold: fill\n      max_wait_ms: 300\n"
    )
    node.add("m", models / "proven" / "int8_dynamic.onnx")
    rng = np.random.default_rng(2)
    beside = [
        threading.Thread(target=node.infer, args=("m", {"inputs": inputs("int8_dynamic", 2, rng)})) for _ in range(3)
    ]
    for t in beside:
        t.start()
    answer = prove(node, "m", inputs("int8_dynamic", 3, rng))
    for t in beside:
        t.join()
    assert answer.segments == [(3, 0, 3)]
    assert replay(node, answer).json["result"] == "reproduced"


def test_proofs_are_an_option_of_the_load(start: Callable[..., GreyNode], models: Path) -> None:
    node = start(config='models:\n  m:\n    proofs: "off"\n')
    node.add("m", models / "mlp.onnx")
    x = [tensor("x", np.zeros((1, 8), np.float32))]
    reply = node.infer("m", {"inputs": x, "parameters": {"grey_prove": True}})
    assert reply.status == 409, reply.error
    assert "proofs: off" in reply.error, reply.error
    assert node.infer("m", {"inputs": x}).status == 200
    assert node.show("m")["proofs"]["on"] is False


def test_a_header_asks_for_a_proof_also_of_raw_bytes(proving: GreyNode) -> None:
    x = np.arange(8, dtype=np.float32).reshape(1, 8)
    headers = {"Grey-Prove": "1", "Inference-Header-Content-Length": "0"}
    reply = proving.infer("mlp", x.tobytes(), headers)
    assert reply.status == 200, reply.body
    head = json.loads(reply.body[: int(reply.headers["Inference-Header-Content-Length"])])
    raw = reply.body[int(reply.headers["Inference-Header-Content-Length"]) :]
    outputs = [{"name": "y", "datatype": "FP32", "shape": [1, 3], "data": np.frombuffer(raw, np.float32).tolist()}]
    given = head["parameters"]
    answer = Answer("mlp", [tensor("x", x)], outputs, base64.b64decode(given["grey_proof"]), given["grey_session"])
    assert check(proving, answer, now())["overall"] == "valid"


def test_tritonclient_gets_a_proof(proving: GreyNode) -> None:
    x = np.ones((2, 8), np.float32)
    client = triton.InferenceServerClient(proving.netloc)
    given = triton.InferInput("x", [2, 8], "FP32")
    given.set_data_from_numpy(x)
    nonce = base64.b64encode(b"tritonclient").decode()
    result = client.infer("mlp", [given], parameters={"grey_prove": True, "grey_nonce": nonce})
    parameters = result.get_response()["parameters"]
    y = result.as_numpy("y")
    answer = Answer(
        "mlp",
        [tensor("x", x)],
        [tensor("y", y)],
        base64.b64decode(parameters["grey_proof"]),
        parameters["grey_session"],
    )
    verdict = check(proving, answer, now(), answer.known() | {"nonce": nonce})
    assert verdict["overall"] == "valid", verdict
    other = base64.b64encode(b"another one").decode()
    assert failed(check(proving, answer, now(), {"nonce": other})) == ["nonce"]


def test_only_the_outputs_that_were_asked_for_are_stated(proving: GreyNode) -> None:
    body = {
        "inputs": [tensor("x", np.ones((1, 8), np.float32))],
        "outputs": [{"name": "y"}],
        "parameters": {"grey_prove": True},
    }
    reply = proving.infer("mlp", body)
    given = reply.json["parameters"]
    answer = Answer(
        "mlp", body["inputs"], reply.json["outputs"], base64.b64decode(given["grey_proof"]), given["grey_session"]
    )
    assert answer.claims[-70018] == ["y"]


def test_a_salt_hides_what_could_be_guessed(proving: GreyNode) -> None:
    salt = bytes(range(32))
    text = base64.b64encode(salt).decode()
    plain = prove(proving, "mlp", inputs("mlp", 1, np.random.default_rng(3)))
    salted = prove(proving, "mlp", plain.inputs, grey_salt=text)
    assert salted.claims[-70008] == "grey-tensor-v1+salt"
    assert salted.claims[-70006] != plain.claims[-70006]
    assert salted.claims[-70007] != plain.claims[-70007]
    assert check(proving, salted, now(), salted.known() | {"salt": text})["overall"] == "valid"
    assert salt not in salted.proof
    without = check(proving, salted, now())
    assert without["overall"] == "not valid"
    assert failed(without) == []
    assert replay(proving, salted, grey_salt=text).json["result"] == "reproduced"
    reply = replay(proving, salted)
    assert reply.status == 400
    assert "salted" in reply.error


@pytest.mark.parametrize(
    ("parameters", "headers", "message"),
    [
        ({"grey_prove": 1}, {}, "parameter 'grey_prove' is 1, expected true or false"),
        ({"grey_prove": True, "grey_nonce": "AAAA"}, {}, "parameter 'grey_nonce' has 3 bytes, expected 8 to 64"),
        ({"grey_prove": True, "grey_nonce": "?"}, {}, "parameter 'grey_nonce' is not base64"),
        ({"grey_prove": True, "grey_nonce": 7}, {}, "parameter 'grey_nonce' is 7, expected base64"),
        ({"grey_prove": True, "grey_salt": "AAAA"}, {}, "parameter 'grey_salt' has 3 bytes, expected 32"),
        ({"grey_nonce": "AAAAAAAAAAAAAAAA"}, {}, "parameter 'grey_nonce' asks for nothing without 'grey_prove': true"),
        ({"grey_prove": False}, {"Grey-Prove": "1"}, "parameter 'grey_prove' is false, but the header Grey-Prove says"),
        ({}, {"Grey-Prove": "yes"}, "header Grey-Prove is 'yes', expected 1 or 0"),
    ],
)
def test_what_is_asked_wrongly_is_named(
    proving: GreyNode, parameters: dict[str, Any], headers: dict[str, str], message: str
) -> None:
    body = {"inputs": inputs("mlp", 1, np.random.default_rng(4)), "parameters": parameters}
    reply = proving.infer("mlp", body, headers)
    assert reply.status == 400
    assert reply.error.startswith(message), reply.error


def test_claims_that_would_not_fit_are_refused_before_the_run(proving: GreyNode) -> None:
    rng = np.random.default_rng(5)
    before = proving.request("GET", "/v2/models/mlp/stats").json["model_stats"][0]["execution_count"]
    body = {"inputs": inputs("mlp", 40_000, rng), "parameters": {"grey_prove": True}}
    reply = proving.infer("mlp", body)
    assert reply.status == 400
    assert "4096 bytes" in reply.error, reply.error
    assert "40000 rows would be cut into 1250 runs" in reply.error, reply.error
    after = proving.request("GET", "/v2/models/mlp/stats").json["model_stats"][0]["execution_count"]
    assert after == before
    large = prove(proving, "mlp", inputs("mlp", 5_000, rng))
    assert len(large.segments) == 157
    assert replay(proving, large).json["result"] == "reproduced"


def test_sessions_are_served_with_evidence_that_is_fresh(proving: GreyNode) -> None:
    answer = prove(proving, "mlp", inputs("mlp", 1, np.random.default_rng(6)))
    policy = {"software_keys": [node_key(proving)]}
    nonce = os.urandom(20)
    query = "?nonce=" + base64.urlsafe_b64encode(nonce).decode().rstrip("=")
    fresh = session(proving, answer.session, query)
    known = {"session_nonce": base64.b64encode(nonce).decode()}
    assert verify_session(fresh, policy, now(), known)["overall"] == "valid"
    assert verify(bundle(answer.proof, fresh), policy, now(), known)["overall"] == "valid"
    # An older answer of the node, played again, is not fresh.
    assert failed(verify_session(session(proving, answer.session), policy, now(), known)) == ["key-binding"]
    for path, status, message in [
        ("0" * 64, 404, "this node has no such session"),
        ("ab", 400, "session 'ab', expected 64 digits of lower-case hex"),
        (answer.session.upper(), 400, "session '"),
        (answer.session + "?nonce=AAAA", 400, "expected 8 to 64"),
        (answer.session + "?nonce=" + "A" * 100, 400, "expected 8 to 64"),
        (answer.session + "?nonce=!", 400, "query parameter 'nonce' is not base64url"),
        (answer.session + "?x=1", 400, "query parameter 'x', expected nonce"),
    ]:
        reply = proving.request("GET", f"/grey/v1/sessions/{path}")
        assert reply.status == status, reply.body
        assert message in reply.error, reply.body


def test_a_proof_outlives_its_node(start: Callable[..., GreyNode], models: Path) -> None:
    node = start()
    node.add("mlp", models / "mlp.onnx")
    answer = prove(node, "mlp", inputs("mlp", 1, np.random.default_rng(7)))
    key = node_key(node)
    node.stop()
    again = start()
    assert node_key(again) == key
    assert prove(again, "mlp", answer.inputs).session != answer.session, "a session's keys end with its node"
    assert check(again, answer, now())["overall"] == "valid"
    assert replay(again, answer).json["result"] == "reproduced"


def test_one_nonce_twice_gives_two_tasks_and_a_seen_one_is_refused(proving: GreyNode) -> None:
    nonce = base64.b64encode(b"used twice").decode()
    x = inputs("mlp", 1, np.random.default_rng(8))
    first, second = (prove(proving, "mlp", x, grey_nonce=nonce) for _ in range(2))
    assert first.claims[7] != second.claims[7]
    known = {"nonce": nonce, "seen": [first.claims[7].hex()]}
    assert failed(check(proving, first, now(), known)) == ["replay"]
    assert check(proving, second, now(), known)["overall"] == "valid"


def test_what_was_tampered_with_is_refused_by_its_check(proving: GreyNode) -> None:
    answer = prove(proving, "mlp", inputs("mlp", 1, np.random.default_rng(9)))
    at = now()
    model_hash = answer.claims[-70004].hex()
    assert check(proving, answer, at, answer.known() | {"model_hash": model_hash})["overall"] == "valid"
    other = ("0" if model_hash[0] != "0" else "1") + model_hash[1:]
    assert failed(check(proving, answer, at, {"model_hash": other})) == ["model-hash"]
    known = answer.known()
    known["inputs"][0]["data"] = base64.b64encode(np.zeros(8, np.float32).tobytes()).decode()
    assert failed(check(proving, answer, at, known)) == ["input-hash"]
    known = answer.known()
    known["outputs"][0]["data"] = base64.b64encode(np.zeros(3, np.float32).tobytes()).decode()
    assert failed(check(proving, answer, at, known)) == ["output-hash"]
    assert not answer.is_batch
    signature = bytearray(answer.proof)
    signature[-1] ^= 1
    forged = Answer(answer.model, answer.inputs, answer.outputs, bytes(signature), answer.session)
    assert failed(check(proving, forged, at)) == ["signature"]
    renamed = Answer(
        answer.model, answer.inputs, answer.outputs, answer.proof.replace(b"cmlp", b"cmlq"), answer.session
    )
    assert failed(check(proving, renamed, at)) == ["signature"]
    assert failed(check(proving, answer, at, software_keys=["00" * 32])) == ["measurement"]
    assert failed(check(proving, answer, at, max_age=5)) == []
    assert failed(check(proving, answer, at + 60, max_age=5)) == ["freshness"]
    # Clocks: the verifier's lies far behind the node's, then far ahead.
    assert failed(check(proving, answer, at - 3600)) == ["session"]
    assert failed(check(proving, answer, at + 40 * 86_400)) == ["session"]


def test_a_replay_says_what_is_wrong(proving: GreyNode, start: Callable[..., GreyNode], models: Path) -> None:
    answer = prove(proving, "mlp", inputs("mlp", 1, np.random.default_rng(10)))
    wrong = Answer("mlp", inputs("mlp", 1, np.random.default_rng(11)), [], answer.proof, answer.session)
    reply = replay(proving, wrong)
    assert reply.status == 400
    assert reply.error.startswith("these are not the inputs of the proof: expected input_hash ")
    reply = proving.request("POST", "/grey/v1/replay", json.dumps({"inputs": answer.inputs}))
    assert reply.status == 400
    assert "parameter 'grey_proof' is missing" in reply.error
    broken = Answer("mlp", answer.inputs, [], answer.proof[:-1], answer.session)
    reply = replay(proving, broken)
    assert reply.status == 400, reply.error
    assert "is no proof: proof" in reply.error, reply.error
    reply = proving.request("POST", "/grey/v1/replay", "{}", {"Host": "evil.example"})
    assert reply.status == 403
    # Another build of the runtime: the bytes are the same, and what differs is said.
    renamed = Answer("mlp", answer.inputs, [], answer.proof.replace(b"f1.32.0", b"f1.31.0"), answer.session)
    found = replay(proving, renamed).json
    assert found["result"] == "reproduced"
    assert found["profile_differences"] == [{"member": "engine_version", "recorded": "1.31.0", "here": "1.32.0"}]
    other = Answer("mlp", answer.inputs, [], renamed.proof.replace(answer.claims[-70007], bytes(32)), answer.session)
    assert replay(proving, other).json["result"] == "profile-differs"
    other = Answer("mlp", answer.inputs, [], answer.proof.replace(answer.claims[-70007], bytes(32)), answer.session)
    found = replay(proving, other).json
    assert found["result"] == "differs"
    assert found["output_hash"]["recorded"] == "00" * 32
    assert found["output_hash"]["replayed"] == answer.claims[-70007].hex()
    closed = start("closed", config="allow_replay: false\n")
    reply = replay(closed, answer)
    assert reply.status == 403
    assert "--allow-replay" in reply.error


def forged(answer: Answer, segments: list[list[int]], threads: int = 1) -> Answer:
    """The proof with another profile."""
    proof = restated(answer.proof, {-70009: answer.exec | {4: threads, 5: segments}})
    return Answer(answer.model, answer.inputs, answer.outputs, proof, answer.session)


def test_what_a_replay_may_use_is_bounded(proving: GreyNode) -> None:
    answer = prove(proving, "mlp", inputs("mlp", 200, np.random.default_rng(14)))
    for segments, threads, message in [
        ([[131_073, 0, 1]] * 200, 1, "the proof's segments are padded by more than 131072 rows"),
        ([[2**62, 0, 200]], 1, "the proof's segments are padded by more than 131072 rows"),
        ([[2**62, 0, 1]] * 4 + [[2**62, 0, 196]], 1, "the proof's segments are padded by more than 131072 rows"),
        ([[200, 0, 199]], 1, "the proof's segments have 199 rows, the inputs 200"),
        ([[200, 0, 200]], 257, "this proof's run cannot be repeated: it ran on 257 threads, expected 1 to 256"),
        ([[200, 0, 200]], 0, "this proof's run cannot be repeated: it ran on 0 threads, expected 1 to 256"),
    ]:
        reply = replay(proving, forged(answer, segments, threads))
        assert reply.status == 400, reply.body
        assert reply.error.startswith(message), reply.error
    # Another place than the recorded one, within the bounds: the model is invariant.
    assert replay(proving, forged(answer, [[1024, 500, 200]])).json["result"] == "reproduced"


def test_many_replays_at_once_are_answered_or_told_to_wait(proving: GreyNode) -> None:
    answer = prove(proving, "mlp", inputs("mlp", 1, np.random.default_rng(15)))
    replies = []
    threads = [threading.Thread(target=lambda: replies.append(replay(proving, answer))) for _ in range(40)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(replies) == 40
    for reply in replies:
        if reply.status == 200:
            assert reply.json["result"] == "reproduced"
        else:
            assert reply.status == 503, reply.body
            assert reply.error == "16 replays wait already"
            assert reply.headers["Retry-After"] == "1"
    assert any(r.status == 200 for r in replies)


def replaying(node: GreyNode, answer: Answer, model: str) -> tuple[threading.Thread, list[Any], int]:
    """A replay in the background, which has a host of its own that runs, and the host's pid."""
    others = node.host_pids(model)
    thread, result = in_background(lambda: replay(node, answer))
    host = wait_until(lambda: next((p for p in children(node.process.pid) if p not in others), None), "a host")
    wait_until(lambda: cpu_ticks(host) > 20, "the replay to run")
    return thread, result, host


def test_a_drain_lets_a_replay_finish(start: Callable[..., GreyNode], models: Path) -> None:
    node = start()
    node.add("spin", models / "spin.onnx")
    request = spin(1_500_000)
    answer = prove(node, "spin", request["inputs"])
    thread, result, host = replaying(node, answer, "spin")
    os.kill(node.process.pid, signal.SIGTERM)
    thread.join()
    assert result[0].json["result"] == "reproduced"
    assert node.process.wait(20) == 0
    assert not alive(host)


def test_a_model_that_was_replaced_is_not_replayed(start: Callable[..., GreyNode], models: Path) -> None:
    node = start()
    node.add("m", models / "proven" / "mlp.onnx")
    answer = prove(node, "m", inputs("mlp", 1, np.random.default_rng(12)))
    node.add("m", models / "proven" / "int8_static.onnx")
    assert replay(node, answer).json["result"] == "reproduced", "the older version is still registered"
    node.cli("model", "remove", "m", "--version", "1")
    reply = replay(node, answer)
    assert reply.status == 404
    assert answer.claims[-70004].hex() in reply.error
    assert "not registered here" in reply.error


def test_a_folder_that_lost_its_key_is_refused(start: Callable[..., GreyNode], tmp_path: Path) -> None:
    node = start()
    key = node_key(node)
    node.stop()
    (node.data / "node.key").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "grey", "serve", "--http", "127.0.0.1:0", "--data", str(node.data)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode != 0
    assert key in done.stderr, done.stderr
    assert "node.pub" in done.stderr, done.stderr
    (node.data / "node.pub").unlink()
    again = start()
    assert node_key(again) != key
    assert (again.data / "node.key").stat().st_mode & 0o777 == 0o600


def test_a_readable_key_is_refused(start: Callable[..., GreyNode]) -> None:
    node = start()
    node.stop()
    (node.data / "node.key").chmod(0o644)
    with pytest.raises(RuntimeError, match="mode 0644"):
        start()


def test_tenants_get_tags_and_no_names(
    proving: GreyNode, start: Callable[..., GreyNode], models: Path, tmp_path: Path
) -> None:
    x = inputs("mlp", 1, np.random.default_rng(13))
    tags = {t: prove(proving, "mlp", x, tenant=t).claims[-70001] for t in ["acme-corporation", "other"]}
    again = prove(proving, "mlp", x, tenant="acme-corporation")
    assert again.claims[-70001] == tags["acme-corporation"] != tags["other"]
    assert b"acme" not in again.proof
    key = tmp_path / "tag.key"
    key.write_bytes(bytes(32))
    configured = f"tenant_tag_key_file: {key}\nname: eu-west-1\n"
    found = set()
    for name in ("a", "b"):
        node = start(name, config=configured)
        node.add("mlp", models / "mlp.onnx")
        answer = prove(node, "mlp", x, tenant="acme-corporation")
        assert answer.claims[1] == "eu-west-1"
        found.add(answer.claims[-70001])
    assert len(found) == 1, "nodes with one key give a tenant one tag"
