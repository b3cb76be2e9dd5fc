"""The configuration as users meet it: file, variables and flags, their mistakes, `grey config`, SIGHUP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import onnxruntime
import pytest
from conftest import GreyNode, gauge, spin, wait_until

GREY = [sys.executable, "-m", "grey"]
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 8], "data": [1] * 8}]}
PROVEN = BODY | {"parameters": {"grey_prove": True}}


def grey(*args: str, code: int = 0, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("GREY_") and k != "RUST_LOG"}
    done = subprocess.run(
        [*GREY, *args], capture_output=True, text=True, check=False, timeout=60, env=clean | (env or {})
    )
    assert done.returncode == code, f"{args}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("http: localhost\n", "{}:1:7: http is 'localhost', expected HOST:PORT, such as 127.0.0.1:8000\n"),
        ("# one\nlimitz:\n  a: 1\n", "{}:2:1: there is no key 'limitz'\nhint: did you mean 'limits'?\n"),
        (
            "limits:\n  body_byte_max: 1\n",
            "{}:2:3: there is no key 'body_byte_max' in limits\nhint: did you mean 'limits.body_bytes_max'?\n",
        ),
        (
            "max_batch_size: 8\n",
            "{}:1:1: there is no key 'max_batch_size'\nhint: did you mean 'batching.max_batch_size'?\n",
        ),
        (
            "models:\n  digits:\n    threads: none\n",
            "{}:3:14: models.digits.threads is 'none', expected a whole number from 1 to 4096, or auto\n",
        ),
        ("insecure: yes please\n", "{}:1:11: insecure is 'yes please', expected true or false\n"),
        ("log: grey=loud\n", "{}:1:6: log is 'grey=loud', expected a filter such as info or grey=debug,info\n"),
        ("http: [\n", "{}:1:7: not readable as YAML: unclosed bracket '['\n"),
        (
            "drain_seconds: -1\nisolation: docker\n",
            "2 settings are wrong:\n"
            "  {0}:1:16: drain_seconds is -1, expected a whole number from 0 to 86400\n"
            "  {0}:2:12: isolation is 'docker', expected process or inline\n",
        ),
    ],
)
def test_a_mistake_in_the_file_has_a_place(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "grey.yaml"
    file.write_text(text)
    for command in (["config", "check", str(file)], ["serve", "--config", str(file), "--data", str(tmp_path / "d")]):
        assert grey(*command, code=1).stderr == "error: " + says.format(file)
    assert not (tmp_path / "d").exists(), "a node that does not start makes no folder"
    told = json.loads(grey("--json", "config", "check", str(file), code=1).stdout)
    assert not told["ok"]
    assert all({"file", "line", "column", "message"} <= p.keys() for p in told["problems"])


def test_mistakes_in_variables_and_flags_name_them(tmp_path: Path) -> None:
    data = ["--data", str(tmp_path / "d")]
    variable = grey("serve", *data, code=1, env={"GREY_LIMITS_CONNECTIONS_MAX": "many"}).stderr
    assert variable == (
        "error: GREY_LIMITS_CONNECTIONS_MAX: limits.connections_max is 'many', "
        "expected a whole number from 1 to 4294967295\n"
    )
    flag = grey("serve", *data, "--drain-seconds", "-1", code=2).stderr
    assert flag == "error: --drain-seconds: drain_seconds is '-1', expected a whole number from 0 to 86400\n"
    rust_log = grey("serve", *data, code=1, env={"RUST_LOG": "grey=loud"}).stderr
    assert rust_log.startswith("error: RUST_LOG: log is 'grey=loud'")
    unknown = grey("serve", *data, "--limits-body-byte-max", "1", code=2).stderr
    assert "did you mean '--limits-body-bytes-max'?" in unknown
    word = grey("serve", *data, "--isolation", "inlin", code=2).stderr
    assert "did you mean 'inline'?" in word


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot read {}: No such file or directory"),
        (b"name: a\nname\xff: b\n", "{}:2:5: not UTF-8, expected YAML"),
        (b" " * (1 << 20) + b"\n", "{} has more than 1048576 bytes"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: bytes | None, says: str) -> None:
    file = tmp_path / "grey.yaml"
    if content is not None:
        file.write_bytes(content)
    for verb in (["config", "check", str(file)], ["config", "show", "--config", str(file)]):
        assert grey(*verb, code=1).stderr.startswith("error: " + says.format(file))
    folder = grey("config", "check", str(tmp_path), code=1).stderr
    assert folder == f"error: cannot read {tmp_path}: it is a folder, expected a YAML file\n"


def test_a_pipe_is_a_file_too(tmp_path: Path) -> None:
    command = f"{sys.executable} -m grey config show --changed --config <(echo 'drain_seconds: 4')"
    shown = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.splitlines()[1].split()[:2] == ["drain_seconds", "4"]


def test_show_tells_what_a_node_would_run_with(tmp_path: Path) -> None:
    file = tmp_path / "grey.yaml"
    file.write_text("name: mine\nhttp: 127.0.0.1:1\ndrain_seconds: 3\nmodels:\n  digits: {threads: 2}\n")
    env = {"GREY_HTTP": "0.0.0.0:2", "GREY_DRAIN_SECONDS": "", "GREY_LIMITS_BODY_BYTE_MAX": "1"}
    args = ["config", "show", "--config", str(file), "--name", "flag"]
    told = json.loads(grey("--json", *args, env=env).stdout)
    settings = {s.pop("key"): s for s in told["settings"]}
    assert settings["http"] == {"value": "0.0.0.0:2", "from": "variable", "variable": "GREY_HTTP"}
    assert settings["name"] == {"value": "flag", "from": "flag", "flag": "--name"}
    of_file = {"from": "file", "file": str(file)}
    assert settings["drain_seconds"] == {"value": 3, "line": 3, "column": 16} | of_file
    assert settings["models.digits.threads"] == {"value": 2, "line": 5, "column": 21} | of_file
    assert settings["batching.max_batch_size"] == {"value": 32, "from": "default"}
    assert settings["allow_replay"] == {"value": False, "from": "default"}, "the node would listen for others"
    assert settings["engines.onnxruntime.library"]["value"].startswith(sys.prefix)
    machine = told["machine"]
    assert 1 <= machine["cores"] <= len(os.sched_getaffinity(0))
    assert settings["limits.inflight_bytes_max"]["value"] == machine["memory_bytes"] // 4
    assert told["not_settings"] == [{"variable": "GREY_LIMITS_BODY_BYTE_MAX", "near": "GREY_LIMITS_BODY_BYTES_MAX"}]
    lines = grey(*args, "--changed", env=env).stdout.splitlines()
    assert [line.split()[:3:2] for line in lines[1:5]] == [
        ["drain_seconds", f"{file}:3:16"],
        ["http", "GREY_HTTP"],
        ["name", "--name"],
        ["models.digits.threads", f"{file}:5:21"],
    ]
    assert lines[6].startswith("cores ")
    named = json.loads(grey("--json", "config", "show", env={"GREY_CONFIG": str(file)}).stdout)
    assert {"key": "name", "value": "mine", "line": 1, "column": 7} | of_file in named["settings"]
    assert grey("config", "show", "--changed").stdout.startswith("all 26 settings have their defaults\n")


def test_affinity_is_what_cores_means(tmp_path: Path, start: Callable[..., GreyNode]) -> None:
    one = min(os.sched_getaffinity(0))
    taskset = f"import os; os.sched_setaffinity(0, {{{one}}}); os.execv({GREY[0]!r}, {GREY!r} + "
    done = subprocess.run(
        [sys.executable, "-c", taskset + "['--json', 'config', 'show'])"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["machine"]["cores"] == 1
    node = start()
    before = os.sched_getaffinity(0)
    threads = [
        (Path("/proc") / str(node.process.pid) / "task" / t / "comm").read_text().strip()
        for t in os.listdir(f"/proc/{node.process.pid}/task")
    ]
    assert threads.count("tokio-rt-worker") <= len(before) + 1, threads


def test_the_schema_takes_what_the_node_takes(tmp_path: Path) -> None:
    schema = json.loads(grey("config", "schema").stdout)
    jsonschema.Draft7Validator.check_schema(schema)
    validator = jsonschema.Draft7Validator(schema)
    for value, good in [
        ({}, True),
        ({"http": "a:1", "limits": None, "data": None, "proofs": "off", "insecure": True}, True),
        ({"models": {"digits": {"threads": "auto", "batch_axis": "first", "proofs": True}}}, True),
        ({"models": {"digits": {"threads": 4, "batching": {"hold": "fill", "max_wait_ms": 0}}}}, True),
        ({"limits": {"body_bytes_max": 2**64 - 1}}, True),
        ({"http": "a"}, False),
        ({"limitz": {}}, False),
        ({"limits": {"body_bytes_max": 0}}, False),
        ({"limits": {"host_memory_bytes_max": 1}}, False),
        ({"insecure": "true"}, False),
        ({"proofs": "maybe"}, False),
        ({"isolation": "docker"}, False),
        ({"http_names": "a"}, False),
        ({"models": {"digits": {"threads": 0}}}, False),
        ({"models": {"digits": {"thread": 1}}}, False),
        ({"batching": 5}, False),
        ({"name": ""}, False),
    ]:
        file = tmp_path / "grey.yaml"
        file.write_text(json.dumps(value))
        assert validator.is_valid(value) is good, (value, list(validator.iter_errors(value)))
        grey("config", "check", str(file), code=0 if good else 1)


def test_a_node_tells_what_it_runs_with(start: Callable[..., GreyNode], tmp_path: Path) -> None:
    env = {"GREY_NAME": "of-a-variable", "GREY_DRAIN_SECOND": "3"}
    node = start("data", "--limits-connections-max", "100", config="batching:\n  hold: fill\n", env=env)
    for line in [
        "in flight",
        f"onnxruntime {onnxruntime.__version__}: {sys.prefix}",
        f"batching.hold: fill ({tmp_path / 'data.yaml'}:2:9)",
        "name: of-a-variable (GREY_NAME)",
        "limits.connections_max: 100 (--limits-connections-max)",
        "http: 127.0.0.1:0 (--http)",
        "GREY_DRAIN_SECOND is no setting; did you mean GREY_DRAIN_SECONDS?",
    ]:
        assert line in node.log, line
    assert "drain_seconds" not in node.log, "defaults are not told"


class Reloading:
    """A node with a file that is read again."""

    def __init__(self, start: Callable[..., GreyNode], text: str, *args: str) -> None:
        self.node = start("data", *args, config=text)
        self.file = self.node.data.parent / f"{self.node.data.name}.yaml"

    def again(self, text: str | None) -> str:
        """Write the file, send SIGHUP, and return what the node logs of it."""
        if text is not None:
            self.file.write_text(text)
        before = len(self.node.log)
        os.kill(self.node.process.pid, signal.SIGHUP)

        def told() -> str:
            said = self.node.log[before:]
            done = "configuration read again" in said or "nothing is changed" in said
            return said if done and said.endswith("\n") else ""

        return str(wait_until(told, "the node to read its file again"))


def test_sighup_takes_what_a_running_node_can_take(start: Callable[..., GreyNode], models: Path) -> None:
    r = Reloading(start, "limits:\n  body_bytes_max: 100000\nname: before\n")
    node = r.node
    node.add("mlp", models / "mlp.onnx")
    pids = node.host_pids("mlp")
    big = json.dumps(BODY) + " " * 5000
    assert node.infer("mlp", big).status == 200
    upload = json.dumps({"parameters": {"config": "{}", "file:1/model.onnx": "?"}})
    assert "allow_upload" in node.request("POST", "/v2/repository/models/m/load", upload).error

    told = r.again(
        "limits:\n  body_bytes_max: 4000\n  queue_rows_max: 7\n  connections_max: 9\nname: after\nallow_upload: true\n"
        "batching:\n  max_batch_size: 4\n  hold: fill\n  max_wait_ms: 30\nlog: debug\n"
        "models:\n  mlp:\n    threads: 2\n    run_timeout_ms: 60000\n"
    )
    for line in [
        "limits.body_bytes_max: 4000, was 100000",
        "limits.queue_rows_max: 7, was 65536",
        "allow_upload: true, was false",
        "batching.max_batch_size: 4, was 32",
        "batching.hold: fill, was none",
        "models.mlp.run_timeout_ms: 60000, was unset",
        "models.mlp.threads: 2, was unset, for models from their next load on",
        "name: stays before, after needs a restart",
        "limits.connections_max: stays 4096, 9 needs a restart",
        "configuration read again; settings changed: 9, waiting for a restart: 2",
    ]:
        assert line in told, told

    assert node.infer("mlp", big).status == 413
    assert "not base64" in node.request("POST", "/v2/repository/models/m/load", upload).error
    batching = node.show("mlp")["batching"]
    assert (batching["max_batch_size"], batching["hold"], batching["max_wait_ms"]) == (4, "fill", 30)
    assert batching["buckets"] == [1, 2, 4]
    eight = {"inputs": [BODY["inputs"][0] | {"shape": [8, 8], "data": [1] * 64}]}  # type: ignore[index]
    assert node.infer("mlp", eight).status == 413, "more rows than may wait"
    assert node.infer("mlp", BODY).status == 200
    assert node.host_pids("mlp") == pids, "no host was started again"
    # What was said about a load is true.
    assert node.show("mlp")["threads"] != 2
    node.cli("model", "unload", "mlp")
    node.cli("model", "load", "mlp")
    assert node.show("mlp")["threads"] == 2

    told = r.again(None)
    assert "settings changed: 0, waiting for a restart: 2" in told, "told again until there is one"
    told = r.again("name: before\n")
    assert "waiting for a restart: 0" in told
    assert "needs a restart" not in told
    assert node.infer("mlp", big).status == 200
    assert node.show("mlp")["batching"]["hold"] == "none"
    assert node.stop() == 0


def test_sighup_with_a_mistake_changes_nothing(start: Callable[..., GreyNode], models: Path) -> None:
    r = Reloading(start, "batching:\n  max_batch_size: 8\n")
    r.node.add("mlp", models / "mlp.onnx")
    told = r.again("batching:\n  max_batch_size: 4\n  hold: sometimes\nlimitz: 1\n")
    assert f"nothing is changed: {r.file}:3:9: batching.hold is 'sometimes', expected none or fill" in told
    wait_until(lambda: f"{r.file}:4:1: there is no key 'limitz'; did you mean 'limits'?" in r.node.log, "both mistakes")
    assert r.node.show("mlp")["batching"]["max_batch_size"] == 8
    r.file.unlink()
    assert "nothing is changed: cannot read" in r.again(None)
    assert "settings changed: 1," in r.again("batching:\n  max_batch_size: 4\n")
    assert r.node.show("mlp")["batching"]["max_batch_size"] == 4
    assert r.node.infer("mlp", BODY).status == 200


def test_sighup_without_a_file(start: Callable[..., GreyNode]) -> None:
    node = start()
    os.kill(node.process.pid, signal.SIGHUP)
    wait_until(lambda: "started without a file (--config)" in node.log, "the log to say so")
    assert node.request("GET", "/v2/health/ready").status == 200


def test_flags_win_after_a_sighup_too(start: Callable[..., GreyNode]) -> None:
    r = Reloading(start, "drain_seconds: 5\n", "--drain-seconds", "7", "--log", "info")
    told = r.again("drain_seconds: 6\nlog: error\n")
    assert "settings changed: 0, waiting for a restart: 0" in told


def test_proofs_stay_true_when_batch_sizes_change(start: Callable[..., GreyNode], models: Path) -> None:
    """Requests that are proven all the while, and verified afterwards by the operator's own replay."""
    r = Reloading(start, "batching:\n  max_batch_size: 8\n")
    node = r.node
    node.add("mlp", models / "mlp.onnx")
    tested = lambda: node.show("mlp")["proofs"]["self_test"]  # noqa: E731
    wait_until(lambda: "not ended" not in tested(), "the first self-test")
    before = node.show("mlp")["proofs"]
    answers: list[Any] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answers.append(node.infer("mlp", PROVEN))

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    for size in (16, 2, 32, 8):
        r.again(f"batching:\n  max_batch_size: {size}\n")
        wait_until(lambda: not node.show("mlp")["proofs"]["alone"], f"the self-test of batches of {size}")
        assert max(node.show("mlp")["batching"]["buckets"]) == size
    stop.set()
    for asker in askers:
        asker.join()
    assert answers
    assert {a.status for a in answers} == {200}
    assert all(a.json["parameters"]["grey_proof"] for a in answers)
    assert node.show("mlp")["proofs"]["class"] == before["class"]
    for answer in answers[:: max(1, len(answers) // 8)]:
        body = BODY | {"parameters": {"grey_proof": answer.json["parameters"]["grey_proof"]}}
        replayed = node.request("POST", "/grey/v1/replay", json.dumps(body))
        assert replayed.status == 200, replayed.body
        assert replayed.json["result"] == "reproduced", replayed.body


def test_a_batch_under_way_ends_as_it_began(start: Callable[..., GreyNode], models: Path) -> None:
    r = Reloading(start, "models:\n  spin: {batch_axis: none}\n")
    node = r.node
    node.add("spin", models / "spin.onnx")
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(node.infer("spin", spin(300_000)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: (gauge(node, "grey_ai_queue_rows", model="spin") or 0) > 0, "requests that wait")
    r.again("limits:\n  queue_rows_max: 1\nmodels:\n  spin: {batch_axis: none}\n")
    for thread in threads:
        thread.join()
    assert [a.status for a in answers] == [200] * 3, "what waits stays, though it would be refused now"


def test_a_pipe_in_the_file_s_place_holds_nothing_up(start: Any, tmp_path: Path) -> None:
    node = start(config="batching: {max_batch_size: 8}\n")
    path = tmp_path / "data.yaml"
    path.unlink()
    os.mkfifo(path)
    node.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "is no file that can be read again" in node.log_path.read_text(), "SIGHUP is answered")
    path.unlink()
    path.write_text("batching: {max_batch_size: 4}\n")
    node.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "batching.max_batch_size: 4, was 8" in node.log_path.read_text(), "the file is read again")
    assert node.stop() == 0


def test_empty_variables_are_none(tmp_path: Path) -> None:
    grey("config", "show", env={"GREY_CONFIG": "", "GREY_URL": ""})
