"""What `hold` and the number of callers do to batches: every image is a call of its own.

Run it: python examples/batching.py

With `hold: none` nothing waits: an idle model takes what is there, and while it runs, calls gather. With `hold: fill`
calls wait until a batch is full, for at most `max_wait_ms`: larger batches, and later answers for lonely callers.
"""

import asyncio
import re
import time

import digits
import grey
import numpy as np

CALLS = 2000
CALLERS = [1, 8, 64]


def batches(node: grey.AsyncNode) -> tuple[int, int]:
    """Rows and runs so far, of the metric that `/metrics` of a server shows, too."""
    found = re.findall(r"^grey_ai_batch_size_(?:sum|count)\{.*\} (\S+)$", node.metrics(), re.MULTILINE)
    return int(float(found[0])), int(found[1])


async def measure(node: grey.AsyncNode, images: np.ndarray, callers: int) -> tuple[float, float, float]:
    """Mean rows of a run, calls per second, and the median call in milliseconds."""
    jobs = iter(range(CALLS if callers > 1 else CALLS // 20))  # a lonely caller may wait long
    times: list[float] = []

    async def caller() -> None:
        for i in jobs:
            begin = time.perf_counter()
            await node.infer("digits", {"pixels": images[i % len(images)][None]})
            times.append(time.perf_counter() - begin)

    (rows, runs), begin = batches(node), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    seconds, (rows_after, runs_after) = time.perf_counter() - begin, batches(node)
    return (rows_after - rows) / (runs_after - runs), len(times) / seconds, float(np.median(times)) * 1e3


async def main() -> None:
    images, _ = digits.train("digits.onnx")
    print("hold   callers   rows per run   calls/s   median call")
    for hold in ["none", "fill"]:
        settings = {"hold": hold, "max_wait_ms": 5, "max_batch_size": 32}
        async with grey.AsyncNode(config={"batching": settings}) as node:
            await node.add("digits", "digits.onnx")
            while "being probed" in (await node.model("digits")).batching["reason"]:
                await asyncio.sleep(0.05)  # until it is known whether rows may share a run
            for callers in CALLERS:
                mean, rate, median = await measure(node, images, callers)
                print(f"{hold}   {callers:7}   {mean:12.1f}   {rate:7.0f}   {median:8.2f} ms")


if __name__ == "__main__":
    asyncio.run(main())
