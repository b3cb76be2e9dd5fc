"""The README's tour, word for word, as a newcomer would type it; and every line with curl in the documents.

The port alone is another one: 8000 may be taken. curl is told by its own configuration, `grey` by its environment,
and in Python the address is replaced.
"""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import GreyNode
from support.console import Shell, Step, fenced, steps

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
ADDRESS = "127.0.0.1:8000"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def home(folder: Path, netloc: str) -> dict[str, str]:
    """The environment of somebody who starts from nothing, but for what builds and installs."""
    real = Path.home()
    (folder / ".curlrc").write_text(
        f'connect-to = "localhost:8000:{netloc}"\nconnect-to = "{ADDRESS}:{netloc}"\nfail\n'
    )
    return {
        "HOME": str(folder),
        "XDG_DATA_HOME": "",
        "GREY_HTTP": netloc,
        "GREY_URL": f"http://{netloc}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CARGO_HOME": os.environ.get("CARGO_HOME", str(real / ".cargo")),
        "RUSTUP_HOME": os.environ.get("RUSTUP_HOME", str(real / ".rustup")),
        "PIP_CONFIG_FILE": os.environ.get("PIP_CONFIG_FILE", str(real / ".config/pip/pip.conf")),
        "PIP_CACHE_DIR": os.environ.get("PIP_CACHE_DIR", str(real / ".cache/pip")),
    }


def tour(netloc: str) -> Iterator[Step]:
    for language, line, text in fenced(README, "console", "python"):
        if language == "console":
            yield from steps(text.replace(f"http://{ADDRESS}", f"http://{netloc}"), line)
        else:
            program = text.replace(ADDRESS, netloc)
            yield Step(line, f"python - <<'END'\n{program}END")


def test_the_tour_runs_as_it_stands(tmp_path: Path) -> None:
    netloc = f"127.0.0.1:{free_port()}"
    shell = Shell(ROOT, home(tmp_path, netloc))
    try:
        commands = list(tour(netloc))
        assert len(commands) > 15
        for step in commands:
            shell.run(step)
    finally:
        # If a line failed, the node is still there.
        shell.end_jobs()
        shell.close()


def curl_lines() -> list[tuple[Path, Step]]:
    found = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        for _, line, text in fenced(page, "console", "sh", "bash"):
            for step in steps(text, line) or [Step(line + i, t) for i, t in enumerate(text.splitlines())]:
                if re.match(r"curl\b", step.command):
                    found.append((page, step))
    return found


def test_curl_in_the_documents_runs_as_it_stands(tmp_path: Path, models: Path) -> None:
    """Against a node that has the model `digits` of the documents."""
    import subprocess

    subprocess.run([sys.executable, str(ROOT / "demo/digits.py"), str(tmp_path)], check=True)
    node = GreyNode(tmp_path / "data")
    shell = Shell(tmp_path, home(tmp_path, node.netloc))
    try:
        node.add("digits", tmp_path / "digits.onnx")
        lines = curl_lines()
        assert lines, "the documents show no curl"
        for _, step in lines:
            shell.run(step)
    finally:
        shell.close()
        node.kill()


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda p: p.name)
def test_documents_name_no_other_address(page: Path) -> None:
    """What curl's configuration here does not redirect would leave this machine."""
    for address in re.findall(r"curl[^\n]* (?:https?://)?([\w.\-]+:\d+)", page.read_text()):
        assert address in {ADDRESS, "localhost:8000"}, address
