"""What a call on an embedded node costs the thread of its event loop: `embedded.py MODEL ROUNDS` prints JSON.

Processor time of that thread over `gather` of calls, beside the same of coroutines that do nothing.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable

import grey
import numpy as np

CALLS = 10_000


async def nothing() -> None:
    pass


async def microseconds(call: Callable[[], Awaitable[object]]) -> float:
    """Per call, of one gather."""
    gc.collect()
    begin = time.thread_time()
    await asyncio.gather(*[call() for _ in range(CALLS)])
    return (time.thread_time() - begin) / CALLS * 1e6


async def main(model: str, rounds: int) -> None:
    async with grey.AsyncNode() as node:
        await node.add("tiny", model)
        inputs = {"x": np.ones((1, 8), np.float32)}
        found = []
        for i in range(rounds + 1):
            pair = (await microseconds(lambda: node.infer("tiny", inputs)), await microseconds(nothing))
            # The first is for warming up, and the model's probe.
            found += [pair] * (i > 0)
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
