"""What the node tells of itself at a glance, the verdict by the node, and `grey top`."""

from __future__ import annotations

import base64
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FOREVER, GreyNode, in_background, spin, wait_until
from support.proofs import Answer, bundle, node_key, prove, session, tensor

BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 8], "data": [0.5] * 16}]}
STATUS = "/grey/v1/status"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[GreyNode]:
    node = GreyNode(tmp_path_factory.mktemp("status") / "data", config="name: one\nlimits: {connections_max: 77}\n")
    node.add("mlp", models / "mlp.onnx")
    node.add("later", models / "simple.onnx", "--no-load")
    yield node
    node.kill()


def status(node: GreyNode) -> Any:
    reply = node.request("GET", STATUS)
    assert reply.status == 200, reply.body
    assert reply.headers["Cache-Control"] == "no-store"
    return reply.json


def of(node: GreyNode, model: str) -> Any:
    [found] = [m for m in status(node)["models"] if m["id"] == model]
    return found


def test_the_node_at_a_glance(node: GreyNode) -> None:
    now = status(node)
    assert (now["name"], now["pid"], now["ready"], now["reason"]) == ("one", node.process.pid, True, "")
    assert (now["console"], now["connections_max"], now["warnings"], now["unreadable"]) == ("read", 77, [], {})
    assert now["connections"] >= 1
    assert 0 < now["uptime_ms"] < 600_000
    assert abs(now["started"] - time.time()) < 600
    assert now["proofs"]["platform"] == "SOFTWARE"
    assert now["inflight_bytes"] <= now["inflight_bytes_max"] < now["memory_bytes"]
    rss = int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{now['pid']}/status").read_text())[0]) * 1024
    assert now["usage"]["rss_bytes"] == pytest.approx(rss, rel=0.5)
    later = of(node, "later")
    assert (later["state"], later["threads"], later["hosts"]) == ("registered", None, [])
    assert later["latency_seconds"]["count"] == 0


def test_a_model_at_a_glance(node: GreyNode) -> None:
    before, shown = of(node, "mlp"), node.show("mlp")
    for same in ["model_hash", "model_hash_scheme", "batching", "proofs", "threads", "engine", "created", "state"]:
        assert before[same] == shown[same]
    [host] = before["hosts"]
    assert host["pid"] == shown["hosts"][0]["pid"]
    assert host["usage"]["rss_bytes"] > host["usage"]["anonymous_bytes"] > 1 << 20
    for _ in range(3):
        assert node.infer("mlp", BODY).status == 200
    bad = {"inputs": [BODY["inputs"][0] | {"shape": [2, 8], "data": [0.5] * 16}], "parameters": {"timeout": 1}}
    assert node.infer("mlp", bad).status in {200, 504}
    after = of(node, "mlp")
    for name in ["latency_seconds", "queue_seconds", "batch_rows", "execute_seconds"]:
        histogram = after[name]
        assert histogram["count"] - before[name]["count"] >= 3
        assert histogram["count"] == sum(histogram["counts"])
        assert len(histogram["counts"]) == len(histogram["bounds"]) + 1
        assert histogram["bounds"] == sorted(histogram["bounds"])
    # Two rows: the second bucket of 1, 2, 4 …
    assert after["batch_rows"]["counts"][1] - before["batch_rows"]["counts"][1] >= 3
    assert after["rows"] - before["rows"] >= 6
    assert after["answered"] - before["answered"] >= 3
    # The same as Prometheus gets.
    text = node.request("GET", "/metrics").body.decode()
    series = r'grey_ai_batch_size_bucket\{(?=[^}]*le="2(?:\.0)?")(?=[^}]*model="mlp")[^}]*\} (\d+)'
    assert [int(n) for n in re.findall(series, text)] == [sum(after["batch_rows"]["counts"][:2])]


def test_what_waits_and_what_died(start: Any, models: Path) -> None:
    node = start(config="drain_seconds: 0\nmodels: {spin: {batch_axis: none}}\n")
    node.add("spin", models / "spin.onnx")
    assert of(node, "spin")["queue"] == {"rows": 0, "rows_max": 65536, "oldest_wait_ms": 0}
    waiting = [in_background(lambda: node.infer("spin", spin(FOREVER, timeout=60_000_000))) for _ in range(3)]
    wait_until(lambda: of(node, "spin")["queue"]["rows"] == 2, "one to run and two to wait")
    first = of(node, "spin")["queue"]["oldest_wait_ms"]
    wait_until(lambda: of(node, "spin")["queue"]["oldest_wait_ms"] > first + 100, "the oldest to grow older")
    assert status(node)["connections"] >= 4
    assert status(node)["inflight_bytes"] > 0
    cpu = of(node, "spin")["hosts"][0]["usage"]["cpu_ms"]
    wait_until(lambda: of(node, "spin")["hosts"][0]["usage"]["cpu_ms"] > cpu + 50, "processor time to be seen")
    node.stop()
    for thread, answered in waiting:
        thread.join()
        assert answered[0].status == 503


