"""Many clients, bad ones among them: bounds hold, good clients are answered, and all that was taken comes back.

`make soak` asks for more connections, requests and cycles.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from conftest import GreyNode, children, gauge, in_background, wait_until
from support import models as made
from support.proofs import tensor

CONNECTIONS = int(os.environ.get("GREY_CONNECTIONS", "1500"))
REQUESTS = int(os.environ.get("GREY_REQUESTS", "20000"))
CYCLES = int(os.environ.get("GREY_CYCLES", "20"))
MIB = 1 << 20


def status(pid: int, name: str) -> int:
    """A value of /proc/PID/status in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {name}")


def files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def connect(node: GreyNode) -> socket.socket:
    host, port = node.netloc.split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def request(body: bytes, path: str = "/v2/models/mlp/infer", length: int | None = None) -> bytes:
    length = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode() + body


def row(rows: int = 1) -> bytes:
    return json.dumps({"inputs": [tensor("x", np.ones((rows, 8), np.float32))]}).encode()


def test_connections_of_all_kinds(start: Callable[..., GreyNode], models: Path) -> None:
    """Idle ones, half a head, half a body, byte by byte, answers that nobody reads, clients that vanish."""
    # This process holds the other ends.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    node = start(config=f"limits: {{connections_max: {CONNECTIONS + 1000}}}\n")
    node.add("mlp", models / "mlp.onnx")
    node.infer("mlp", row())
    pid = node.process.pid
    before = files(pid)
    stop = threading.Event()
    good: list[int] = []

    def client() -> None:
        while not stop.is_set():
            good.append(node.infer("mlp", row()).status)

    clients = [threading.Thread(target=client) for _ in range(4)]
    for t in clients:
        t.start()
    whole = request(row(100))
    kinds: list[Callable[[socket.socket], Any]] = [
        lambda s: None,
        lambda s: s.sendall(whole[:20]),
        lambda s: s.sendall(whole[: len(whole) // 2]),
        lambda s: s.sendall(whole),  # and never reads
        lambda s: s.sendall(request(b"", length=1 << 30)),
    ]
    held = []
    for i in range(CONNECTIONS):
        s = connect(node)
        kinds[i % len(kinds)](s)
        if i % 3 == 0:
            s.close()
        else:
            held.append(s)
    slow = [connect(node) for _ in range(20)]
    for at in range(0, 40):
        for s in slow:
            s.sendall(whole[at : at + 1])
    assert status(pid, "VmRSS") < 600 * MIB, status(pid, "VmRSS") // MIB
    served = len(good)
    wait_until(lambda: len(good) > served + 50, "good clients to be served meanwhile")
    for s in held + slow:
        s.close()
    stop.set()
    for t in clients:
        t.join()
    assert set(good) == {200}
    wait_until(lambda: files(pid) <= before + 8, "the connections to be given back")
    wait_until(lambda: gauge(node, "grey_ai_inflight_bytes") == 0, "all bytes to be given back")
    assert node.infer("mlp", row()).status == 200


ROWS_MAX = 64
BYTES_MAX = 32 * MIB
BODY_BYTES = MIB
VANISHING = 1000
UNREAD_ELEMENTS = 500_000


@contextmanager
def within_bounds(node: GreyNode, bytes_max: int = BYTES_MAX) -> Iterator[None]:
    """Looks all the while at what the node holds."""
    stop = threading.Event()
    held: list[tuple[float, float]] = []

    def look() -> None:
        while not stop.is_set():
            rows = gauge(node, "grey_ai_queue_rows", model="mlp")
            held.append((rows or 0, gauge(node, "grey_ai_inflight_bytes") or 0))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert max(rows for rows, _ in held) <= ROWS_MAX
    assert max(bytes_ for _, bytes_ in held) <= bytes_max


def bounded(start: Callable[..., GreyNode], models: Path) -> GreyNode:
    limits = f"queue_rows_max: {ROWS_MAX}, inflight_bytes_max: {BYTES_MAX}, connections_max: {CONNECTIONS + 1000}"
    node = start(
        config=f"limits: {{{limits}}}\nrun_timeout_ms: 600000\nmodels:\n  mlp: {{batch_axis: first, proofs: off}}\n"
    )
    node.add("mlp", models / "mlp.onnx")
    return node


def all_given_back(node: GreyNode, opened: int) -> None:
    wait_until(lambda: gauge(node, "grey_ai_inflight_bytes") == 0, "all bytes to be given back")
    wait_until(lambda: gauge(node, "grey_ai_queue_rows", model="mlp") == 0, "all rows to be given back")
    wait_until(lambda: files(node.process.pid) <= opened + 8, "the connections to be given back")
    assert node.infer("mlp", row()).status == 200


def test_1000_clients_that_vanish_leave_no_row_behind(start: Callable[..., GreyNode], models: Path) -> None:
    """They go while their requests wait for a host that stands still; those that are too many are refused."""
    node = bounded(start, models)
    [host] = node.host_pids("mlp")
    opened = files(node.process.pid)
    os.kill(host, signal.SIGSTOP)
    waiting = lambda: gauge(node, "grey_ai_queue_rows", model="mlp")  # noqa: E731
    try:
        with within_bounds(node):
            first, answer = in_background(lambda: node.infer("mlp", row()))
            wait_until(lambda: gauge(node, "grey_ai_inflight_bytes"), "a request to be with the host")
            wait_until(lambda: waiting() == 0, "it to wait no more")
            for at in range(0, VANISHING, ROWS_MAX):
                clients = [connect(node) for _ in range(min(ROWS_MAX, VANISHING - at))]
                for s in clients:
                    s.sendall(request(row()))
                wait_until(lambda clients=clients: waiting() == len(clients), "their rows to wait")
                if len(clients) == ROWS_MAX:
                    refused = node.infer("mlp", row())
                    assert refused.status == 503, refused.body
                    assert "Retry-After" in refused.headers
                for i, s in enumerate(clients):
                    if i % 2:
                        # Without a word: the node's next write finds nobody.
                        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    s.close()
                wait_until(lambda: waiting() == 0, "their rows to be given back")
    finally:
        go_on(host)
    first.join()
    assert answer[0].status == 200
    all_given_back(node, opened)
    assert node.host_pids("mlp") == [host]


def test_slow_bodies_take_no_more_than_there_is(start: Callable[..., GreyNode], models: Path) -> None:
    """Each declares a megabyte and sends it bit by bit: as many as there is room for are answered, the others refused
    at once, and those that stop in the middle give back what they took."""
    node = bounded(start, models)
    opened = files(node.process.pid)
    text = row()
    body = text[:-1] + b" " * (BODY_BYTES - len(text)) + text[-1:]
    with within_bounds(node):
        clients = [connect(node) for _ in range(CONNECTIONS // 10)]
        for s in clients:
            s.sendall(request(body[: len(text)], length=len(body)))
        # What is refused is told so before the rest of its body.
        taken = lambda: [s for s in clients if not readable(s)]  # noqa: E731
        wait_until(lambda: 0 < len(taken()) <= BYTES_MAX // BODY_BYTES, "all but a few to be refused")
        slow = taken()
        for s in clients:
            if s not in slow:
                assert s.recv(12) == b"HTTP/1.1 503"
                s.close()
        for at in range(len(text), len(text) + 50):
            for s in slow:
                s.sendall(body[at : at + 1])
        assert gauge(node, "grey_ai_inflight_bytes"), "they hold what they were promised"
        for s in slow[::2]:
            s.close()
        for s in slow[1::2]:
            s.sendall(body[len(text) + 50 :])
            assert s.recv(12) == b"HTTP/1.1 200"
            s.close()
    all_given_back(node, opened)


def test_answers_that_nobody_reads_take_no_more_than_there_is(
    start: Callable[..., GreyNode], models: Path, tmp_path: Path
) -> None:
    node = bounded(start, models)
    (tmp_path / "copy.onnx").write_bytes(made.identity(made.T.FLOAT, ["N", "M"]).SerializeToString())
    node.add("copy", tmp_path / "copy.onnx")
    opened = files(node.process.pid)
    # Short in the request and long in the answer, which no socket's buffer takes whole.
    content = np.full((1, UNREAD_ELEMENTS), 1 / 3, np.float32).tobytes()
    given = {"name": "x", "datatype": "FP32", "shape": [1, UNREAD_ELEMENTS]}
    head = json.dumps({"inputs": [given | {"parameters": {"binary_data_size": len(content)}}]}).encode()
    fields = f"Inference-Header-Content-Length: {len(head)}\r\nContent-Length: {len(head) + len(content)}\r\n"
    large = f"POST /v2/models/copy/infer HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode() + head + content
    host, port = node.netloc.split(":")
    # Nothing that was computed is refused: to each body that was taken, four bytes an element, come its tensor and
    # its text, of eleven.
    with within_bounds(node, BYTES_MAX * 5):
        clients = []
        for _ in range(CONNECTIONS // 50):
            s = socket.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            s.settimeout(60)
            s.connect((host, int(port)))
            s.sendall(large)
            clients.append(s)
        wait_until(lambda: all(readable(s) for s in clients), "all of them to be answered")
        assert gauge(node, "grey_ai_inflight_bytes"), "what is not read is held"
        assert {node.infer("mlp", row()).status for _ in range(20)} <= {200, 503}
        for s in clients:
            s.close()
    all_given_back(node, opened)


def go_on(host: int) -> None:
    """Also after a test that failed, when it may have been ended."""
    with suppress(ProcessLookupError):
        os.kill(host, signal.SIGCONT)


def readable(s: socket.socket) -> bool:
    poll = select.poll()
    poll.register(s, select.POLLIN)
    return bool(poll.poll(0))


def test_memory_and_files_are_where_they_were_after_many_requests(start: Callable[..., GreyNode], models: Path) -> None:
    node = start()
    node.add("mlp", models / "mlp.onnx")
    pid = node.process.pid
    [host] = node.host_pids("mlp")

    def ask(count: int) -> None:
        def client() -> None:
            with connect(node) as s:
                for _ in range(count // 8):
                    s.sendall(whole)
                    answer = s.recv(1 << 16)
                    assert answer.startswith(b"HTTP/1.1 200"), answer[:200]

        threads = [threading.Thread(target=client) for _ in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()

    whole = request(row())
    # Allocators and caches fill first.
    ask(REQUESTS // 4)
    before = [(status(p, "VmRSS"), files(p)) for p in (pid, host)]
    ask(REQUESTS)
    wait_until(lambda: files(pid) <= before[0][1], "the connections to be given back")
    for p, (memory, opened) in zip((pid, host), before, strict=True):
        assert status(p, "VmRSS") < memory + 16 * MIB, f"{memory // MIB} MiB, then {status(p, 'VmRSS') // MIB} MiB"
        assert files(p) <= opened
    assert node.host_pids("mlp") == [host]


def test_memory_and_files_are_where_they_were_after_loads_and_unloads(
    start: Callable[..., GreyNode], models: Path
) -> None:
    node = start()
    node.add("mlp", models / "mlp.onnx")
    pid = node.process.pid

    def cycle() -> None:
        assert node.request("POST", "/grey/v1/models/mlp/unload").status == 200
        assert node.request("POST", "/grey/v1/models/mlp/load").status == 200
        assert node.infer("mlp", row()).status == 200

    for _ in range(5):
        cycle()
    memory, opened = status(pid, "VmRSS"), files(pid)
    for _ in range(CYCLES):
        cycle()
    assert status(pid, "VmRSS") < memory + 16 * MIB, f"{memory // MIB} MiB, then {status(pid, 'VmRSS') // MIB} MiB"
    wait_until(lambda: files(pid) <= opened, "files to be given back")
    assert len(children(pid)) == 1


@pytest.mark.parametrize("shape", ["the same model", "another model"])
def test_a_flood_leaves_another_tenant_its_turn(start: Callable[..., GreyNode], models: Path, shape: str) -> None:
    """Counted in runs and not in time: between one and the next answer of the quiet tenant, few others pass."""
    node = start(config="models:\n  count: {batch_axis: first, batching: {max_batch_size: 4}}\n  mlp: {threads: 1}\n")
    node.add("count", models / "count.onnx")
    node.add("mlp", models / "mlp.onnx")
    flood_body = json.dumps({"inputs": [tensor("n", np.array([[2000]]))]})
    stop = threading.Event()
    flooded = [0]

    def flood() -> None:
        while not stop.is_set():
            reply = node.infer("count", flood_body, {"Grey-Tenant": "loud"})
            assert reply.status in (200, 503), reply.body
            flooded[0] += reply.status == 200

    threads = [threading.Thread(target=flood) for _ in range(32)]
    for t in threads:
        t.start()
    wait_until(lambda: flooded[0] > 64, "the flood")
    passed = []
    model, body = ("count", flood_body) if shape == "the same model" else ("mlp", row())
    for _ in range(20):
        before = flooded[0]
        assert node.infer(model, body, {"Grey-Tenant": "quiet"}).status == 200
        passed.append(flooded[0] - before)
        time.sleep(0.02)
    stop.set()
    for t in threads:
        t.join()
    # 32 wait; first come, first served would let all of them pass before each quiet request.
    assert sorted(passed)[len(passed) // 2] < 24, passed


FLOODING = 32
TURNS = 100
BATCH = 4


def turns() -> bytes:
    """Gives each row the next number of a fixed sequence, so that answers tell in which order rows were run."""
    draw = made.h.make_node("RandomUniformLike", ["x"], ["y"], dtype=made.T.DOUBLE, seed=1.0)
    rows = made.value("x", made.T.FLOAT, ["N", 1]), made.value("y", made.T.DOUBLE, ["N", 1])
    return made.model([draw], [rows[0]], [rows[1]]).SerializeToString(deterministic=True)


def test_a_flood_costs_another_tenant_one_run(start: Callable[..., GreyNode], tmp_path: Path) -> None:
    """A host stands still while a flood waits for it and a quiet tenant's request comes behind: of all that waited, no
    more than the run that has begun goes first, each time."""
    (tmp_path / "turns.onnx").write_bytes(turns())
    order = onnxruntime.InferenceSession(turns()).run(None, {"x": np.zeros((1 << 20, 1), np.float32)})[0].ravel()
    place = {value: i for i, value in enumerate(order.tolist())}
    node = start(
        config=f"models:\n  turns: {{batch_axis: first, proofs: off, batching: {{max_batch_size: {BATCH}}}}}\n"
    )
    node.add("turns", tmp_path / "turns.onnx")
    [host] = node.host_pids("turns")
    stop = threading.Event()
    flooded: list[int] = []

    def ask(tenant: str, rows: int) -> int:
        body = json.dumps({"inputs": [tensor("x", np.zeros((rows, 1), np.float32))]})
        reply = node.infer("turns", body, {"Grey-Tenant": tenant})
        assert reply.status == 200, reply.body
        return min(place[value] for value in reply.json["outputs"][0]["data"])

    def flood() -> None:
        while not stop.is_set():
            flooded.append(ask("loud", 1))

    def settled() -> int | None:
        """The answers to the flood when all that is left waits or is with the host, the quiet request (a full batch)
        in the queue."""
        seen = node.request("GET", "/metrics").body.decode().splitlines()
        [rows] = [line for line in seen if line.startswith("grey_ai_queue_rows{")]
        answered = [line for line in seen if line.startswith("grey_ai_inferences_total{") and 'tenant="loud"' in line]
        count = sum(int(line.rsplit(" ", 1)[1]) for line in answered)
        return count if int(rows.rsplit(" ", 1)[1]) >= FLOODING and count == len(flooded) else None

    threads = [threading.Thread(target=flood) for _ in range(FLOODING)]
    for t in threads:
        t.start()
    turn = []
    try:
        wait_until(lambda: len(flooded) > FLOODING, "the flood")
        for _ in range(TURNS):
            os.kill(host, signal.SIGSTOP)
            quiet, result = in_background(lambda: ask("quiet", BATCH))
            before = wait_until(settled, "the flood and the quiet request to wait")
            os.kill(host, signal.SIGCONT)
            quiet.join()
            turn.append((before, result[0]))
    finally:
        stop.set()
        go_on(host)
        for t in threads:
            t.join()
    ahead = [sum(p < mine for p in flooded[before:]) for before, mine in turn]
    # First come, first served would let all 32 of them pass.
    assert max(ahead) <= BATCH, sorted(ahead)
    assert max(ahead) > 0, "the run that has begun"


HEAVY = 19
PERMITS = 2
# How far `count` counts in a run of theirs.
HEAVY_COUNT = 3_000
# Runs of each of them before anything is counted, and of the tiny model while it was alone: far more.
TURNS_BEFORE = 15
ALONE = 200


def counting(n: int) -> bytes:
    return json.dumps({"inputs": [tensor("n", np.array([[n]]))]}).encode()


@contextmanager
def many_models(
    start: Callable[..., GreyNode], models: Path, first: Callable[[GreyNode], Any]
) -> Iterator[tuple[GreyNode, list[int]]]:
    """A node of two cores with 20 models: after `first`, all but `tiny` are asked all the time. With their answers."""
    names = ["tiny", *(f"heavy{k}" for k in range(HEAVY))]
    settings = "".join(f"  {name}: {{batch_axis: first, threads: 1, proofs: off}}\n" for name in names)
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:PERMITS])
    try:
        node = start(config=f"run_timeout_ms: 600000\nmodels:\n{settings}")
    finally:
        os.sched_setaffinity(0, cores)
    content = (models / "count.onnx").read_bytes()
    for name in names:
        added = node.request("POST", f"/grey/v1/models/{name}?file=count.onnx&load=true", content)
        assert added.status in (200, 201), added.body
    first(node)
    stop = threading.Event()
    answered = [0] * HEAVY

    def client(k: int) -> None:
        while not stop.is_set():
            reply = node.infer(f"heavy{k}", counting(HEAVY_COUNT))
            assert reply.status == 200, reply.body
            answered[k] += 1

    threads = [threading.Thread(target=client, args=(k,)) for k in range(HEAVY)]
    for t in threads:
        t.start()
    try:
        yield node, answered
    finally:
        stop.set()
        for t in threads:
            t.join()


def holders(node: GreyNode) -> list[int] | None:
    """Which of the others hold the permits; none while that is being settled."""
    rows = [0] * HEAVY
    tiny = 0
    for line in node.request("GET", "/metrics").body.decode().splitlines():
        if line.startswith("grey_ai_queue_rows{"):
            name, value = line.split('model="')[1].split('"')[0], int(float(line.rsplit(" ", 1)[1]))
            if name == "tiny":
                tiny = value
            else:
                rows[int(name.removeprefix("heavy"))] = value
    settled = tiny == 1 and sum(rows) == HEAVY - PERMITS
    return [k for k in range(HEAVY) if rows[k] == 0] if settled else None


def test_a_model_that_needs_little_waits_for_one_run_of_others(start: Callable[..., GreyNode], models: Path) -> None:
    """All hosts of 19 busy models stand still; one of the two that run goes on, and the tiny model is next. Although it
    was alone before, and used more processor time then than the others ever did."""

    def first(node: GreyNode) -> None:
        # All have run before.
        for k in range(HEAVY):
            assert node.infer(f"heavy{k}", counting(1)).status == 200
        for _ in range(ALONE):
            assert node.infer("tiny", counting(HEAVY_COUNT)).status == 200

    with many_models(start, models, first) as (node, answered):
        wait_until(lambda: min(answered) >= TURNS_BEFORE, "every model to have its turns")
        hosts = [node.host_pids(f"heavy{k}")[0] for k in range(HEAVY)]
        try:
            for _ in range(10):
                for host in hosts:
                    os.kill(host, signal.SIGSTOP)
                tiny, result = in_background(lambda: node.infer("tiny", counting(1)))
                # A run whose end was on its way may have given its permit already.
                running = wait_until(lambda result=result: [-1] if result else holders(node), "two to run, 18 to wait")
                if not result:
                    assert len(running) == PERMITS
                    os.kill(hosts[running[0]], signal.SIGCONT)
                wait_until(lambda result=result: result, "the tiny model to get the first permit that came free")
                assert result[0].status == 200, result[0].body
                for host in hosts:
                    os.kill(host, signal.SIGCONT)
                tiny.join()
        finally:
            for host in hosts:
                go_on(host)
        seen = list(answered)
        wait_until(lambda: all(now > then for now, then in zip(answered, seen, strict=True)), "all to go on")
