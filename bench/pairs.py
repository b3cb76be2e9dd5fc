"""Ratios of neighbours in time: what is compared takes turns, so that a slow moment of the machine hits both."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

ROUNDS = 10


@dataclass(frozen=True)
class Spread:
    """A median with its 10-90 % range."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: list[float]) -> Spread:
        ordered = sorted(values)
        tenth = len(ordered) // 10
        return Spread(statistics.median(ordered), ordered[tenth], ordered[-1 - tenth])

    def shown(self, form: str = ".3f") -> str:
        return f"{self.median:{form}} ({self.low:{form}}-{self.high:{form}})"


@dataclass
class Goal:
    """A bound that the worse end of a range has to keep."""

    least: float | None = None
    most: float | None = None

    def met(self, found: Spread) -> bool:
        return (self.least is None or found.low >= self.least) and (self.most is None or found.high <= self.most)

    def shown(self, form: str) -> str:
        if self.least is not None:
            return f">= {self.least:{form}}"
        return f"<= {self.most:{form}}" if self.most is not None else ""


@dataclass
class Row:
    """One measure of the report."""

    measure: str
    found: Spread
    form: str
    unit: str
    goal: Goal
    note: str = ""


@dataclass
class Report:
    """What was measured, printed as it comes."""

    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        self.rows.append(row)
        wanted = row.goal.shown(row.form)
        verdict = f"  wanted {wanted}: {'met' if row.goal.met(row.found) else 'MISSED'}" if wanted else ""
        note = f"  [{row.note}]" if row.note else ""
        print(f"   {row.measure:58} {row.found.shown(row.form)} {row.unit}{verdict}{note}", flush=True)


def by_turns(
    first: Callable[[], float], second: Callable[[], float], rounds: int = ROUNDS
) -> list[tuple[float, float]]:
    """Both in each round; who begins takes turns, too."""
    found = []
    for i in range(rounds):
        if i % 2 == 0:
            a = first()
            b = second()
        else:
            b = second()
            a = first()
        found.append((a, b))
    return found


def ratios(pairs: list[tuple[float, float]]) -> Spread:
    return Spread.of([a / b for a, b in pairs])


def differences(pairs: list[tuple[float, float]]) -> Spread:
    return Spread.of([a - b for a, b in pairs])
