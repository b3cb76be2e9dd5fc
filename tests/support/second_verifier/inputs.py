"""The policy and what the caller knows, read strictly: what the page calls an error raises InputError."""

from __future__ import annotations

import base64
import binascii
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .jsontext import I64, Number, Object, number_form
from .structures import CLASSES, MEASUREMENT_SIZE, MODEL_HASH_SCHEMES
from .tensors import Tensor

Parser = Callable[[Any, str], Any]
UUID_OR_HEX = re.compile(r"[0-9a-fA-F]{32}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
MODES = ("fresh", "archival")
ANY = "any"
MAX_DEPTH = 32


class InputError(ValueError):
    """The policy or `known` is not what the page allows."""


def text(value: Any, what: str) -> str:
    """A text that has UTF-8."""
    if not isinstance(value, str):
        raise InputError(f"{what}: not a text")
    try:
        value.encode()
    except UnicodeEncodeError as e:
        raise InputError(f"{what}: not Unicode") from e
    return value


def any_integer(value: Any, what: str) -> int:
    """An integer, written without fraction and exponent."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{what}: not an integer")
    return value


def integer(value: Any, what: str) -> int:
    """An integer from 0 to 2^63 - 1."""
    if not 0 <= any_integer(value, what) < 2**63:
        raise InputError(f"{what}: out of range")
    return int(value)


def outcome(value: Any, what: str) -> int:
    """The number of an outcome."""
    if integer(value, what) > 8:
        raise InputError(f"{what}: no outcome")
    return int(value)


def boolean(value: Any, what: str) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise InputError(f"{what}: not true or false")
    return value


def hexadecimal(*sizes: int) -> Parser:
    """Bytes in hex of either case, of one of these lengths."""

    def parse(value: Any, what: str) -> bytes:
        digits = text(value, what)
        if not re.fullmatch(r"([0-9a-fA-F]{2})*", digits):
            raise InputError(f"{what}: bad hex")
        if len(digits) // 2 not in sizes:
            raise InputError(f"{what}: {len(digits) // 2} bytes")
        return bytes.fromhex(digits)

    return parse


def base64_bytes(value: Any, what: str) -> bytes:
    """Bytes in standard, padded base64; each string of bytes has one form."""
    characters = text(value, what)
    try:
        data = base64.b64decode(characters.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as e:
        raise InputError(f"{what}: bad base64") from e
    if base64.b64encode(data).decode() != characters:
        raise InputError(f"{what}: bad base64")
    return data


def listed(parse: Parser, length: int | None = None) -> Parser:
    """A list of values of one kind."""

    def parse_list(value: Any, what: str) -> list[Any]:
        if not isinstance(value, list):
            raise InputError(f"{what}: not a list")
        if length is not None and len(value) != length:
            raise InputError(f"{what}: not {length} members")
        return [parse(v, f"{what}[{i}]") for i, v in enumerate(value)]

    return parse_list


def one_of(*values: str) -> Parser:
    """One of these texts."""

    def parse(value: Any, what: str) -> str:
        if text(value, what) not in values:
            raise InputError(f"{what}: {value!r}")
        return str(value)

    return parse


def or_any(parse: Parser) -> Parser:
    """The text `any`, or another form."""
    return lambda value, what: value if value == ANY else parse(value, what)


def mapping(value: Any, what: str) -> dict[str, Any]:
    """An object in which no member stands twice."""
    if not isinstance(value, dict):
        raise InputError(f"{what}: not an object")
    if isinstance(value, Object) and value.repeated:
        raise InputError(f"{what}: a member twice")
    return value


def json_object(value: Any, what: str) -> dict[str, Any]:
    """An object of any content that JSON has one reading of."""
    check_json(value, what)
    return mapping(value, what)


def check_json(value: Any, what: str) -> None:
    """Raise InputError for numbers beyond a 64-bit float and text that has no UTF-8."""
    if isinstance(value, dict):
        for name, member in value.items():
            check_json(name, what)
            check_json(member, f"{what}.{name!r}")
    elif isinstance(value, list):
        for i, member in enumerate(value):
            check_json(member, f"{what}[{i}]")
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as e:
            raise InputError(f"{what}: an unpaired surrogate") from e
    elif is_huge(value):
        raise InputError(f"{what}: beyond a 64-bit float")


def is_huge(value: Any) -> bool:
    """Whether it is a number that no 64-bit float is near to."""
    if isinstance(value, Number):
        return math.isinf(float(value.text))
    return isinstance(value, int) and abs(value) > sys.float_info.max


def members(optional: dict[str, Parser], required: dict[str, Parser] | None = None) -> Parser:
    """An object with these members and no other."""
    parsers = optional | (required or {})

    def parse(value: Any, what: str) -> dict[str, Any]:
        for name in mapping(value, what):
            if name not in parsers:
                raise InputError(f"{what}: unknown member {name!r}")
        for name in required or {}:
            if name not in value:
                raise InputError(f"{what}: no {name}")
        return {name: parsers[name](v, f"{what}.{name}") for name, v in value.items()}

    return parse


def task_id(value: Any, what: str) -> bytes:
    """A task id as UUID or hex."""
    if not UUID_OR_HEX.fullmatch(text(value, what)):
        raise InputError(f"{what}: no task id")
    return bytes.fromhex(value.replace("-", ""))


def tensor(value: Any, what: str) -> Tensor:
    """A tensor; whether there can be such a one is for the checks to say."""
    form = members({}, {"name": text, "datatype": text, "shape": listed(any_integer), "data": base64_bytes})
    return Tensor(**form(value, what))


def parameter(value: Any, what: str) -> str | int | bool:
    """A request parameter, as it stands in claim -70019."""
    if isinstance(value, bool | str):
        return value if isinstance(value, bool) else text(value, what)
    if isinstance(value, Number):
        whole = value.integral()
        as_float = float(value.text)
    elif isinstance(value, int):
        whole = value if value in I64 else None
        try:
            as_float = float(value)
        except OverflowError:
            as_float = float("inf")
    else:
        raise InputError(f"{what}: no parameter")
    if whole is not None:
        return whole
    if as_float in (float("inf"), float("-inf")):
        raise InputError(f"{what}: beyond a 64-bit float")
    return number_form(as_float)


def parameters(value: Any, what: str) -> dict[str, str | int | bool]:
    """Request parameters by name."""
    return {text(name, what): parameter(v, f"{what}.{name}") for name, v in mapping(value, what).items()}


def look_through(value: Any, what: str, depth: int = 0) -> None:
    """Raise InputError where a member stands twice, or lists and objects nest too deep."""
    if not isinstance(value, dict | list):
        return
    if depth == MAX_DEPTH:
        raise InputError(f"{what}: nested too deep")
    for member in mapping(value, what).values() if isinstance(value, dict) else value:
        look_through(member, what, depth + 1)


@dataclass(frozen=True)
class Policy:
    """A policy, with its defaults; None is a member without default that was not given."""

    platforms: list[str] | None = None
    expected_measurement: bytes | None = None
    expected_mrenclave: bytes | None = None
    expected_mrsigner: bytes | None = None
    expected_product: int | None = None
    min_security_version: int | None = None
    expected_rtmrs: list[bytes] | None = None
    expected_host_data: bytes | None = None
    expected_id_key: bytes | None = None
    max_vmpl: int = 0
    min_abi_minor: int = 0
    software_keys: list[bytes] | str | None = None
    tcb_status: tuple[str, ...] = ("UpToDate",)
    min_tcb: dict[str, int] | None = None
    allow_debug: bool = False
    roots: dict[str, list[bytes]] | None = None
    mode: str = "fresh"
    max_age: int | None = None
    max_skew: int = 60
    execution: str | None = None
    executors: list[str] | str | None = None
    outcomes: tuple[int, ...] | list[int] = (0,)
    strict: bool = False


POLICY = members(
    {
        "platforms": listed(one_of(*MEASUREMENT_SIZE)),
        "expected_measurement": hexadecimal(32, 48),
        "expected_mrenclave": hexadecimal(32),
        "expected_mrsigner": hexadecimal(32),
        "expected_product": integer,
        "min_security_version": integer,
        "expected_rtmrs": listed(hexadecimal(48), 4),
        "expected_host_data": hexadecimal(32),
        "expected_id_key": hexadecimal(48),
        "max_vmpl": integer,
        "min_abi_minor": integer,
        "software_keys": or_any(listed(hexadecimal(32))),
        "tcb_status": listed(text),
        "min_tcb": members(dict.fromkeys(("boot_loader", "tee", "snp", "microcode", "fmc", "evaluation"), integer)),
        "allow_debug": boolean,
        "roots": members(dict.fromkeys(("amd", "intel", "tsa"), listed(base64_bytes))),
        "mode": one_of(*MODES),
        "max_age": integer,
        "max_skew": integer,
        "execution": one_of(*CLASSES),
        "executors": or_any(listed(text)),
        "outcomes": listed(outcome),
        "strict": boolean,
    }
)


def parse_policy(value: Any) -> Policy:
    """A policy from JSON as `load_json` gives it."""
    look_through(value, "policy")
    given = POLICY(value, "policy")
    if "expected_mrsigner" in given and not {"expected_product", "min_security_version"} <= given.keys():
        raise InputError("policy: expected_mrsigner without expected_product and min_security_version")
    return Policy(**given)


@dataclass(frozen=True)
class Known:
    """What the caller knows; None is what was not given."""

    inputs: list[Tensor] | None = None
    outputs: list[Tensor] | None = None
    salt: bytes | None = None
    nonce: bytes | None = None
    session_nonce: bytes | None = None
    model_hash: bytes | None = None
    model_hash_scheme: str | None = None
    request: dict[str, Any] | None = None
    view: dict[str, Any] | None = None
    seen: list[bytes] | None = None


KNOWN = members(
    {
        "inputs": listed(tensor),
        "outputs": listed(tensor),
        "salt": base64_bytes,
        "nonce": base64_bytes,
        "session_nonce": base64_bytes,
        "model_hash": hexadecimal(32),
        "model_hash_scheme": one_of(*MODEL_HASH_SCHEMES),
        "request": members(
            {
                "model_id": text,
                "model_version": text,
                "parameters": parameters,
                "task_id": task_id,
                "tenant_tag": hexadecimal(16),
            }
        ),
        "view": json_object,
        "seen": listed(task_id),
    }
)


def parse_known(value: Any) -> Known:
    """`known` from JSON as `load_json` gives it."""
    look_through(value, "known")
    given = KNOWN(value, "known")
    if "model_hash_scheme" in given and "model_hash" not in given:
        raise InputError("known: model_hash_scheme without model_hash")
    return Known(**given)
