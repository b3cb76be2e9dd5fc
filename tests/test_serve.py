"""`grey serve`: its flags, folders, addresses, logs, and what comes over the wire in other forms."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from conftest import GreyNode, wait_until

GREY = [sys.executable, "-m", "grey"]
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 8], "data": [1] * 8}]}


@contextmanager
def served(*args: str, env: dict[str, str]) -> Iterator[str]:
    """The line that a node without `--json` and `--data` prints; the node ends with the block."""
    node = subprocess.Popen(
        [*GREY, "serve", "--http", "127.0.0.1:0", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=env,
    )
    try:
        assert node.stdout is not None
        yield node.stdout.readline()
    finally:
        os.kill(node.pid, signal.SIGKILL)
        node.communicate(timeout=20)


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"XDG_DATA_HOME": "{}/xdg", "HOME": "{}/home"}, "xdg/grey"),
        ({"HOME": "{}/home"}, "home/.local/share/grey"),
        ({"XDG_DATA_HOME": "relative", "HOME": "{}/home"}, "home/.local/share/grey"),
    ],
)
def test_the_folder_and_address_without_flags(tmp_path: Path, variables: dict[str, str], folder: str) -> None:
    env = {k: v for k, v in os.environ.items() if k not in {"XDG_DATA_HOME", "HOME"}}
    env |= {k: v.format(tmp_path) for k, v in variables.items()}
    with served(env=env) as line:
        found = re.fullmatch(r"grey \S+ listening on http://127\.0\.0\.1:(\d+) \(data (.+)\)\n", line)
        assert found, line
        assert found[2] == str(tmp_path / folder)
        assert (tmp_path / folder / "registry").is_dir()
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=20)
        connection.request("GET", "/v2/health/ready")
        assert connection.getresponse().status == 200
        connection.close()


def test_grey_url_names_the_node(start: Any, models: Path) -> None:
    node = start()
    node.add("here", models / "mlp.onnx", "--no-load")

    def names(*args: str, url: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"GREY_URL": url}
        return subprocess.run([*GREY, *args, "model", "list"], capture_output=True, text=True, check=False, env=env)

    assert "here" in names(url=node.url).stdout
    nowhere = names(url="http://127.0.0.1:1")
    assert nowhere.returncode == 3
    assert "http://127.0.0.1:1" in nowhere.stderr
    assert "here" in names("--url", node.url, url="http://127.0.0.1:1").stdout


def test_logs_in_json_are_lines_of_json(start: Any, models: Path) -> None:
    node = start("data", "--log-format", "json")
    node.add("mlp", models / "mlp.onnx")
    assert node.stop() == 0
    lines = [json.loads(line) for line in node.log.splitlines()]
    assert all({"timestamp", "level", "fields"} <= line.keys() for line in lines)
    registered = [line for line in lines if line["fields"]["message"] == "registered"]
    assert [line["fields"]["model"] for line in registered] == ["mlp"]
    assert any("draining" in line["fields"]["message"] for line in lines)


def test_strict_readiness_waits_for_the_restored_models(start: Any, models: Path) -> None:
    node = start()
    names = [f"m{i}" for i in range(6)]
    for name in names:
        node.add(name, models / "mlp.onnx", probed=False)
    assert node.stop() == 0
    node = start(config="strict_ready: true\n")
    first = node.request("GET", "/v2/health/ready")
    assert first.status == 503, "six hosts do not start in the time of one request"
    assert "restoring" in first.error
    assert node.request("GET", "/v2/health/live").status == 200
    wait_until(lambda: node.request("GET", "/v2/health/ready").status == 200, "the node to be ready")
    for name in names:
        assert node.request("GET", f"/v2/models/{name}/ready").status == 200


def test_more_names_of_a_node(start: Any, models: Path) -> None:
    node = start("data", "--insecure", config="http_names: [grey.example]\n")
    content = (models / "mlp.onnx").read_bytes()
    path = "/grey/v1/models/mlp?file=mlp.onnx&load=false"
    for host in ["evil.example", "grey.example.evil.example", "10.0.0.1"]:
        refused = node.request("POST", path, content, {"Host": host})
        assert refused.status == 403, host
        assert f"'{host}'" in refused.error
    assert node.request("POST", path, content, {"Host": "grey.example"}).status == 201
    port = node.netloc.split(":")[1]
    assert node.request("POST", "/grey/v1/models/mlp/load", None, {"Host": f"GREY.example:{port}"}).status == 200
    foreign = {"Host": "grey.example", "Origin": "http://evil.example"}
    assert node.request("POST", "/grey/v1/models/mlp/unload", None, foreign).status == 403
    assert node.infer("mlp", BODY, {"Host": "evil.example"}).status == 200, "inference changes no state"


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[GreyNode]:
    """A node with one model that no test changes."""
    node = GreyNode(tmp_path_factory.mktemp("serve") / "data")
    node.add("mlp", models / "mlp.onnx")
    yield node
    node.kill()


def test_a_raw_binary_request(mlp: GreyNode) -> None:
    rows = np.arange(16, dtype=np.float32).reshape(2, 8)
    plain = mlp.infer("mlp", {"inputs": [BODY["inputs"][0] | {"shape": [2, 8], "data": rows.ravel().tolist()}]})
    raw = mlp.infer("mlp", rows.tobytes(), {"Inference-Header-Content-Length": "0"})
    assert raw.status == 200, raw.body
    length = int(raw.headers["Inference-Header-Content-Length"])
    [output] = json.loads(raw.body[:length])["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("y", "FP32", [2, 3])
    values = np.frombuffer(raw.body[length:], np.float32)
    np.testing.assert_allclose(values, plain.json["outputs"][0]["data"], rtol=1e-5)
    odd = mlp.infer("mlp", b"\0" * 33, {"Inference-Header-Content-Length": "0"})
    assert odd.status == 400
    assert "raw binary request" in odd.error


def test_a_body_in_chunks(mlp: GreyNode) -> None:
    text = json.dumps(BODY).encode()
    connection = http.client.HTTPConnection(mlp.netloc, timeout=20)
    connection.request(
        "POST",
        "/v2/models/mlp/infer",
        (text[i : i + 7] for i in range(0, len(text), 7)),
        {"Transfer-Encoding": "chunked"},
        encode_chunked=True,
    )
    answer = connection.getresponse()
    assert answer.status == 200
    assert json.loads(answer.read())["outputs"] == mlp.infer("mlp", BODY).json["outputs"]
    connection.close()


def test_load_brings_files_where_that_is_allowed(start: Any, models: Path) -> None:
    node = start("data", "--allow-upload")
    client = triton.InferenceServerClient(node.netloc)
    content = (models / "mlp.onnx").read_bytes()
    client.load_model("m", config='{"backend":"onnxruntime"}', files={"file:1/model.onnx": content})
    assert client.is_model_ready("m", "1")
    assert node.infer("m", BODY).status == 200
    # The same bytes again change nothing; others under the same version are refused.
    client.load_model("m", config="{}", files={"file:1/model.onnx": content})
    other = base64.b64encode((models / "simple.onnx").read_bytes()).decode()
    path = "/v2/repository/models/m/load"
    taken = node.request("POST", path, json.dumps({"parameters": {"config": "{}", "file:1/model.onnx": other}}))
    assert taken.status == 409, taken.body
    both = node.request("POST", path, json.dumps({"parameters": {"config": "{}", "file:2/model.onnx": other}}))
    assert both.status == 200, both.body
    assert [(m["version"], m["latest"]) for m in node.cli_json("model", "list")] == [("1", False), ("2", True)]
    for parameters, status, says in [
        ({"config": "{}", "file:3/../../x.onnx": other}, 400, "invalid file name"),
        ({"config": "{}", "file:3/model.onnx": "?"}, 400, "not base64"),
        ({"config": '{"max_batch_size":4}'}, 501, "max_batch_size"),
    ]:
        refused = node.request("POST", path, json.dumps({"parameters": parameters}))
        assert refused.status == status, refused.body
        assert says in refused.error
