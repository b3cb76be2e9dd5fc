"""The examples of docs/python.md run as they stand."""

from __future__ import annotations

import base64
import re
import time
from pathlib import Path
from typing import Any

import grey
import proof_vectors as vectors
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    good = vectors.good()
    (tmp_path / "answer.proof").write_bytes(good.bundle)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "time", lambda: float(good.now))
    # What the page says that its reader has.
    reader: dict[str, Any] = {
        "node_key": good.policy["software_keys"][0],
        "model_hash": grey.InferenceProof.from_bundle(good.bundle).model_hash,
        "inputs": [t | {"data": base64.b64decode(t["data"])} for t in good.known["inputs"]],
        "outputs": good.known["outputs"],
    }
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        line = PAGE.read_text()[: PAGE.read_text().index(block)].count("\n")
        exec(compile("\n" * line + block, str(PAGE), "exec"), reader)
    printed = capsys.readouterr().out
    assert "not valid: measurement: " in printed
    assert "policy/software_keys/0: expected 32 bytes in hex, found '12ab'" in printed
    assert '{"platform": "SOFTWARE", "measurement": "' in printed
