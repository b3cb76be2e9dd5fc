"""The forms of the page's CDDL, as functions that raise Malformed on an item of another form."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from . import cbor

Rule = Callable[[Any, str], None]


class Malformed(ValueError):
    """An item breaks a rule of the page; the text says which."""


def require(condition: bool, what: str) -> None:
    """Raise Malformed unless the condition holds."""
    if not condition:
        raise Malformed(what)


def integer(item: Any, what: str) -> None:
    """An integer (and no bool)."""
    require(isinstance(item, int) and not isinstance(item, bool), f"{what}: not an integer")


def uint(item: Any, what: str) -> None:
    """An integer from 0 on."""
    integer(item, what)
    require(item >= 0, f"{what}: negative")


def text(item: Any, what: str) -> None:
    """A text."""
    require(isinstance(item, str), f"{what}: not a text")


def data(item: Any, what: str) -> None:
    """A byte string of any length."""
    require(isinstance(item, bytes), f"{what}: not a byte string")


def sized(least: int, most: int | None = None) -> Rule:
    """A byte string of one length, or of a range of lengths."""
    last = least if most is None else most

    def rule(item: Any, what: str) -> None:
        data(item, what)
        require(least <= len(item) <= last, f"{what}: {len(item)} bytes")

    return rule


def one_of(*values: Any) -> Rule:
    """One of the values, also of the same type."""

    def rule(item: Any, what: str) -> None:
        same = any(type(item) is type(v) and item == v for v in values)
        require(same, f"{what}: {item!r}")

    return rule


def listed(rule: Rule, least: int = 0, most: int | None = None) -> Rule:
    """An array of items of one form."""

    def check(item: Any, what: str) -> None:
        require(isinstance(item, list), f"{what}: not an array")
        require(len(item) >= least, f"{what}: too short")
        require(most is None or len(item) <= most, f"{what}: too long")
        for i, member in enumerate(item):
            rule(member, f"{what}[{i}]")

    return check


def ascending(rule: Rule) -> Rule:
    """A non-empty array of texts, strictly ascending; Python's order of texts is that of their UTF-8 bytes."""

    def check(item: Any, what: str) -> None:
        listed(rule, 1)(item, what)
        require(all(a < b for a, b in pairwise(item)), f"{what}: not strictly ascending")

    return check


def tuple_of(*rules: Rule) -> Rule:
    """An array with one rule for each place."""

    def check(item: Any, what: str) -> None:
        require(isinstance(item, list) and len(item) == len(rules), f"{what}: not an array of {len(rules)}")
        for i, (rule, member) in enumerate(zip(rules, item, strict=True)):
            rule(member, f"{what}[{i}]")

    return check


def struct(required: dict[int, Rule], optional: dict[int, Rule] | None = None) -> Rule:
    """A map with these keys and no other."""
    rules = required | (optional or {})

    def check(item: Any, what: str) -> None:
        require(isinstance(item, dict), f"{what}: not a map")
        for key in required:
            require(key in item, f"{what}: no {key}")
        for key, member in item.items():
            require(key in rules, f"{what}: unknown key {key}")
            rules[key](member, f"{what}.{key}")

    return check


def table(key_rule: Rule, value_rule: Rule) -> Rule:
    """A non-empty map from items of one form to items of another."""

    def check(item: Any, what: str) -> None:
        require(isinstance(item, dict) and len(item) > 0, f"{what}: not a map with members")
        for key, member in item.items():
            key_rule(key, f"{what} key")
            value_rule(member, f"{what}.{key}")

    return check


def any_of(*rules: Rule) -> Rule:
    """An item of the first form that it has."""

    def check(item: Any, what: str) -> None:
        for rule in rules:
            try:
                return rule(item, what)
            except Malformed:
                continue
        raise Malformed(f"{what}: of no allowed type")

    return check


def inner(encoded: Any, what: str, rule: Rule, most: int | None = None) -> Any:
    """The item inside a byte string, of at most so many bytes, and of this form."""
    data(encoded, what)
    require(most is None or len(encoded) <= (most or 0), f"{what}: {len(encoded)} bytes")
    try:
        item = cbor.decode(encoded)
    except cbor.CborError as e:
        raise Malformed(f"{what}: {e}") from e
    rule(item, what)
    return item
