"""Versions that come and go, hosts that die, nodes that end: what is left is what was asked for."""

from __future__ import annotations

import os
import signal
import socket
import sys
import sysconfig
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import FOREVER, GreyNode, Reply, alive, busy, children, gauge, in_background, spin, wait_until

# Nothing is probed, so that a host's only runs are those of the test.
DECLARED = "batching: {max_batch_size: 8}\nmodels:\n  mlp: {batch_axis: first}\n"


def row(value: float = 1.0) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 8], "data": [value] * 8}]}


def versions(node: GreyNode, model: str) -> dict[str, str]:
    return {m["version"]: m["state"] for m in node.cli_json("model", "list") if m["id"] == model}


def ready(node: GreyNode, model: str) -> bool:
    return node.request("GET", f"/v2/models/{model}/ready").status == 200


def until_it_ends(call: Any) -> Any:
    """For calls to a node that ends meanwhile."""
    try:
        return call()
    except OSError as e:
        return e


def send_and_go(node: GreyNode, head: str, body: bytes = b"") -> None:
    """Send a request and close the connection without reading the answer."""
    host, port = node.netloc.split(":")
    with socket.create_connection((host, int(port))) as gone:
        gone.sendall(f"{head} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        time.sleep(0.3)


def two_versions(start: Any, models: Path) -> GreyNode:
    node = start()
    node.add("m", models / "mlp.onnx", probed=False)
    node.add("m", models / "simple.onnx", probed=False)
    assert versions(node, "m") == {"1": "ready", "2": "ready"}
    return node


def test_latest_names_one_version_to_remove(start: Any, models: Path) -> None:
    node = two_versions(start, models)
    removed = node.request("DELETE", "/grey/v1/models/m/versions/latest")
    assert removed.status == 200, removed.body
    assert removed.json == {"removed": ["2"]}
    assert versions(node, "m") == {"1": "ready"}
    assert node.infer("m", row()).status == 200
    assert node.request("DELETE", "/grey/v1/models/m/versions/latest").json == {"removed": ["1"]}
    assert node.request("DELETE", "/grey/v1/models/m/versions/latest").status == 404


def test_latest_names_one_version_to_unload(start: Any, models: Path) -> None:
    node = two_versions(start, models)
    assert node.request("POST", "/grey/v1/models/m/versions/latest/unload").status == 200
    assert versions(node, "m") == {"1": "ready", "2": "unloaded"}
    assert node.request("POST", "/grey/v1/models/m/unload").status == 200
    assert versions(node, "m") == {"1": "unloaded", "2": "unloaded"}


def test_remove_goes_on_when_its_client_goes_away(start: Any, models: Path) -> None:
    node = start()
    for file in ["spin", "mlp", "simple"]:
        node.add("m", models / f"{file}.onnx", "--version", {"spin": "1", "mlp": "2", "simple": "3"}[file])
    hosts = children(node.process.pid)
    assert len(hosts) == 3
    assert gauge(node, "grey_ai_models_loaded") == 3
    run, result = in_background(lambda: node.infer("m/versions/1", spin(1_500_000)))
    busy(node, "m/versions/1")
    send_and_go(node, "DELETE /grey/v1/models/m")
    run.join()
    assert result[0].status == 200, "a run that began finishes"
    wait_until(lambda: not any(alive(p) for p in hosts), "all hosts to end")
    wait_until(lambda: gauge(node, "grey_ai_models_loaded") == 0, "the metric to follow")
    assert node.request("GET", "/grey/v1/models").json["models"] == []


def test_drain_is_bounded(start: Any, models: Path) -> None:
    node = start(config="drain_seconds: 1\nrun_timeout_ms: 60000\n")
    node.add("spin", models / "spin.onnx")
    hosts = node.host_pids("spin")
    run, result = in_background(lambda: until_it_ends(lambda: node.infer("spin", spin(FOREVER))))
    busy(node, "spin")
    os.kill(node.process.pid, signal.SIGTERM)
    assert node.process.wait(20) == 0
    run.join()
    assert isinstance(result[0], Reply), result
    assert result[0].status == 503
    assert not any(alive(p) for p in hosts)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_process_group_leaves_runs_alone(start: Any, models: Path, number: int) -> None:
    node = start(own_group=True)
    node.add("spin", models / "spin.onnx")
    run, result = in_background(lambda: until_it_ends(lambda: node.infer("spin", spin(1_000_000))))
    busy(node, "spin")
    os.killpg(node.process.pid, number)
    run.join()
    assert isinstance(result[0], Reply), result
    assert result[0].status == 200, result[0].body
    assert node.process.wait(20) == 0


def test_readiness_is_false_while_a_drain_finishes_what_waits(start: Any, models: Path) -> None:
    node = start()
    node.add("spin", models / "spin.onnx")
    calls = [in_background(lambda: until_it_ends(lambda: node.infer("spin", spin(700_000)))) for _ in range(3)]
    busy(node, "spin")
    assert node.request("GET", "/v2/health/ready").status == 200
    os.kill(node.process.pid, signal.SIGTERM)
    refused = wait_until(
        lambda: (r := node.request("GET", "/v2/health/ready")).status != 200 and r, "readiness to turn false"
    )
    assert refused.status == 503
    assert "shutting down" in refused.error
    assert node.request("GET", "/v2/health/live").status == 200
    late = node.infer("spin", spin(1))
    assert late.status == 503
    assert "Retry-After" in late.headers
    for thread, result in calls:
        thread.join()
        assert result[0].status == 200, result
    assert node.process.wait(20) == 0


def test_the_second_sigterm_ends_at_once(start: Any, models: Path) -> None:
    node = start(config="drain_seconds: 600\nrun_timeout_ms: 600000\n")
    node.add("spin", models / "spin.onnx")
    hosts = node.host_pids("spin")
    run, _ = in_background(lambda: until_it_ends(lambda: node.infer("spin", spin(FOREVER))))
    busy(node, "spin")
    os.kill(node.process.pid, signal.SIGTERM)
    wait_until(lambda: node.request("GET", "/v2/health/ready").status == 503, "the drain to begin")
    os.kill(node.process.pid, signal.SIGTERM)
    assert node.process.wait(20) == 3
    run.join()
    wait_until(lambda: not any(alive(p) for p in hosts), "the hosts to follow")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_held_request_is_answered_by_the_other_host(start: Any, models: Path, victim: int) -> None:
    node = start(
        config="batching: {hold: fill, max_wait_ms: 2000}\nmodels:\n  mlp: {batch_axis: first, instances: 2}\n"
    )
    node.add("mlp", models / "mlp.onnx")
    hosts = wait_until(lambda: len(pids := node.host_pids("mlp")) == 2 and pids, "both hosts")
    survivor = hosts[1 - victim]
    call, result = in_background(lambda: node.infer("mlp", row()))
    wait_until(lambda: gauge(node, "grey_ai_queue_rows", model="mlp") == 1, "the request to be held")

    def answered() -> bool:
        # Those that follow the victim end as well, so that only the survivor can answer.
        for pid in node.host_pids("mlp"):
            if pid != survivor:
                os.kill(pid, signal.SIGKILL)
        return bool(result)

    wait_until(answered, "an answer", seconds=10)
    call.join()
    assert result[0].status == 200, result[0].body
    assert survivor in node.host_pids("mlp")


def test_hosts_that_answer_between_their_deaths_are_always_restarted(start: Any, models: Path) -> None:
    node = start(config=DECLARED)
    node.add("mlp", models / "mlp.onnx")
    right = node.infer("mlp", row()).json["outputs"]
    for _ in range(6):
        [pid] = node.host_pids("mlp")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda old=pid: node.host_pids("mlp") not in ([], [old]), "another host", seconds=10)
        reply = node.infer("mlp", row())
        assert reply.status == 200, reply.body
        assert reply.json["outputs"] == right


