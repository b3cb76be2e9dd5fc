"""Every wrong word, flag, file and address that a new user would type, and what they are told.

The sessions stand in `wrong_usage.console`, for people to read; `GREY_RENEW=1 pytest tests/test_wrong_usage.py`
writes what the commands say now into it, and `git diff` shows what changed.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import GreyNode
from onnx import TensorProto, helper
from PIL import Image
from support.console import PROMPT

PAGE = Path(__file__).parent / "wrong_usage.console"
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 8], "data": [1] * 8}]}
PAGE_OF_ANOTHER = b"<html>It works!</html>"


class Odd:
    """Servers that are none of a node's: each answers a connection in its own way, or not at all."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.held: list[socket.socket] = []

    def listen(self, answer: bytes | None, *, slowly: bool = False) -> str:
        """A server that answers these bytes and closes; without any it says nothing and keeps the connection."""
        listener = socket.create_server(("127.0.0.1", 0))
        self.sockets.append(listener)
        threading.Thread(target=self._serve, args=(listener, answer, slowly), daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    def _serve(self, listener: socket.socket, answer: bytes | None, slowly: bool) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # the test is over
                return
            if answer is None:
                self.held.append(connection)
                continue
            connection.recv(65536)
            connection.sendall(answer)
            if slowly:
                # The rest never comes.
                self.held.append(connection)
            else:
                connection.close()

    def full(self) -> str:
        """An address whose connections are never taken: its queue is full, and more are dropped."""
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        self.sockets.append(listener)
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
            self.held.append(client)
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    def close(self) -> None:
        for each in self.sockets + self.held:
            each.close()


def http(body: bytes, kind: str = "application/json", length: int | None = None) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length or len(body)}\r\n\r\n"
    return head.encode() + body


def image_model(path: Path) -> None:
    """Takes pictures of 8 by 8 pixels."""
    shape = ["N", 3, 8, 8]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["same"])],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("same", TensorProto.FLOAT, shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def write_files(folder: Path) -> None:
    x = np.arange(8, dtype=np.float32).reshape(1, 8)
    np.save(folder / "x.npy", x)
    np.save(folder / "float64.npy", x.astype(np.float64))
    np.save(folder / "objects.npy", np.array([{}], dtype=object))
    np.save(folder / "complex.npy", x.astype(np.complex64))
    np.save(folder / "structured.npy", np.zeros(1, dtype=[("a", np.float32)]))
    np.save(folder / "seven.npy", x[:, :7])
    np.savez(folder / "other_names.npz", pixels=x)
    (folder / "short.npy").write_bytes((folder / "x.npy").read_bytes()[:-1])
    (folder / "empty.npy").write_bytes(b"")
    (folder / "text.npz").write_text("no zip")
    (folder / "x.pt").write_bytes(b"\x80\x04")
    (folder / "x.gif").write_bytes(b"GIF89a")
    Image.new("RGB", (4, 2), (255, 0, 0)).save(folder / "red.png")
    (folder / "cut.png").write_bytes((folder / "red.png").read_bytes()[:40])
    (folder / "x.json").write_text(json.dumps(BODY))
    (folder / "broken.json").write_text(json.dumps(BODY)[:-2])
    (folder / "list.json").write_text("[1, 2, 3]")
    (folder / "latin1.json").write_bytes("{'é'}".encode("latin-1"))
    (folder / "wrong_name.json").write_text(json.dumps(BODY).replace('"x"', '"pixels"'))
    (folder / "wrong_type.json").write_text(json.dumps(BODY).replace("FP32", "float32"))
    (folder / "nothing").write_bytes(b"")
    (folder / "no.onnx").write_text("this is no model")
    (folder / "a folder").mkdir()
    (folder / "unknown_key.yaml").write_text("http: 127.0.0.1:0\nlimitz:\n  body_bytes_max: 1\n")
    (folder / "wrong_type.yaml").write_text("drain_seconds: soon\n")
    (folder / "salt").write_bytes(b"short")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder with files that are wrong, a node, and servers that are none."""
    folder = tmp_path_factory.mktemp("session")
    write_files(folder)
    image_model(folder / "pictures.onnx")
    node = GreyNode(tmp_path_factory.mktemp("node") / "data")
    odd = Odd()
    try:
        node.add("mlp", models / "mlp.onnx")
        node.add("simple", models / "simple.onnx", probed=False)
        node.add("pictures", folder / "pictures.onnx", probed=False)
        node.cli("model", "add", "unloaded", str(models / "mlp.onnx"))
        node.cli("model", "unload", "unloaded")
        env = {
            "GREY_URL": node.url,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "COLUMNS": "100",
            "SILENT": odd.listen(None),
            "HANGS_UP": odd.listen(b""),
            "NO_HTTP": odd.listen(b"SSH-2.0-OpenSSH_10.0\r\n"),
            "WEB_PAGE": odd.listen(http(PAGE_OF_ANOTHER, "text/html")),
            "OTHER_JSON": odd.listen(http(b'{"name": "another server"}')),
            "CUT": odd.listen(http(b'{"models": [', length=100)),
            "SLOW": odd.listen(http(b'{"models": [', length=100), slowly=True),
            "FULL": odd.full(),
        }
        yield folder, env
    finally:
        node.kill()
        odd.close()


def settled(text: str, folder: Path, env: dict[str, str]) -> str:
    """The text without what differs from run to run."""
    for name, value in env.items():
        if value.startswith("http://"):
            text = text.replace(value, f"${name}").replace(value.removeprefix("http://"), f"${name}")
    text = text.replace(str(folder), ".")
    # What a node logs meanwhile.
    text = re.sub(r"(?m)^\d{4}-\d\d-\d\dT\S+ .*\n", "", text)
    text = re.sub(r"\b[0-9a-f]{64}\b", "HEX", text)
    return re.sub(r"failed to lookup address information: .*", "failed to lookup address information: …", text)


def said(command: str, folder: Path, env: dict[str, str]) -> str:
    """What a command prints, as the page shows it: `| ` before lines of standard output."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=os.environ | env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    out = "".join(f"| {line}\n" for line in done.stdout.splitlines())
    return settled(f"{out}{done.stderr.rstrip()}\n", folder, env).lstrip("\n") + f"exit {done.returncode}\n"


def test_every_mistake_is_answered_as_the_page_shows(session: tuple[Path, dict[str, str]]) -> None:
    folder, env = session
    made = ""
    for block in re.split(r"(?m)^(?=\$ |# )", PAGE.read_text()):
        if not block.startswith(PROMPT):
            made += block
            continue
        command = block.splitlines()[0].removeprefix(PROMPT)
        made += f"{PROMPT}{command}\n{said(command, folder, env)}\n"
    made = made.rstrip("\n") + "\n"
    if os.environ.get("GREY_RENEW"):
        PAGE.write_text(made)
    assert made.splitlines() == PAGE.read_text().splitlines(), (
        "renew with GREY_RENEW=1 pytest tests/test_wrong_usage.py"
    )


def test_the_page_keeps_its_promises() -> None:
    """Mistakes end with a code that is documented, on standard error, and no program's insides show."""
    blocks = [b for b in re.split(r"(?m)^(?=\$ |# )", PAGE.read_text()) if b.startswith(PROMPT)]
    assert len(blocks) > 100
    for block in blocks:
        lines = block.rstrip().splitlines()
        assert lines[-1] in {"exit 1", "exit 2", "exit 3", "exit 4"}, block
        assert any(line.startswith(("error: ", '{"error":', "Usage: ", "hint: ")) for line in lines), block
        assert "panicked" not in block, block
        assert "Traceback" not in block, block
