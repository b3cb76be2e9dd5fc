"""Processes that stop, disks that fill, folders that nobody can write: nothing is lost, and each refusal says why."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import GreyNode, alive, busy, gauge, in_background, spin, wait_until
from support.proofs import tensor

AS_ROOT = [] if os.geteuid() == 0 else ["sudo", "-n"]


def row(i: int) -> dict[str, Any]:
    return {"inputs": [tensor("x", np.full((1, 8), i, np.float32))]}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = f"size=2m,uid={os.getuid()},mode=700"
    subprocess.run([*AS_ROOT, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run([*AS_ROOT, "umount", "--lazy", str(folder)], check=True)


def test_a_host_that_stands_still_for_a_while_answers(start: Callable[..., GreyNode], models: Path) -> None:
    node = start(config="run_timeout_ms: 600000\n")
    node.add("spin", models / "spin.onnx")
    [host] = node.host_pids("spin")
    thread, result = in_background(lambda: node.infer("spin", spin(1_000_000)))
    busy(node, "spin")
    os.kill(host, signal.SIGSTOP)
    time.sleep(0.5)
    assert not result
    os.kill(host, signal.SIGCONT)
    thread.join()
    assert result[0].json["outputs"][0]["data"] == [1_000_000]
    assert node.host_pids("spin") == [host]


def test_a_host_that_stands_still_for_too_long_is_ended(start: Callable[..., GreyNode], models: Path) -> None:
    # Without a self-test, whose run would stand still instead.
    node = start(config="run_timeout_ms: 1000\nmodels:\n  mlp: {proofs: off}\n")
    node.add("mlp", models / "mlp.onnx")
    expected = node.infer("mlp", row(2)).json["outputs"][0]["data"]
    [host] = node.host_pids("mlp")
    os.kill(host, signal.SIGSTOP)
    # Who stopped it is not the request: that is run again, on the next host.
    assert node.infer("mlp", row(2)).json["outputs"][0]["data"] == expected
    assert not alive(host)
    assert gauge(node, "grey_ai_quarantined_total", model="mlp") == 0


def test_a_node_that_stands_still_answers_when_it_goes_on(start: Callable[..., GreyNode], models: Path) -> None:
    node = start()
    node.add("mlp", models / "mlp.onnx")
    expected = [node.infer("mlp", row(i)).json["outputs"][0]["data"] for i in range(8)]
    hosts = node.host_pids("mlp")
    os.kill(node.process.pid, signal.SIGSTOP)
    calls = [in_background(lambda i=i: node.infer("mlp", row(i))) for i in range(8)]
    time.sleep(0.5)
    assert not any(result for _, result in calls)
    os.kill(node.process.pid, signal.SIGCONT)
    for (thread, result), right in zip(calls, expected, strict=True):
        thread.join()
        assert result[0].status == 200, result[0].body
        np.testing.assert_allclose(result[0].json["outputs"][0]["data"], right, rtol=1e-5)
    assert node.host_pids("mlp") == hosts


@pytest.mark.mounts
def test_a_full_disk_refuses_a_model_and_serves_on(
    start: Callable[..., GreyNode], models: Path, small_disk: Path, tmp_path: Path
) -> None:
    node = start(str(small_disk / "data"))
    node.add("mlp", models / "mlp.onnx")
    large = tmp_path / "large.onnx"
    large.write_bytes(os.urandom(4 << 20))
    refused = node.cli("model", "add", "large", str(large), code=1)
    assert "No space left on device" in refused.stderr, refused.stderr
    names = [m["id"] for m in node.request("GET", "/grey/v1/models").json["models"]]
    assert names == ["mlp"]
    assert node.infer("mlp", row(1)).status == 200
    # What was written of it is gone: a small model finds room again.
    wait_until(lambda: os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize > 1 << 20, "room")
    node.add("gather", models / "gather.onnx")
    assert node.infer("gather", {"inputs": [tensor("ids", np.array([[1, 2]]))]}).status == 200


@pytest.mark.mounts
def test_a_folder_that_cannot_be_written_refuses_changes_and_serves_on(
    start: Callable[..., GreyNode], models: Path, small_disk: Path
) -> None:
    node = start(str(small_disk / "data"))
    node.add("mlp", models / "mlp.onnx")
    # A read-only mount over it, since the node holds its lock file open.
    subprocess.run([*AS_ROOT, "mount", "--bind", str(small_disk), str(small_disk)], check=True)
    subprocess.run([*AS_ROOT, "mount", "-o", "remount,bind,ro", str(small_disk)], check=True)
    refused = node.cli("model", "add", "gather", str(models / "gather.onnx"), code=1)
    assert "Read-only file system" in refused.stderr, refused.stderr
    refused = node.cli("model", "remove", "mlp", code=1)
    assert "Read-only file system" in refused.stderr, refused.stderr
    assert node.infer("mlp", row(1)).status == 200
    # A host that dies is started again, from files that can still be read.
    [host] = node.host_pids("mlp")
    os.kill(host, signal.SIGKILL)
    assert node.infer("mlp", row(2)).status == 200
    subprocess.run([*AS_ROOT, "umount", "--lazy", str(small_disk)], check=True)
    node.add("gather", models / "gather.onnx")
    assert node.infer("gather", {"inputs": [tensor("ids", np.array([[1, 2]]))]}).status == 200


def test_a_request_that_needs_too_much_memory_fails_alone(start: Callable[..., GreyNode], models: Path) -> None:
    """The host's limit is on its private memory; the runtime reports what it does not get."""
    node = start(config="limits: {host_memory_bytes_max: 1000000000}\nmodels:\n  hog: {batch_axis: first}\n")
    node.add("hog", models / "hog.onnx")

    def ask(n: int) -> Any:
        return node.infer("hog", {"inputs": [tensor("n", np.array([[n]]))]})

    calls = [in_background(lambda n=n: ask(n)) for n in [1, 2, 3, 1 << 31, 4, 5, 1 << 32, 6]]
    for n, (thread, result) in zip([1, 2, 3, 1 << 31, 4, 5, 1 << 32, 6], calls, strict=True):
        thread.join()
        if n < 10:
            assert result[0].status == 200, result[0].body
            assert result[0].json["outputs"][0]["data"] == [n]
        else:
            assert result[0].status == 500, result[0].body
    assert ask(7).status == 200
