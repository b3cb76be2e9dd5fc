"""Runtimes from PyPI into the environment that Grey manages, and what `grey doctor` says."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python environment with Grey and without any runtime."""
    root = tmp_path_factory.mktemp("bare")
    venv.create(root, with_pip=False, symlinks=True)
    packages = root / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    site = Path(sysconfig.get_paths()["purelib"])
    # Of Grey's own package only the part that the command needs.
    (packages / "grey").symlink_to(site / "grey")
    for needed in ["numpy", "numpy.libs"]:
        if (site / needed).exists():
            (packages / needed).symlink_to(site / needed)
    return root / "bin" / "python"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's data directory."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def run(bare: Path, home: Path) -> Run:
    def grey(*arguments: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        inherited = {k: v for k, v in os.environ.items() if k not in {"VIRTUAL_ENV", "CONDA_PREFIX", "GREY_URL"}}
        done = subprocess.run(
            [str(bare), "-m", "grey", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=inherited | {"XDG_DATA_HOME": str(home)} | env,
        )
        assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return grey


def named(checks: list[dict[str, Any]], name: str) -> dict[str, Any]:
    [check] = [c for c in checks if c["name"] == name]
    return check


def test_install_use_and_remove(run: Run, home: Path, models: Path, tmp_path: Path) -> None:
    """The real package, from the index that pip is set up for."""
    before = run("doctor", "--http", "127.0.0.1:0", "--data", str(tmp_path / "d"), code=1).stdout
    assert "a node cannot serve models here: onnxruntime" in before
    assert "→ " in before
    missing = run("model", "validate", str(models / "mlp.onnx"), code=1).stderr
    assert "no ONNX Runtime was found" in missing

    done = run("engine", "install", "onnxruntime==1.32.0")
    assert done.stdout == "onnxruntime 1.32.0 is installed, and models run on it\n"
    assert "making an environment with Python" in done.stderr
    assert "installing onnxruntime==1.32.0 into" in done.stderr
    again = json.loads(run("--json", "engine", "install", "onnxruntime").stdout)
    assert [(e["engine"], e["version"], e["usable"]) for e in again] == [("onnxruntime", "1.32.0", True)]

    data = ("--data", str(tmp_path / "d"))
    assert "valid" in run("model", "validate", str(models / "mlp.onnx")).stdout
    run("model", "add", "m", str(models / "mlp.onnx"), *data)
    [engine] = json.loads(run("--json", "engine", "list", *data).stdout)
    assert (engine["usable"], engine["source"], engine["version"]) == (True, "managed", "1.32.0")
    assert engine["library"].startswith(str(home / "grey" / "venv"))
    doctor = json.loads(run("--json", "doctor", "--http", "127.0.0.1:0", *data).stdout)
    assert doctor["serves"], doctor
    assert named(doctor["checks"], "onnxruntime")["status"] == "ok"

    assert run("engine", "remove", "onnxruntime").stdout == "onnxruntime is removed\n"
    gone = run("engine", "remove", "onnxruntime", code=1).stderr
    assert "is not installed" in gone
    [engine] = json.loads(run("--json", "engine", "list", *data).stdout)
    assert not engine["usable"]
    assert engine["install"] == "grey engine install onnxruntime"


def test_engines_without_adapter_install_and_say_so(run: Run, home: Path, tmp_path: Path) -> None:
    done = run("engine", "install", "litert")
    assert "is installed; this version of Grey has no adapter for litert yet, so no model runs on it" in done.stdout
    (tmp_path / "d").mkdir()
    data = ("--data", str(tmp_path / "new"))
    run("model", "list", *data, code=1)
    doctor = json.loads(run("--json", "doctor", "--http", "127.0.0.1:0", *data, code=1).stdout)
    litert = named(doctor["checks"], "litert")
    assert litert["status"] == "warning"
    assert "no adapter" in litert["found"]


def test_what_cannot_be_installed(run: Run, tmp_path: Path) -> None:
    unknown = run("engine", "install", "onnxrutime", code=2).stderr
    assert "unknown engine, expected onnxruntime, torch, tensorflow, litert; did you mean 'onnxruntime'?" in unknown
    assert "is no version" in run("engine", "install", "torch==1 --pre", code=2).stderr
    elsewhere = {"XDG_DATA_HOME": str(tmp_path)}
    # A port that nobody listens on.
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        index = f"http://127.0.0.1:{s.getsockname()[1]}/simple"
    away = run(
        "engine", "install", "onnxruntime", code=1, PIP_INDEX_URL=index, PIP_EXTRA_INDEX_URL="", PIP_FIND_LINKS="",
        **elsewhere,
    )  # fmt: skip
    assert "error: pip cannot install onnxruntime: " in away.stderr
    assert "hint: pip takes its index and proxies from PIP_INDEX_URL" in away.stderr
    none = run("engine", "install", "onnxruntime==0.0.7", code=1, **elsewhere).stderr
    assert "pip cannot install onnxruntime==0.0.7: " in none
    assert "onnxruntime==0.0.7" in none
    assert "does not run as a Python" in run(
        "engine", "install", "torch", "--python", "/bin/false", code=1, XDG_DATA_HOME=str(tmp_path / "b")
    ).stderr  # fmt: skip
    (tmp_path / "file").write_text("x")
    blocked = run("engine", "install", "torch", code=1, XDG_DATA_HOME=str(tmp_path / "file"))
    assert "cannot make" in blocked.stderr


def test_a_python_that_makes_no_environments(run: Run, tmp_path: Path) -> None:
    """As Debian's without its package python3-venv."""
    venv.create(tmp_path / "debian", with_pip=False, symlinks=True)
    [packages] = (tmp_path / "debian" / "lib").glob("python3*/site-packages")
    (packages / "sitecustomize.py").write_text("import sys\nsys.modules['ensurepip'] = None\n")
    python = str(tmp_path / "debian" / "bin" / "python")
    refused = run("engine", "install", "torch", "--python", python, code=1, XDG_DATA_HOME=str(tmp_path)).stderr
    assert "cannot make environments: its modules venv and ensurepip are not there" in refused
    assert "hint: on Debian and Ubuntu: apt install python3-venv" in refused
    assert not (tmp_path / "grey" / "venv").exists()


def test_doctor_beside_a_node(start: Any, run: Run) -> None:
    node = start()
    http = node.netloc
    told = node.cli("doctor", "--data", str(node.data), "--http", http).stdout
    assert f"in use by another node (process {node.process.pid}, {node.url})" in told
    assert f" runs at {http}" in told
    assert told.endswith("\na node can serve models here\n")
    doctor = node.cli_json("doctor", "--data", str(node.data), "--http", http)
    for name in ["memfd seals", "pidfd", "no_new_privs", "limits", "SOFTWARE", "open files"]:
        assert named(doctor["checks"], name)["status"] in {"ok", "warning"}, name
    assert set(doctor["checks"][0]) == {"group", "name", "status", "found", "fix", "needed"}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        other = f"127.0.0.1:{taken.getsockname()[1]}"
        check = named(node.cli_json("doctor", "--data", str(node.data), "--http", other)["checks"], "address")
        assert check["status"] == "warning"
        assert "listen elsewhere" in check["fix"]
    assert "is no address" in node.cli("doctor", "--http", "nonsense", code=1).stdout
