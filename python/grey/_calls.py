"""What calls to a node share, be it in this process or far away."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grey import _native
from grey.errors import InvalidArgument


async def outcome(started: tuple[Any, _native.Call]) -> Any:
    """What a started call gives. If whoever waits is cancelled, so is the call."""
    future, call = started
    try:
        return await future
    except asyncio.CancelledError:
        call.cancel()
        raise


def texts(metadata: Mapping[str, Any] | None) -> dict[str, str]:
    """Metadata as texts: what is none becomes JSON."""
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in (metadata or {}).items()}


class TimeLeft:
    """What is left of a call's time."""

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else time.monotonic() + timeout

    def __call__(self) -> float | None:
        return None if self._end is None else max(0.0, self._end - time.monotonic())


def names(what: str, given: Sequence[str] | None) -> list[str]:
    """Several names; one alone is a mistake, not its letters."""
    if isinstance(given, (str, bytes)):
        raise InvalidArgument(f"{what}: expected a list of names, found one name alone: {given!r:.80}")
    return list(given or ())


def paths(files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The files of a model: one, several, or the folder that holds them."""
    return [Path(p) for p in ([files] if isinstance(files, (str, os.PathLike)) else files)]