def test_a_model_whose_hosts_die_at_once_is_refused_for_a_while(start: Any, models: Path) -> None:
    node = start(config=DECLARED)
    node.add("mlp", models / "mlp.onnx")

    def refused() -> str | None:
        for pid in node.host_pids("mlp"):
            os.kill(pid, signal.SIGKILL)
        reply = node.request("GET", "/v2/models/mlp/ready")
        return reply.error if reply.status == 503 and "in a row" in reply.error else None

    assert "times in a row" in wait_until(refused, "the breaker to open", seconds=10)
    infer = node.infer("mlp", row())
    assert infer.status == 503
    assert int(infer.headers["Retry-After"]) >= 1
    assert "times in a row" in infer.error
    loaded = node.request("POST", "/grey/v1/models/mlp/load")
    assert loaded.status == 503, loaded.body
    assert "times in a row" in loaded.error
    assert "times in a row" in node.cli("model", "load", "mlp", code=1).stderr
    wait_until(lambda: ready(node, "mlp"), "the breaker to close", seconds=25)
    assert node.request("POST", "/grey/v1/models/mlp/load").status == 200
    assert node.infer("mlp", row()).status == 200


def test_a_model_is_not_ready_while_its_host_restarts(start: Any, models: Path) -> None:
    node = start(config=DECLARED)
    node.add("mlp", models / "mlp.onnx")
    # The gap is a process' start: seen the first time, if the test is not kept waiting just then.
    for _ in range(5):
        assert node.infer("mlp", row()).status == 200
        os.kill(node.host_pids("mlp")[0], signal.SIGKILL)
        seen = [wait_until(lambda: node.request("GET", "/v2/models/mlp/ready"), "an answer") for _ in range(20)]
        wait_until(lambda: ready(node, "mlp"), "the model to be ready again")
        if gap := [r for r in seen if r.status != 200]:
            break
    assert {r.status for r in gap} == {503}
    assert "restarted" in gap[0].error
    assert node.infer("mlp", row()).status == 200


