"""Requests that fail their run, hang it, or kill their host: they are found, and nobody else sees an error."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conftest import FOREVER, GreyNode, cpu_ticks, gauge, in_background

CLIENTS = 15
# Longer than any good run of `count`, in hundredths of a second of processor time.
HANGING_TICKS = 30


def count_to(n: int) -> dict[str, Any]:
    return {"inputs": [{"name": "n", "datatype": "INT64", "shape": [1, 1], "data": [n]}]}


@contextmanager
def good_clients(node: GreyNode) -> Iterator[None]:
    """Clients that ask all the while, and whose every answer is right."""
    stop = threading.Event()
    wrong: list[str] = []
    answered = [0] * CLIENTS

    def client(k: int) -> None:
        n = k
        while not stop.is_set():
            n += 1
            reply = node.infer("count", count_to(n % 100))
            if reply.status != 200 or reply.json["outputs"][0]["data"] != [n % 100]:
                wrong.append(f"count to {n % 100}: {reply.status} {reply.body!r}")
            answered[k] += 1

    threads = [threading.Thread(target=client, args=(k,)) for k in range(CLIENTS)]
    for t in threads:
        t.start()
    yield
    stop.set()
    for t in threads:
        t.join()
    assert not wrong, wrong[:3]
    assert min(answered) > 0, answered


def counting(start: Callable[..., GreyNode], models: Path, config: str) -> GreyNode:
    node = start(config=config + "models:\n  count: {batch_axis: first}\n")
    node.add("count", models / "count.onnx")
    return node


@contextmanager
def killer(node: GreyNode) -> Iterator[list[int]]:
    """Kills a host that has run for too long at a stretch, as an input that crashes it would."""
    stop = threading.Event()
    killed: list[int] = []

    def watch() -> None:
        pid, idle_at = 0, 0
        while not stop.is_set():
            time.sleep(0.1)
            pids = [p for p in node.host_pids("count") if p not in killed]
            if not pids:
                continue
            try:
                ticks = cpu_ticks(pids[0])
            except FileNotFoundError:
                continue
            if pids[0] != pid or ticks - idle_at < 9:
                # Another host, or one that rested within the last tenth of a second.
                pid, idle_at, since = pids[0], ticks, ticks
                continue
            idle_at = ticks
            if ticks - since > HANGING_TICKS:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    thread = threading.Thread(target=watch)
    thread.start()
    yield killed
    stop.set()
    thread.join()


def test_a_client_whose_inputs_hang_harms_nobody_else(start: Callable[..., GreyNode], models: Path) -> None:
    node = counting(start, models, "run_timeout_ms: 700\n")
    with good_clients(node):
        replies = [node.infer("count", count_to(FOREVER + i)) for i in (0, 0, 0, 1, 1)]
    for reply in replies:
        assert reply.status == 500
        assert "(run_timeout)" in reply.error
        assert reply.error.endswith("these inputs are not run again for 60 s"), reply.error
    assert gauge(node, "grey_ai_quarantined_total", model="count") == 2, "a second time they do not run"
    # Another tenant's requests are no business of this one.
    own, result = in_background(lambda: node.infer("count", count_to(FOREVER), {"Grey-Tenant": "other"}))
    own.join()
    assert result[0].status == 500
    assert gauge(node, "grey_ai_quarantined_total", model="count") == 3


def test_a_client_whose_inputs_kill_the_host_harms_nobody_else(start: Callable[..., GreyNode], models: Path) -> None:
    node = counting(start, models, "run_timeout_ms: 600000\n")
    with killer(node) as killed, good_clients(node):
        first = node.infer("count", count_to(FOREVER))
        deaths = len(killed)
        again = [node.infer("count", count_to(FOREVER)) for _ in range(20)]
    assert deaths >= 2, "alone twice"
    assert len(killed) == deaths, "what is in quarantine kills nothing"
    for reply in [first, *again]:
        assert reply.status == 500
        assert "the engine host died while it ran this request by itself (killed by signal 9 (SIGKILL))" in reply.error
    assert gauge(node, "grey_ai_engine_restarts_total", model="count") == deaths
    assert node.show("count")["state"] == "ready"


def test_a_tenant_with_ever_new_inputs_that_kill_runs_alone(start: Callable[..., GreyNode], models: Path) -> None:
    node = counting(start, models, "run_timeout_ms: 600000\n")
    costs = []
    with killer(node) as killed, good_clients(node):
        for i in range(5):
            before = len(killed)
            assert node.infer("count", count_to(FOREVER + i), {"Grey-Tenant": "bad"}).status == 500
            costs.append(len(killed) - before)
        # What it sends besides is answered.
        assert node.infer("count", count_to(7), {"Grey-Tenant": "bad"}).json["outputs"][0]["data"] == [7]
    assert costs[3:] == [2, 2], f"{costs}: quarantine knows none of these inputs, but who sends them"


def test_a_host_that_dies_once_costs_nobody_an_answer(start: Callable[..., GreyNode], models: Path) -> None:
    node = counting(start, models, "run_timeout_ms: 600000\n")
    request = count_to(1_500_000)
    thread, result = in_background(lambda: node.infer("count", request))
    [pid] = node.host_pids("count")
    before = cpu_ticks(pid)
    while cpu_ticks(pid) < before + 20:
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    thread.join()
    assert result[0].status == 200, result[0].body
    assert result[0].json["outputs"][0]["data"] == [1_500_000]
    assert node.host_pids("count") != [pid]


def test_rows_that_fail_fail_by_themselves(start: Callable[..., GreyNode], models: Path) -> None:
    node = start(config="batching: {hold: fill, max_wait_ms: 300}\nmodels:\n  gather: {batch_axis: first}\n")
    node.add("gather", models / "gather.onnx")
    hosts = node.host_pids("gather")

    def ask(i: int) -> Any:
        ids = [i % 10, 99 if i % 5 == 0 else 1]
        return node.infer("gather", {"inputs": [{"name": "ids", "datatype": "INT64", "shape": [1, 2], "data": ids}]})

    calls = [in_background(lambda i=i: ask(i)) for i in range(20)]
    for i, (thread, result) in enumerate(calls):
        thread.join()
        if i % 5 == 0:
            assert result[0].status == 500, result[0].body
            assert "failed on this input" in result[0].error
            assert "99" in result[0].error
        else:
            assert result[0].status == 200, result[0].body
            assert result[0].json["outputs"][0]["data"] == [i % 10 * 2.0, i % 10 * 2.0 + 1, 2.0, 3.0]
    assert node.host_pids("gather") == hosts


def test_1000_timeouts_leave_the_host_alone(start: Callable[..., GreyNode], models: Path) -> None:
    node = counting(start, models, "")
    hosts = node.host_pids("count")
    late = count_to(3) | {"parameters": {"timeout": 1}}

    def ask() -> list[int]:
        return [node.infer("count", late).status for _ in range(125)]

    calls = [in_background(ask) for _ in range(8)]
    for thread, _ in calls:
        thread.join()
    statuses = [s for _, result in calls for s in result[0]]
    assert len(statuses) == 1000
    assert set(statuses) <= {200, 504}
    assert node.host_pids("count") == hosts
    assert node.infer("count", count_to(5)).json["outputs"][0]["data"] == [5]
