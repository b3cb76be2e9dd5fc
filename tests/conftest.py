"""Real nodes for the tests: each on a free port, on a folder of its own, ended by its own pid."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

SUPPORT = Path(__file__).parent / "support"
START_WAIT_S = 30.0
LONG_WAIT_S = 30.0


def wait_until(condition: Callable[[], Any], what: str, seconds: float = LONG_WAIT_S) -> Any:
    """Poll until the condition gives something true, and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.02)
    pytest.fail(f"waited {seconds} s for: {what}")


class Reply:
    """An HTTP answer."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json["error"])


class GreyNode:
    """A ``grey serve``."""

    def __init__(
        self,
        data: Path,
        *args: str,
        config: str | None = None,
        env: dict[str, str] | None = None,
        own_group: bool = False,
        python: str = sys.executable,
        http: str = "127.0.0.1:0",
    ) -> None:
        self.data = data
        self.log_path = data.parent / f"{data.name}.log"
        command = [python, "-m", "grey", "serve", "--http", http, "--data", str(data), "--json", *args]
        if config is not None:
            path = data.parent / f"{data.name}.yaml"
            path.write_text(config)
            command += ["--config", str(path)]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | (env or {}),
                start_new_session=own_group,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(START_WAIT_S)
            raise RuntimeError(f"the node did not start: {self.log}")
        self.ready_line = json.loads(line)
        self.url: str = self.ready_line["url"]
        self.netloc = urlsplit(self.url).netloc

    @classmethod
    def at(cls, url: str) -> GreyNode:
        """A node that somebody else started, to be asked and not to be ended."""
        node = cls.__new__(cls)
        node.url, node.netloc = url, urlsplit(url).netloc
        return node

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def cli(self, *args: str, code: int = 0, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "grey", "--url", self.url, *args]
        done = subprocess.run(command, capture_output=True, text=True, check=False, input=stdin)
        assert done.returncode == code, f"{args}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def cli_json(self, *args: str) -> Any:
        return json.loads(self.cli("--json", *args).stdout)

    def request(
        self, method: str, path: str, body: bytes | str | None = None, headers: dict[str, str] | None = None
    ) -> Reply:
        connection = http.client.HTTPConnection(self.netloc, timeout=LONG_WAIT_S)
        try:
            connection.request(method, path, body, headers or {})
            return Reply(connection.getresponse())
        finally:
            connection.close()

    def infer(self, model: str, body: Any, headers: dict[str, str] | None = None) -> Reply:
        text = body if isinstance(body, (bytes, str)) else json.dumps(body)
        return self.request("POST", f"/v2/models/{model}/infer", text, headers)

    def show(self, model: str) -> Any:
        return self.request("GET", f"/grey/v1/models/{model}").json

    def add(self, name: str, file: Path, *args: str, probed: bool = True) -> Any:
        added = self.cli_json("model", "add", name, str(file), *args)
        if probed and added["state"] == "ready":
            wait_until(lambda: "being probed" not in self.show(name)["batching"]["reason"], f"the probe of {name}")
        return added

    def host_pids(self, model: str) -> list[int]:
        return [h["pid"] for h in self.show(model)["hosts"]]

    def stop(self) -> int:
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGTERM)
        return self.process.wait(LONG_WAIT_S)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(LONG_WAIT_S)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def spin(times: int, **parameters: Any) -> dict[str, Any]:
    """A request for the model `spin`: a million times take about a second."""
    inputs = [
        {"name": "n", "datatype": "INT64", "shape": [1, 1], "data": [times]},
        {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [0]},
    ]
    return {"inputs": inputs, "parameters": parameters}


# Nothing that is waited for.
FOREVER = 2**40


def in_background(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(call()))
    thread.start()
    return thread, result


def busy(node: GreyNode, model: str) -> None:
    """Wait until a run keeps the host's processor busy."""
    pid = node.host_pids(model)[0]
    before = cpu_ticks(pid)
    wait_until(lambda: cpu_ticks(pid) > before + 10, "the host to be busy")


def cpu_ticks(pid: int) -> int:
    """Processor time of a process so far, in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def gauge(node: GreyNode, name: str, **labels: str) -> float | None:
    """A value of `/metrics`; none if the series is not there."""
    for line in node.request("GET", "/metrics").body.decode().splitlines():
        series, _, value = line.rpartition(" ")
        if series.partition("{")[0] == name and all(f'{k}="{v}"' in series for k, v in labels.items()):
            return float(value)
    return None


def children(pid: int) -> list[int]:
    """Processes that this one started and that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small test models."""
    folder = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, str(SUPPORT / "models.py"), str(folder)], check=True)
    return folder


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., GreyNode]]:
    """Starts nodes that end with the test."""
    nodes: list[GreyNode] = []

    def make(name: str = "data", *args: str, **kwargs: Any) -> GreyNode:
        nodes.append(GreyNode(tmp_path / name, *args, **kwargs))
        return nodes[-1]

    yield make
    for node in nodes:
        node.kill()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[GreyNode]:
    """A node with every good test model, shared by a module's tests."""
    node = GreyNode(tmp_path_factory.mktemp("node") / "data")
    for file in sorted(models.glob("*.onnx")):
        if file.stem not in {"truncated", "text", "empty", "sequence", "slow", "slower"}:
            # As `grey model add` does it, without a process for each.
            added = node.request("POST", f"/grey/v1/models/{file.stem}?file={file.name}", file.read_bytes())
            assert added.status == 201, added.body
    yield node
    node.kill()
