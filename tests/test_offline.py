"""Verbs on a data folder that no node uses, and beside one that does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 8], "data": [1.0] * 8}]}


def grey(*arguments: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "grey", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | env)
    assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def test_a_folder_is_filled_before_a_node_runs(start: Any, models: Path, tmp_path: Path) -> None:
    data, example = tmp_path / "data", tmp_path / "x.json"
    example.write_text(json.dumps(BODY))
    at = ("--data", str(data))
    added = grey("model", "add", "m", str(models / "mlp.onnx"), "--label", "a", "--example", str(example), *at)
    assert added.stdout.startswith("m version 1 registered as a (sha256-file:")
    assert "registered\n" in added.stdout
    assert added.stderr.startswith("note: nothing is loaded without a running node")
    quiet = grey("model", *at, "add", "m", str(models / "simple.onnx"), "--no-load", "--metadata", "k=v")
    assert quiet.stderr == ""
    grey("model", "add", "gone", str(models / "gather.onnx"), *at)
    assert grey("model", "remove", "gone", *at).stdout == "gone is removed\n"
    assert (
        "was removed" in grey("model", "add", "gone", str(models / "gather.onnx"), "--version", "1", *at, code=1).stderr
    )
    grey("model", "label", "m", "b", "--version", "2", *at)
    listed = json.loads(grey("--json", "model", "list", *at).stdout)
    assert [(m["version"], m["labels"], m["state"]) for m in listed] == [
        ("1", ["a"], "registered"),
        ("2", ["b", "latest"], "registered"),
    ]
    assert "metadata   k = v" in grey("model", "show", "m", *at).stdout
    assert "on the example" in grey("model", "validate", "m", "--version", "a", *at).stdout
    [engine] = json.loads(grey("--json", "engine", "list", *at).stdout)
    assert engine["usable"]
    for verb in ["load", "unload"]:
        refused = grey("model", verb, "m", *at, code=2)
        assert f"{verb} needs a running node" in refused.stderr
        assert "hint: start one with: grey serve" in refused.stderr
    # No keys and sessions of a node were made on the way.
    assert not (data / "node.key").exists()
    assert not (data / "sessions").exists()
    # The same as a running node tells, and it serves what was added.
    node = start()
    assert node.cli_json("model", "list") == listed
    assert node.infer("m/versions/a", BODY).status == 200


def test_a_folder_in_use_names_its_node(start: Any, models: Path) -> None:
    node = start()
    at = ("--data", str(node.data))
    for arguments in [("list",), ("show", "m"), ("add", "m", str(models / "mlp.onnx")), ("remove", "m")]:
        refused = grey("model", *arguments, *at, code=1).stderr
        assert f"is in use by another node (process {node.process.pid}, {node.url})" in refused
        assert f"hint: talk to that node: leave --data out, and say --url {node.url}" in refused
    second = grey("serve", "--http", "127.0.0.1:0", *at, code=1).stderr
    assert f"(process {node.process.pid}, {node.url}); give each node its own" in second


def test_url_and_data_are_not_mixed(tmp_path: Path, models: Path) -> None:
    at = ("--data", str(tmp_path / "d"))
    both = grey("--url", "http://127.0.0.1:1", "model", "list", *at, code=2).stderr
    assert "--url and --data exclude each other" in both
    assert "hint: --url talks to a running node" in both
    # What the environment says is a default.
    grey("model", "add", "m", str(models / "mlp.onnx"), *at, GREY_URL="http://127.0.0.1:1")
    missing = grey("model", "list", "--data", str(tmp_path / "typo"), code=1).stderr
    assert "typo is no data folder of a node" in missing
    assert not (tmp_path / "typo").exists()
    (tmp_path / "file").write_text("x")
    grey("model", "add", "m", str(models / "mlp.onnx"), "--data", str(tmp_path / "file"), code=1)
