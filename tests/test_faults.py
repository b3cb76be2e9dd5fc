"""Processes that die, files that change, nodes that meet."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FOREVER, alive, busy, in_background, spin, wait_until


def row(i: int) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 8], "data": [float(i % 7)] * 8}]}


def test_kill_host_under_load(start: Any, models: Path) -> None:
    node = start()
    node.add("mlp", models / "mlp.onnx")
    expected = {i: node.infer("mlp", row(i)).json["outputs"][0]["data"] for i in range(7)}
    stop = threading.Event()
    wrong: list[str] = []
    statuses: list[int] = []

    def client(offset: int) -> None:
        i = offset
        while not stop.is_set():
            i += 1
            reply = node.infer("mlp", row(i))
            statuses.append(reply.status)
            if reply.status == 200:
                if not np.allclose(reply.json["outputs"][0]["data"], expected[i % 7], rtol=1e-4):
                    wrong.append(f"row {i}")
            else:
                wrong.append(f"{reply.status} {reply.body!r}")

    threads = [threading.Thread(target=client, args=(k * 1000,)) for k in range(4)]
    for t in threads:
        t.start()
    for _ in range(3):
        [pid] = wait_until(lambda: node.host_pids("mlp"), "a host")
        answered = len(statuses)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda old=pid: (now := node.host_pids("mlp")) and now != [old], "another host")
        wait_until(lambda n=answered: statuses[n:].count(200) > 20, "right answers again")
    stop.set()
    for t in threads:
        t.join()
    assert not wrong, wrong[:3]
    # What was inside a run ran again.
    assert set(statuses) == {200}
    assert 'grey_ai_engine_restarts_total{model="mlp",version="1"} 3' in node.request("GET", "/metrics").body.decode()


def test_kill_node_ends_all_hosts_even_a_stuck_one(start: Any, models: Path) -> None:
    node = start()
    node.add("mlp", models / "mlp.onnx")
    node.add("spin", models / "spin.onnx")
    pids = node.host_pids("mlp") + node.host_pids("spin")

    def stuck() -> str:
        try:
            return str(node.infer("spin", spin(FOREVER)).status)
        except OSError as e:
            return repr(e)

    thread, _ = in_background(stuck)
    busy(node, "spin")
    node.kill()
    wait_until(lambda: not any(alive(p) for p in pids), "the hosts to end", seconds=2)
    thread.join()


def test_run_timeout_ends_a_model_that_hangs(start: Any, models: Path) -> None:
    node = start(config="run_timeout_ms: 1500\n")
    node.add("spin", models / "spin.onnx")
    before = node.host_pids("spin")
    reply = node.infer("spin", spin(FOREVER))
    assert reply.status == 500
    assert "run_timeout" in reply.error
    again = wait_until(lambda: (r := node.infer("spin", spin(3))).status == 200 and r, "the next request to be served")
    assert again.json["outputs"][0]["data"] == [3]
    assert node.host_pids("spin") != before


def test_a_request_s_timeout_leaves_the_host_alone(start: Any, models: Path) -> None:
    node = start(config="run_timeout_ms: 600000\n")
    node.add("spin", models / "spin.onnx")
    before = node.host_pids("spin")
    slow, result = in_background(lambda: node.infer("spin", spin(3_000_000)))
    busy(node, "spin")
    reply = node.infer("spin", spin(1, timeout=50_000))
    assert reply.status == 504
    assert "timeout" in reply.error
    slow.join()
    assert result[0].status == 200, result[0].body
    assert node.host_pids("spin") == before


def test_a_client_that_goes_away_leaves_the_queue(start: Any, models: Path) -> None:
    # However slow the machine is, the run that the others wait for is to end well.
    node = start(config="run_timeout_ms: 600000\n")
    node.add("spin", models / "spin.onnx")
    slow, result = in_background(lambda: node.infer("spin", spin(4_000_000)))
    busy(node, "spin")
    body = json.dumps(spin(FOREVER)).encode()
    for _ in range(3):
        host, port = node.netloc.split(":")
        gone = socket.create_connection((host, int(port)))
        gone.sendall(
            b"POST /v2/models/spin/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        time.sleep(0.2)
        gone.close()
    slow.join()
    assert result[0].status == 200
    # Had they stayed, the host would now spin for ever.
    assert node.infer("spin", spin(2)).json["outputs"][0]["data"] == [2]


def test_unload_ends_the_process(start: Any, models: Path) -> None:
    node = start()
    node.add("mlp", models / "mlp.onnx")
    [pid] = node.host_pids("mlp")
    assert "unloaded" in node.cli("model", "unload", "mlp").stdout
    assert not alive(pid)
    assert node.infer("mlp", row(1)).status == 503
    node.cli("model", "load", "mlp")
    assert node.infer("mlp", row(1)).status == 200


def test_kill_node_while_a_model_is_added(start: Any, models: Path) -> None:
    node = start()
    node.add("mlp", models / "mlp.onnx")
    content = (models / "mlp.onnx").read_bytes()
    host, port = node.netloc.split(":")
    upload = socket.create_connection((host, int(port)))
    head = "POST /grey/v1/models/half?file=half.onnx&load=true HTTP/1.1\r\nHost: localhost\r\n"
    upload.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content[: len(content) // 2])
    time.sleep(0.3)
    node.kill()
    upload.close()
    again = start()
    assert [m["id"] for m in again.cli_json("model", "list")] == ["mlp"]
    assert not list((again.data / "registry/models").glob("half/files/*/*"))
    assert again.add("half", models / "simple.onnx")["version"] == "1"


def test_restart_restores_what_was_loaded(start: Any, models: Path) -> None:
    node = start()
    node.add("mlp", models / "mlp.onnx")
    node.add("simple", models / "simple.onnx")
    node.cli("model", "unload", "simple")
    assert node.stop() == 0
    node = start()
    wait_until(lambda: node.show("mlp")["state"] == "ready", "the model to be restored")
    assert node.show("mlp")["batching"]["reason"] == "rows do not mix (probed)", "the profile record is used again"
    assert node.show("simple")["state"] == "unloaded"


def test_a_changed_byte_is_not_loaded(start: Any, models: Path) -> None:
    node = start()
    added = node.add("mlp", models / "mlp.onnx")
    node.cli("model", "unload", "mlp")
    [stored] = (node.data / "registry/models/mlp/files").glob("*/mlp.onnx")
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    stored.write_bytes(content)
    failed = node.cli("model", "load", "mlp", code=1)
    assert added["model_hash"] in failed.stderr
    assert "was changed" in failed.stderr


def test_two_nodes_on_one_folder(start: Any) -> None:
    node = start()
    second = subprocess.run(
        [sys.executable, "-m", "grey", "serve", "--http", "127.0.0.1:0", "--data", str(node.data)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert second.returncode == 1
    assert f"in use by another node (process {node.process.pid}, {node.url})" in second.stderr


def test_no_network_without_insecure(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "grey", "serve", "--http", "0.0.0.0:0", "--data", str(tmp_path / "d")],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 1
    assert "--insecure" in done.stderr


def test_drain_finishes_what_is_queued(start: Any, models: Path) -> None:
    node = start(config="run_timeout_ms: 600000\ndrain_seconds: 600\n")
    node.add("spin", models / "spin.onnx")
    pids = node.host_pids("spin")
    calls = [in_background(lambda: node.infer("spin", spin(2_000_000))) for _ in range(3)]
    busy(node, "spin")
    os.kill(node.process.pid, signal.SIGTERM)
    for thread, result in calls:
        thread.join()
        assert result[0].status == 200, result[0].body
    assert node.process.wait(30) == 0
    assert not any(alive(p) for p in pids)


def test_a_host_that_ends_in_the_probe_says_nothing_of_its_model(start: Any, models: Path) -> None:
    node = start()
    node.add("slow", models / "slow.onnx", probed=False)
    assert "being probed" in node.show("slow")["batching"]["reason"]
    os.kill(node.host_pids("slow")[0], signal.SIGKILL)
    reason = wait_until(
        lambda: "being probed" not in (r := node.show("slow")["batching"]["reason"]) and r, "the probe to end"
    )
    assert "the host ended during the probe" in reason
    node.cli("model", "unload", "slow")
    node.cli("model", "load", "slow")
    wait_until(lambda: node.show("slow")["batching"]["enabled"], "the next load to probe again")


def test_a_probe_that_takes_too_long_leaves_the_host_alone(start: Any, models: Path) -> None:
    node = start()
    node.add("slower", models / "slower.onnx", probed=False)
    before = node.host_pids("slower")
    reason = wait_until(
        lambda: "being probed" not in (r := node.show("slower")["batching"]["reason"]) and r, "the probe to end"
    )
    assert "took more than 5s" in reason
    x = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [3]}
    assert node.infer("slower", {"inputs": [x]}).json["outputs"][0]["data"] == [3]
    assert node.host_pids("slower") == before


@pytest.mark.parametrize("name", ["softmax_over_rows", "time_major"])
def test_models_that_mix_rows_are_served_one_by_one(start: Any, models: Path, name: str) -> None:
    node = start()
    node.add(name, models / f"{name}.onnx")
    shown = node.show(name)["batching"]
    assert not shown["enabled"]
    assert "rows mix" in shown["reason"]
    rng = np.random.default_rng(1)
    wrong: list[Any] = []

    def client(seed: int) -> None:
        for _ in range(20):
            x = rng.normal(size=(seed % 3 + 1, 4)).astype(np.float32)
            tensor = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
            y = np.array(node.infer(name, {"inputs": [tensor]}).json["outputs"][0]["data"], np.float32).reshape(x.shape)
            e = np.exp(x - x.max(0))
            right = e / e.sum(0) if name == "softmax_over_rows" else x.cumsum(0)
            if not np.allclose(y, right, rtol=1e-4, atol=1e-5):
                wrong.append((x, y))

    threads = [threading.Thread(target=client, args=(k,)) for k in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_a_fixed_batch_is_served_as_it_is(start: Any, models: Path) -> None:
    node = start()
    node.add("fixed_batch", models / "fixed_batch.onnx")
    assert "always 4" in node.show("fixed_batch")["batching"]["reason"]
    tensor = {"name": "x", "datatype": "FP32", "shape": [4, 3], "data": list(range(12))}
    assert node.infer("fixed_batch", {"inputs": [tensor]}).json["outputs"][0]["data"] == [2 * i for i in range(12)]


def test_no_onnxruntime_says_how_to_install_it(start: Any, models: Path, tmp_path: Path) -> None:
    node = start("data", "--onnxruntime-lib", str(tmp_path / "nowhere.so"))
    failed = node.cli("model", "add", "mlp", str(models / "mlp.onnx"), code=1)
    assert "nowhere.so" in failed.stderr
    assert "install it with: grey engine install onnxruntime" in failed.stderr
    assert "not usable" in node.cli("engine", "list").stdout


def test_an_old_onnxruntime_is_named(start: Any, models: Path, tmp_path: Path) -> None:
    source = tmp_path / "old.c"
    source.write_text(
        'static const char* v(void) { return "1.10.0"; }\n'
        "static const void* a(unsigned n) { (void)n; return 0; }\n"
        "struct base { const void* (*api)(unsigned); const char* (*version)(void); };\n"
        "static const struct base b = { a, v };\n"
        "const struct base* OrtGetApiBase(void) { return &b; }\n"
    )
    library = tmp_path / "libonnxruntime.so.1.10.0"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    node = start("data", "--onnxruntime-lib", str(library))
    failed = node.cli("model", "add", "mlp", str(models / "mlp.onnx"), code=1)
    assert "1.10.0" in failed.stderr
    assert "1.17" in failed.stderr
