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


def test_a_user_s_program_is_type_checked(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        """
import grey

async def main() -> None:
    async with grey.AsyncClient("http://localhost:8000") as client:
        result = await client.infer("m", {"x": [1]}, verify=grey.Policy(software_keys="any"))
        reveal_type(result)
        reveal_type(result["y"])
with grey.Client("http://localhost:8000", timeout=1) as client:
    reveal_type(client.models())
    client.infer("m", [1], timeout="soon")
"""
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    revealed = [
        line.partition("Revealed type is ")[2].strip('"') for line in done.stdout.splitlines() if "Reveal" in line
    ]
    assert revealed[0] == "grey.results.InferResult", done.stdout
    assert revealed[1].startswith("numpy.ndarray[")
    assert revealed[2].removeprefix("builtins.") == "list[grey.results.ModelStatus]"
    [error] = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert 'incompatible type "str"; expected "float | None"' in error


def test_a_host_outside_a_node_says_what_it_is() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "grey.host"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "engine host" in done.stderr