def test_a_timeout_bounds_a_load_on_demand(start: Any, models: Path) -> None:
    node = start()
    node.add("slow", models / "slow.onnx", "--no-load")
    x = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [3]}
    reply = node.infer("slow", {"inputs": [x], "parameters": {"timeout": 1000}})
    assert reply.status == 504, reply.body
    assert "timeout" in reply.error
    wait_until(lambda: node.show("slow")["state"] == "ready", "the load to go on")
    assert node.infer("slow", {"inputs": [x]}).json["outputs"][0]["data"] == [3]


def test_the_series_of_a_removed_model_are_gone(start: Any, models: Path) -> None:
    node = start()
    node.add("gone", models / "mlp.onnx")
    node.add("kept", models / "mlp.onnx")
    for name in ["gone", "kept"]:
        assert node.infer(name, row()).status == 200
        assert gauge(node, "grey_ai_inferences_total", model=name, status="ok") == 1
    node.cli("model", "remove", "gone")
    metrics = node.request("GET", "/metrics").body.decode()
    assert 'model="gone"' not in metrics
    assert 'model="kept"' in metrics
    assert gauge(node, "grey_ai_models_loaded") == 1


def test_what_left_the_queue_is_not_counted_in_it(start: Any, models: Path) -> None:
    node = start()
    node.add("spin", models / "spin.onnx")

    def waiting() -> float | None:
        return gauge(node, "grey_ai_queue_rows", model="spin")

    run, _ = in_background(lambda: until_it_ends(lambda: node.infer("spin", spin(FOREVER))))
    busy(node, "spin")
    late, answer = in_background(lambda: node.infer("spin", spin(1, timeout=300_000)))
    wait_until(lambda: waiting() == 1, "the request to wait")
    late.join()
    assert answer[0].status == 504
    wait_until(lambda: waiting() == 0, "the request to leave", seconds=5)
    body = b'{"inputs":[{"name":"n","datatype":"INT64","shape":[1,1],"data":[1]},'
    body += b'{"name":"x","datatype":"FP32","shape":[1,1],"data":[0]}]}'
    host, port = node.netloc.split(":")
    with socket.create_connection((host, int(port))) as gone:
        head = f"POST /v2/models/spin/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        gone.sendall(head.encode() + body)
        wait_until(lambda: waiting() == 1, "the request to wait")
    wait_until(lambda: waiting() == 0, "the request to leave with its client", seconds=5)
    node.kill()
    run.join()


def test_rows_in_a_run_do_not_count_as_waiting(start: Any, models: Path) -> None:
    node = start()
    node.add("spin", models / "spin.onnx")
    run, _ = in_background(lambda: until_it_ends(lambda: node.infer("spin", spin(FOREVER))))
    busy(node, "spin")
    assert gauge(node, "grey_ai_queue_rows", model="spin") == 0
    node.kill()
    run.join()


