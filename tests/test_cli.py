"""The command line against a running node."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import GreyNode

BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 8], "data": [1] * 8}]})


def test_a_model_s_life(start: Any, models: Path) -> None:
    node = start()
    assert "no models" in node.cli("model", "list").stdout
    first = node.cli("model", "add", "m", str(models / "mlp.onnx"), "--metadata", "accuracy=0.97")
    assert first.stdout.startswith("m version 1 registered (sha256-file:")
    assert "is registered already" in node.cli("model", "add", "m", str(models / "mlp.onnx")).stdout
    second = node.add("m", models / "simple.onnx", "--no-load")
    assert (second["version"], second["state"], second["latest"]) == ("2", "registered", True)
    named = node.cli_json("model", "add", "m", str(models / "mlp.onnx"), "--version", "beta", "--no-load")
    assert named["version"] == "beta"
    taken = node.cli("model", "add", "m", str(models / "simple.onnx"), "--version", "beta", code=1)
    assert "immutable" in taken.stderr
    table = node.cli("model", "list").stdout.splitlines()
    assert [line.split()[:2] for line in table[1:]] == [["m", "1"], ["m", "2"], ["m", "beta"]]
    shown = node.cli("model", "show", "m", "--version", "1").stdout
    for part in ["sha256-file:", "onnxruntime", "x FP32", "accuracy = 0.97", "ready"]:
        assert part in shown, shown
    answer = json.loads(node.cli("--json", "infer", "m", "--version", "1", "--input", "-", stdin=BODY).stdout)
    assert abs(sum(answer["outputs"][0]["data"]) - 1) < 1e-5
    node.cli("model", "remove", "m", "--version", "1")
    assert node.cli("model", "show", "m", "--version", "1", code=1).stderr.startswith("error: ")
    node.cli("model", "remove", "m")
    assert "no models" in node.cli("model", "list").stdout


def test_errors_say_what_to_do(node: GreyNode, tmp_path: Path) -> None:
    unknown = node.cli("model", "show", "mlpp", code=1)
    assert "hint: did you mean 'mlp'?" in unknown.stderr
    assert "cannot read" in node.cli("model", "add", "m", str(tmp_path / "none.onnx"), code=1).stderr
    node.cli("model", "add", "../m", str(tmp_path / "none.onnx"), code=2)
    node.cli("nonsense", code=2)
    away = subprocess.run(
        [sys.executable, "-m", "grey", "--url", "http://127.0.0.1:1", "model", "list"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert away.returncode == 3
    assert "hint: is a node running? start one with: grey serve" in away.stderr


def test_engine_list(node: GreyNode) -> None:
    [engine] = node.cli_json("engine", "list")
    assert engine["usable"]
    assert engine["source"] == "virtualenv"
    assert engine["library"].endswith(f"libonnxruntime.so.{engine['version']}")
    for layer in ["no_new_privs", "not_dumpable", "descriptors"]:
        assert engine["containment"][layer] == "yes"
    assert engine["containment"]["limits"].startswith("yes (private memory ")
    assert "landlock" in node.cli("engine", "list").stdout


def offline(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "grey", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_shells_complete_verbs_and_flags() -> None:
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"]:
        done = offline("completions", shell)
        assert done.returncode == 0
        assert "bench" in done.stdout
    script = offline("completions", "bash").stdout
    for typed, word, expected in [("grey mod", "mod", "model"), ("grey infer --sav", "--sav", "--save-input")]:
        words = typed.split()
        ask = f"COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; _grey grey '{word}' '{words[-2]}'"
        done = subprocess.run(
            ["bash", "-c", f"{script}\n{ask}; echo ${{COMPREPLY[@]}}"], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [expected]


def test_colour_is_for_terminals_or_on_demand() -> None:
    assert "\x1b" not in offline("nonsense").stderr
    assert offline("--color", "always", "nonsense").stderr.startswith("\x1b[1;31merror:\x1b[0m unrecognized")
    assert "\x1b" in offline("--color", "always", "--help").stdout
    assert "\x1b" not in offline("--color", "never", "--help").stdout
