"""Settings from a command line."""

from __future__ import annotations

from dataclasses import replace
from types import NoneType, UnionType
from typing import TypeVar, Union, get_args

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    UnsupportedTypeAnnotationError,
)

from survq.output import unfailing_output

Settings = TypeVar("Settings")
READERS = ConstructorRegistry()


def from_command_line(kind: type[Settings]) -> Settings:
    """Settings of this kind, a dataclass. Ends the program after --help, and if an option is invalid."""
    with unfailing_output():  # --help may be cut off by its reader
        return tyro.cli(kind, config=(tyro.conf.FlagCreatePairsOff,), registry=READERS)


@READERS.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | UnsupportedTypeAnnotationError | None:
    """`INT` in place of `{None}|INT` in --help: who wants None leaves the option out."""
    kinds = get_args(info.type)
    if info.type_origin not in (Union, UnionType) or len(kinds) != 2 or NoneType not in kinds:
        return None
    (kind,) = (kind for kind in kinds if kind is not NoneType)
    reader = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, info.markers))
    if isinstance(reader, UnsupportedTypeAnnotationError):
        return reader
    return replace(
        reader,
        is_instance=lambda value: value is None or reader.is_instance(value),
        str_from_instance=lambda value: ["None"] if value is None else reader.str_from_instance(value),
    )
