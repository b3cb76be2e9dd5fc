"""JSON read without losing anything: numbers keep their digits, and a member that stands twice is not lost."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

I64 = range(-(2**63), 2**63)
MOST_DIGITS = 400
HUGE: int = 10**MOST_DIGITS  # stands for every integer of more digits: beyond all that it is compared with


@dataclass(frozen=True)
class Number:
    """A JSON number with a fraction or an exponent, as it was written."""

    text: str

    def integral(self) -> int | None:
        """The number, if by its digits it is an integer within i64."""
        match = re.fullmatch(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?)([0-9]+))?", self.text)
        if match is None:
            return None
        sign, whole, fraction, exponent_sign, exponent = match.groups(default="")
        digits = (whole + fraction).lstrip("0")
        if not digits:
            return 0
        # An exponent of so many digits outweighs any fraction that fits in memory.
        power = int(exponent.lstrip("0")[:18] or "0") * (-1 if exponent_sign == "-" else 1) - len(fraction)
        stripped = digits.rstrip("0")
        power += len(digits) - len(stripped)
        if power < 0 or len(stripped) + power > 19:
            return None
        value = int(sign + stripped + "0" * power)
        return value if value in I64 else None


class Object(dict[str, Any]):
    """A JSON object that remembers whether a member stood twice."""

    repeated = False


def _object(pairs: list[tuple[str, Any]]) -> Object:
    result = Object(pairs)
    result.repeated = len(result) != len(pairs)
    return result


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        return -HUGE if text.startswith("-") else HUGE
    return int(text)


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def load_json(text: str | bytes) -> Any:
    """The value of a JSON text."""
    return json.loads(text, parse_float=Number, parse_int=_integer, parse_constant=_constant, object_pairs_hook=_object)


def number_form(value: float) -> str:
    """A finite number as RFC 8785 (and ECMAScript) writes it."""
    if value == 0:
        return "0"
    # repr gives the shortest digits that read back as the same float, as ECMAScript asks.
    parts = Decimal(repr(value)).normalize().as_tuple()
    sign = "-" if parts.sign else ""
    digits = "".join(map(str, parts.digits))
    count = len(digits)
    point = count + int(parts.exponent)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    power = point - 1
    tail = f".{digits[1:]}" if count > 1 else ""
    return f"{sign}{digits[0]}{tail}e{'-' if power < 0 else '+'}{abs(power)}"
