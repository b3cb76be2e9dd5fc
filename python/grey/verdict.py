"""What a verifier answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Result = Literal["pass", "fail", "skipped", "not applicable"]
Overall = Literal["valid", "not valid", "valid at claimed time"]

# What the verifier writes as `expected` of a check that nobody asked for.
_NOT_ASKED = "not asked"


@dataclass(frozen=True)
class Check:
    """One check of a verdict. ``expected`` and ``found`` are for people."""

    name: str
    result: Result
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.name}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, repr=False)
class Verdict:
    """The answer of :func:`grey.verify`. It is true only if ``overall`` is ``valid``.

    ``checks`` holds every check by its number in ``docs/proof-format.md``, whether it was made or not.
    """

    overall: Overall
    checks: tuple[Check, ...]

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        """Read a verdict, ``{overall, checks: [{name, result, expected, found}]}``."""
        read = json.loads(text)
        return cls(read["overall"], tuple(Check(**check) for check in read["checks"]))

    def __bool__(self) -> bool:
        return self.overall == "valid"

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.result == "fail")

    @property
    def why(self) -> str:
        """One sentence on what decided."""
        if self.overall == "valid":
            return "valid: no check failed, and every check that was asked for was made"
        if self.overall == "valid at claimed time":
            return "valid at claimed time: nobody but the node vouches for when the proof was made"
        # Without a failure, a check that had been asked for could not be made.
        skipped = (c for c in self.checks if c.result == "skipped" and c.expected != _NOT_ASKED)
        reasons = self.failed or tuple(skipped)
        return "; ".join([f"{self.overall}: {reasons[0]}", *map(str, reasons[1:])]) if reasons else self.overall

    def __str__(self) -> str:
        """The overall result, and a table of all checks."""
        rows = [("check", "result", "expected", "found")]
        rows += [(c.name, c.result, c.expected, c.found) for c in self.checks]
        return "\n".join([self.overall, *_lines(rows)])

    def __repr__(self) -> str:
        return self.overall if self else self.why


def _lines(rows: list[tuple[str, str, str, str]]) -> Iterator[str]:
    name, result, expected = (max(len(row[at]) for row in rows) for at in range(3))
    for row in rows:
        yield f"{row[0]:{name}}  {row[1]:{result}}  {row[2]:{expected}}  {row[3]}".rstrip()
