"""The Python clients of other servers, against a real node. They run in an environment of their own: see
`requirements-compat.txt`, which `make test` installs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from conftest import GreyNode

ROOT = Path(__file__).parent.parent
PYTHON = ROOT / ".venv-compat" / "bin" / "python"


@pytest.mark.parametrize("client", ["mlserver", "kserve"])
def test_client(node: GreyNode, client: str) -> None:
    folder = ROOT / "tests" / "compat"
    assert PYTHON.exists(), f"{PYTHON} is not there: make .venv-compat/.done"
    command = [str(PYTHON), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    # No conftest and no settings of the tests around it, whose packages are not there.
    command += ["--confcutdir", str(folder), "-c", os.devnull, str(folder / f"with_{client}.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"GREY_URL": node.url})
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
