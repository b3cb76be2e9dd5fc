"""The package itself: what a `pip install` leaves behind."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import grey


def test_version_is_the_same_everywhere() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "grey", "--version"], capture_output=True, text=True, check=True
    ).stdout
    assert printed == f"grey {grey.__version__}\n"
    assert metadata.version("grey") == grey.__version__


def test_the_wheel_is_typed_and_brings_the_command() -> None:
    assert resources.files(grey).joinpath("py.typed").is_file()
    assert resources.files(grey).joinpath("_native.pyi").is_file()
    [script] = metadata.entry_points(group="console_scripts", name="grey")
    assert script.value == "grey.__main__:main"
    # No other executable: hosts are this Python again.
    files = metadata.files("grey") or []
    programs = [p for f in files if (p := Path(str(f.locate())).resolve()).parent == Path(sys.executable).parent]
    assert [p.name for p in programs] == ["grey"]


def test_the_stub_is_the_native_module(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "grey._native"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_host_outside_a_node_says_what_it_is() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "grey.host"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "engine host" in done.stderr