def test_a_host_that_died_is_counted(start: Any, models: Path) -> None:
    node = start()
    node.add("mlp", models / "mlp.onnx")
    [pid] = node.host_pids("mlp")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: of(node, "mlp")["restarts"] == 1, "the restart")
    assert of(node, "mlp")["hosts"][0]["pid"] != pid


def test_what_an_open_node_warns_of(tmp_path: Path) -> None:
    (tmp_path / "grey.yaml").write_text("console: write\n")
    command = [sys.executable, "-m", "grey", "serve", "--http", "0.0.0.0:0", "--insecure", "--json"]
    command += ["--data", str(tmp_path / "data"), "--config", str(tmp_path / "grey.yaml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        port = json.loads(process.stdout.readline())["url"].rsplit(":", 1)[1]
        shown = GreyNode.at(f"http://127.0.0.1:{port}")
        first, second = status(shown)["warnings"]
        process.terminate()
    assert "nobody has to authenticate" in first
    assert "console: write" in second


# The verdict by the node


def verdict(node: GreyNode, proof: bytes, given: Answer, **more: Any) -> Any:
    known = {"model_hash": node.show("mlp")["model_hash"]} | more.pop("known", {})
    body = {
        "proof": base64.b64encode(proof).decode(),
        "request": {"inputs": given.inputs, "parameters": {"ignored": 1}},
        "answer": {"outputs": given.outputs},
        "known": known,
    } | more
    return node.request("POST", "/grey/v1/verify", json.dumps(body))


def result(verdict: Any, check: str) -> str:
    [found] = [c["result"] for c in verdict["checks"] if c["name"] == check]
    return str(found)


@pytest.fixture(scope="module")
def answer(node: GreyNode) -> Answer:
    return prove(node, "mlp", [tensor("x", np.ones((1, 8), np.float32))], grey_nonce="AAECAwQFBgcICQ==")


def test_the_verdict_on_an_answer(node: GreyNode, answer: Answer) -> None:
    reply = verdict(node, answer.proof, answer, known={"nonce": "AAECAwQFBgcICQ=="})
    assert reply.status == 200, reply.body
    judged = reply.json
    assert judged["overall"] == "valid"
    assert len(judged["checks"]) == 21
    for check in ["input-hash", "output-hash", "model-hash", "nonce", "key-binding", "signature"]:
        assert result(judged, check) == "pass"
    assert judged["policy"] == {"software_keys": [node_key(node)]}
    assert judged["view"]["model_id"] == "mlp"
    assert judged["view"]["proof"] == judged["bundle"]
    assert abs(judged["at"] - time.time()) < 60
    # The bundle that comes back is verified as it is, here as elsewhere.
    again = verdict(node, base64.b64decode(judged["bundle"]), answer).json
    assert again["overall"] == "valid"
    assert again["bundle"] == judged["bundle"]


def test_what_does_not_fit_is_not_valid(node: GreyNode, answer: Answer) -> None:
    other = [tensor("x", np.zeros((1, 8), np.float32))]
    judged = verdict(node, answer.proof, answer, request={"inputs": other}).json
    assert (judged["overall"], result(judged, "input-hash")) == ("not valid", "fail")
    judged = verdict(node, answer.proof, answer, policy={"software_keys": ["00" * 32]}).json
    assert (judged["overall"], result(judged, "measurement")) == ("not valid", "fail")
    assert judged["policy"] == {"software_keys": ["00" * 32]}
    whole = bytearray(bundle(answer.proof, session(node, answer.session)))
    whole[len(whole) // 2] ^= 1
    judged = verdict(node, bytes(whole), answer).json
    assert judged["overall"] == "not valid"


def test_what_cannot_be_judged_is_said(node: GreyNode, answer: Answer) -> None:
    def refused(proof: bytes = answer.proof, **more: Any) -> str:
        reply = verdict(node, proof, answer, **more)
        assert reply.status in {400, 404}, reply.body
        return reply.error

    assert refused(b"\x00").startswith("proof: ")
    assert "known/nonce" in refused(known={"nonce": "?"})
    assert "request has no list of tensors" in refused(request={"outputs": []})
    assert "answer: " in refused(answer={"outputs": [{"name": "y"}]})
    assert "software_kees" in refused(policy={"software_kees": []})
    assert "unknown field `inputs`" in refused(inputs=[])
    assert "leave one of them out" in refused(known={"inputs": []})
    for body in [b"", b"[]", b"{", b"\xff", b'{"proof": 7}', b'{"proof": "!"}', b'{"proof": "", "proof": ""}']:
        reply = node.request("POST", "/grey/v1/verify", body)
        assert reply.status == 400, body
        assert reply.error


# grey top


def top(node: GreyNode, *args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    return node.cli("top", "--interval", "0.2", *args, code=code)


def test_top_once(node: GreyNode) -> None:
    said = top(node, "--once").stdout
    lines = said.splitlines()
    assert lines[0].startswith("grey ")
    assert f"pid {node.process.pid}" in lines[0]
    assert "\x1b" not in said
    header = next(line for line in lines if line.startswith("MODEL"))
    assert header.split() == [
        *["MODEL", "VERSION", "STATE", "REQ/S", "FAIL/S", "P50", "P99"],
        *["BATCH", "QUEUE", "OLDEST", "HOSTS", "CPU", "MEMORY"],
    ]
    assert any(re.match(r"mlp +1 +ready +0 ", line) for line in lines)


def test_top_in_json_sees_what_happens_between_two_looks(node: GreyNode) -> None:
    command = [sys.executable, "-m", "grey", "--url", node.url, "--json", "top", "--interval", "0.5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        first = json.loads(process.stdout.readline())
        assert (first["interval_ms"], first["node"]["requests_per_second"]) == (0, None)
        for _ in range(5):
            assert node.infer("mlp", BODY).status == 200
        [mlp] = [m for m in json.loads(process.stdout.readline())["models"] if m["id"] == "mlp"]
        assert mlp["requests_per_second"] > 0
        assert 0 < mlp["p50_seconds"] <= mlp["p99_seconds"]
        assert mlp["batch_rows"] == 2
        assert mlp["rss_bytes"] > 1 << 20
        # Who does not read any more ends it.
        process.stdout.close()
        assert process.wait(30) == 0


def test_top_of_no_node() -> None:
    command = [sys.executable, "-m", "grey", "--url", "http://127.0.0.1:1", "top"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("error: cannot reach a node at http://127.0.0.1:1")
    for wrong in ["0", "-1", "nan", "1h", "3601"]:
        done = subprocess.run([*command, f"--interval={wrong}"], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "expected seconds, 0.1 to 3600" in done.stderr


@pytest.mark.parametrize(
    ("body", "says"), [(b"{}", "what is no status of a node: missing field `name`"), (b"<p>hello", "is not JSON")]
)
def test_top_of_another_server(body: bytes, says: str) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: standard error is the test's."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        command = [sys.executable, "-m", "grey", "--url", f"http://127.0.0.1:{server.server_port}", "top"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        server.shutdown()
    assert done.returncode == 3
    assert says in done.stderr


class Terminal:
    """`grey top` in a terminal of its own."""

    def __init__(self, node: GreyNode) -> None:
        self.ours, self.theirs = pty.openpty()
        termios.tcsetwinsize(self.theirs, (24, 110))
        self.before = termios.tcgetattr(self.theirs)
        command = [sys.executable, "-m", "grey", "--url", node.url, "top", "--interval", "0.1"]
        self.process = subprocess.Popen(command, stdin=self.theirs, stdout=self.theirs, stderr=subprocess.STDOUT)
        os.set_blocking(self.ours, False)
        self.seen = ""

    def read(self) -> str:
        try:
            while chunk := os.read(self.ours, 65536):
                self.seen += chunk.decode(errors="replace")
        except BlockingIOError:
            pass
        return self.seen

    def last_screen(self) -> str:
        """What was drawn last and whole."""
        return self.read().split("\x1b[H")[-2]

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.read(), f"{text!r} in the terminal")

    def press(self, key: bytes) -> None:
        os.write(self.ours, key)

    def ended(self) -> None:
        assert self.process.wait(30) == 0
        assert self.read().endswith("\x1b[?25h\x1b[?1049l"), self.seen[-200:]
        assert termios.tcgetattr(self.theirs) == self.before


@pytest.fixture
def terminal(node: GreyNode) -> Iterator[Terminal]:
    terminal = Terminal(node)
    yield terminal
    if terminal.process.poll() is None:
        terminal.process.kill()
        terminal.process.wait()
    os.close(terminal.ours)
    os.close(terminal.theirs)


@pytest.mark.parametrize("key", [b"q", b"\x03", b"\x1b"])
def test_top_in_a_terminal_quits_and_leaves_it_as_it_was(terminal: Terminal, key: bytes) -> None:
    terminal.wait_for("\x1b[?1049h")
    terminal.wait_for("mlp")
    terminal.wait_for("q quits")
    assert termios.tcgetattr(terminal.theirs) != terminal.before
    terminal.press(b"x")
    terminal.press(key)
    terminal.ended()


@pytest.mark.parametrize("signal", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_top_leaves_the_terminal_as_it_was_when_a_signal_ends_it(terminal: Terminal, signal: signal.Signals) -> None:
    terminal.wait_for("q quits")
    terminal.process.send_signal(signal)
    terminal.ended()


def test_top_says_that_the_node_is_gone_and_goes_on(start: Any, models: Path) -> None:
    node = start()
    node.add("mlp", models / "mlp.onnx")
    terminal = Terminal(node)
    terminal.wait_for("q quits")
    os.kill(node.process.pid, signal.SIGSTOP)
    terminal.wait_for("no answer, trying again")
    os.kill(node.process.pid, signal.SIGCONT)
    wait_until(lambda: "no answer" not in terminal.last_screen(), "the node to be seen again")
    node.kill()
    terminal.wait_for("no answer, trying again: cannot reach a node")
    assert "mlp" in terminal.seen, "what was seen last stays"
    terminal.press(b"q")
    terminal.ended()