def test_loads_unloads_inferences_and_removals_at_once(start: Any, models: Path) -> None:
    node = start(config=DECLARED.replace("mlp:", "m:"))
    content = (models / "mlp.onnx").read_bytes()
    node.add("m", models / "mlp.onnx")
    right = node.infer("m", row()).json["outputs"]
    end = time.monotonic() + 3
    wrong: list[str] = []
    served: list[int] = []

    def client(method: str, path: str, body: Any = None) -> None:
        while time.monotonic() < end:
            reply = node.infer("m", row()) if path == "infer" else node.request(method, path, body)
            served.append(reply.status)
            if reply.status not in {200, 201, 404, 409, 503}:
                wrong.append(f"{method} {path}: {reply.status} {reply.body!r}")
            if path == "infer" and reply.status == 200 and reply.json["outputs"] != right:
                wrong.append(f"other outputs: {reply.body!r}")

    def in_turn() -> None:
        while time.monotonic() < end:
            for method, path, body in [
                ("DELETE", "/grey/v1/models/m", None),
                ("POST", "/grey/v1/models/m?file=mlp.onnx", content),
            ]:
                reply = node.request(method, path, body)
                if reply.status not in {200, 201, 404, 409, 503}:
                    wrong.append(f"{method} {path}: {reply.status} {reply.body!r}")
                time.sleep(0.15)

    threads = [threading.Thread(target=in_turn)]
    for call in [
        ("POST", "/grey/v1/models/m/load"),
        ("POST", "/grey/v1/models/m/unload"),
        ("POST", "infer"),
        ("POST", "infer"),
    ]:
        threads.append(threading.Thread(target=client, args=call))
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong, wrong[:3]
    assert 200 in served
    added = node.request("POST", "/grey/v1/models/m?file=mlp.onnx", content)
    assert added.status in {200, 201}, added.body
    assert node.request("POST", "/grey/v1/models/m/load").status == 200
    assert node.infer("m", row()).json["outputs"] == right
    assert children(node.process.pid) == node.host_pids("m"), "no other host is left"
    assert gauge(node, "grey_ai_models_loaded") == 1
    node.cli("model", "remove", "m")
    wait_until(lambda: not children(node.process.pid), "the last host to end")
    assert gauge(node, "grey_ai_models_loaded") == 0


def test_hosts_that_cannot_be_started_are_a_refusal_and_no_endless_wait(
    start: Any, models: Path, tmp_path: Path
) -> None:
    """The node's own want (here: the program of its hosts is gone) passes, and says so meanwhile."""
    python = tmp_path / "python"
    python.symlink_to(Path(sys.executable).resolve())
    packages = sysconfig.get_paths()["purelib"]
    library = next(Path(packages, "onnxruntime/capi").glob("libonnxruntime.so.*"))
    node = start("data", "--onnxruntime-lib", str(library), python=str(python), env={"PYTHONPATH": packages})
    node.add("mlp", models / "mlp.onnx")
    python.rename(tmp_path / "gone")
    os.kill(node.host_pids("mlp")[0], signal.SIGKILL)
    wait_until(lambda: not ready(node, "mlp"), "the death to be seen")
    for refused in [node.infer("mlp", row()), node.request("POST", "/v2/repository/models/mlp/load")]:
        assert refused.status == 503, refused.body
        assert "start an engine host" in refused.error, refused.error
        assert int(refused.headers["Retry-After"]) >= 1
    (tmp_path / "gone").rename(python)
    wait_until(lambda: node.infer("mlp", row()).status == 200, "a host again")


def test_a_drain_ends_what_is_being_unloaded_too(start: Any, models: Path) -> None:
    node = start(config="drain_seconds: 1\nrun_timeout_ms: 60000\n")
    node.add("spin", models / "spin.onnx")
    pids = node.host_pids("spin")
    run, answer = in_background(lambda: until_it_ends(lambda: node.infer("spin", spin(FOREVER))))
    busy(node, "spin")
    unload, unloaded = in_background(
        lambda: until_it_ends(lambda: node.request("POST", "/v2/repository/models/spin/unload"))
    )
    wait_until(lambda: node.show("spin")["state"] == "unloaded", "the unload to begin")
    os.kill(node.process.pid, signal.SIGTERM)
    for thread in (run, unload):
        thread.join()
    assert isinstance(answer[0], Reply)
    assert answer[0].status == 503
    assert isinstance(unloaded[0], Reply)
    assert unloaded[0].status == 200
    assert node.process.wait(30) == 0
    assert not any(alive(p) for p in pids)
