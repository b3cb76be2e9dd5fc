"""What concurrency gains: requests per second of the demo's model at 1, 8 and 64 connections, in one run.

The connection counts take turns in every round, so that a slow moment of the machine hits all of them; what counts
is the ratio to one connection in the same round: its median and its 10-90 % range.
"""

from __future__ import annotations

import statistics

import run

ROUNDS = 10
CONNECTIONS = (1, 8, 64)


def main() -> None:
    run.WORK.mkdir(exist_ok=True)
    classifier, images, _ = run.train()
    model = run.WORK / "digits.onnx"
    run.write_onnx(classifier, model)
    node = run.Node(run.WORK / "data")
    run.PASSES = 2
    rates: dict[int, list[float]] = {n: [] for n in CONNECTIONS}
    try:
        node.grey("model", "add", "digits", str(model))
        for _ in range(ROUNDS):
            for n in CONNECTIONS:
                run.CLIENTS = n
                _, times, seconds = run.classify(node.url, images)
                rates[n].append(len(times) / seconds)
    finally:
        node.stop()
    print("connections  requests/s (median)  ratio to 1 connection: median (10-90 %)")
    for n in CONNECTIONS:
        ratios = sorted(rate / one for rate, one in zip(rates[n], rates[1], strict=True))
        low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
        median = statistics.median(ratios)
        print(f"{n:11}  {statistics.median(rates[n]):19,.0f}  {median:.2f} ({low:.2f}-{high:.2f})")


if __name__ == "__main__":
    main()
