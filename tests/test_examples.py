"""Every example, run as its first lines say, in a folder of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import GreyNode
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent.parent / "examples"
LINES_MAX = 60
# Of one cell of the notebook.
CELL_WAIT_S = 60


def run(name: str, folder: Path, *args: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *args]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def code_of(file: Path) -> str:
    if file.suffix != ".ipynb":
        return file.read_text()
    return "\n".join(cell.source for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code")


def test_each_is_short_and_told_of() -> None:
    readme = (EXAMPLES / "README.md").read_text()
    files = [f for f in EXAMPLES.iterdir() if f.suffix in {".py", ".ipynb"}]
    assert len(files) >= 5
    for file in files:
        assert len(code_of(file).splitlines()) < LINES_MAX, file
        assert f"| `{file.name}` |" in readme


def test_classifier(tmp_path: Path, start: Any) -> None:
    node: GreyNode = start()
    out = run("classifier.py", tmp_path, node.url)
    assert "digits version 1 is ready" in out
    right, of = map(int, re.search(r"(\d+) of (\d+) images are recognised", out).groups())  # type: ignore[union-attr]
    assert of == 450
    assert right > 0.95 * of
    assert "expected [-1, 64], got [450, 8]" in out


def test_batching(tmp_path: Path) -> None:
    header, *rows = run("batching.py", tmp_path).splitlines()
    assert header.split() == ["hold", "callers", "rows", "per", "run", "calls/s", "median", "call"]
    rows_per_run = {(row.split()[0], int(row.split()[1])): float(row.split()[2]) for row in rows}
    assert list(rows_per_run) == [(hold, callers) for hold in ["none", "fill"] for callers in [1, 8, 64]]
    for hold in ["none", "fill"]:
        assert rows_per_run[hold, 1] == 1, "a lonely caller fills no batch"
        assert 1 < rows_per_run[hold, 64] <= 32
    # Eight callers are waited for, where nobody else can come.
    assert rows_per_run["fill", 8] > 2
    assert rows_per_run["fill", 64] > 8


def test_proofs(tmp_path: Path) -> None:
    out = run("proofs.py", tmp_path)
    assert re.search(r"^valid$", out, re.MULTILINE), out
    _, _, changed = out.partition("with something changed:\n")
    refused = dict(re.findall(r"^  (.{25}) not valid: (\S+):", changed, re.MULTILINE))
    assert {k.strip(): v for k, v in refused.items()} == {
        "another model": "model-hash",
        "another image": "input-hash",
        "another answer": "output-hash",
        "another question's nonce": "nonce",
        "another node": "measurement",
    }
    assert (tmp_path / "answer.proof").stat().st_size > 100


def test_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(EXAMPLES / "embedded.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "kept without outputs"
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    done = NotebookClient(notebook, timeout=CELL_WAIT_S, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(o.text for cell in done.cells for o in cell.get("outputs", []) if o.output_type == "stream")
    assert float(re.search(r"([\d.]+)% of 450 images", printed)[1]) > 95  # type: ignore[index]
    assert re.search(r"^valid$", printed, re.MULTILINE), printed
    assert "expected [-1, 64], got [1, 65]" in printed
    assert os.listdir(tmp_path) == ["digits.onnx"]
