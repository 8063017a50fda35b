"""Conversion of typed records to JSON and back.

JSON has no NaN: an undefined number is written as null, and read as NaN if the record expects a float.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def to_json(content: Any) -> bytes:
    """A dataclass or plain data as the bytes of a JSON file. Equal content has equal bytes."""
    plain = asdict(content) if is_dataclass(content) and not isinstance(content, type) else content
    return json.dumps(_without_nan(plain), indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"


SEAL = re.compile(rb'\n  "sha256": "([0-9a-f]{64})",(?=\n  ")|,\n  "sha256": "([0-9a-f]{64})"(?=\n}\n$)')
"""The line of the checksum and its comma, in a file of `sealed_json`; it may be the last one."""


def sealed_json(content: Mapping[str, Any]) -> bytes:
    """Plain data as the bytes of a JSON file with its own checksum: that of the file without its line."""
    return to_json({**content, "sha256": hashlib.sha256(to_json(content)).hexdigest()})


def read_sealed(file: Path) -> dict[str, Any]:
    """The content of a file of `sealed_json`. Raises ValueError unless each byte is as written."""
    written = file.read_bytes()
    seal = SEAL.search(written)
    rest = written if seal is None else written[: seal.start()] + written[seal.end() :]
    if seal is None or hashlib.sha256(rest).hexdigest().encode() not in seal.groups():
        raise ValueError(f"{file.name} does not match its checksum")
    return json.loads(rest)


def parse(kind: Any, value: Any) -> Any:
    """A JSON value as `kind`: a dataclass, or a type that its fields may have.

    Unknown keys are ignored. Raises ValueError if the value is not of this kind.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        content, known = _of(dict, value), _types(kind)
        try:
            return kind(**{name: parse(known[name], content[name]) for name in known if name in content})
        except TypeError as error:
            raise ValueError(str(error)) from error
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        (kind,) = (argument for argument in arguments if argument is not NoneType)
        return parse(kind, value)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{value!r} is not one of {', '.join(map(str, arguments))}")
        return value
    if origin is Sequence:
        return tuple(parse(arguments[0], entry) for entry in _of(list, value))
    if origin is Mapping:
        return {key: parse(arguments[1], entry) for key, entry in _of(dict, value).items()}
    if kind is float:
        return math.nan if value is None else float(_of((int, float), value))
    return value if kind is Any else _of(kind, value)


@cache
def _types(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _of(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{value!r} is not of type {getattr(kind, '__name__', 'number')}")
    return value


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
