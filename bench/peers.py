"""What Grey is compared with: a bare server that echoes, FastAPI, and ONNX Runtime alone."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
START_WAIT_S = 30.0
# Batches that are already assembled, and processes with threads each, of which the best counts.
RAW_ROWS = (1, 8, 32)
RAW_PROCESSES = ((1, 2), (2, 1))


class Echo:
    """`grey-bench echo`."""

    def __init__(self, program: str) -> None:
        self.process = subprocess.Popen([program, "echo"], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        if not self.address:
            raise SystemExit("the echo server did not start")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


class FastApi:
    """uvicorn with uvloop and httptools, two workers with one thread of ONNX Runtime each."""

    def __init__(self, model: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        command = [sys.executable, "-m", "uvicorn", "--app-dir", str(HERE), "fastapi_app:app", "--port", str(port)]
        command += ["--workers", "2", "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
        command += ["--log-level", "warning"]
        self.process = subprocess.Popen(command, env=os.environ | {"BENCH_MODEL": str(model)}, start_new_session=True)
        end = time.monotonic() + START_WAIT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise SystemExit("uvicorn did not start") from None
                time.sleep(0.05)
        time.sleep(1.0)  # the second worker

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(START_WAIT_S)


def raw(model: Path, rows: int, processes: int, threads: int, seconds: float, length: int = 32) -> dict[str, Any]:
    """Rows per second of so many loops at once, and the median time of one run."""
    command = [sys.executable, str(HERE / "raw.py"), str(model), str(rows), str(threads), str(seconds), str(length)]
    loops = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    reports = []
    for loop in loops:
        out, _ = loop.communicate()
        if loop.returncode != 0:
            raise SystemExit("the bare loop failed")
        reports.append(json.loads(out))
    return {
        "rows_per_second": sum(r["rows_per_second"] for r in reports),
        "p50_seconds": max(r["p50_seconds"] for r in reports),
    }


def best_raw(model: Path, seconds: float) -> tuple[int, int, int]:
    """The rows, processes and threads with which the bare loop does most."""
    choices = [(rows, p, t) for rows, (p, t) in itertools.product(RAW_ROWS, RAW_PROCESSES)]
    return max(choices, key=lambda c: raw(model, *c, seconds)["rows_per_second"])
