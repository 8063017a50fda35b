"""The settings of a study from its command line."""

from __future__ import annotations

from typing import TypeVar

import tyro

from survq.output import unfailing_output

Settings = TypeVar("Settings")


def from_command_line(kind: type[Settings]) -> Settings:
    """Settings of this kind, a dataclass. Ends the program after --help, and if an option is invalid."""
    with unfailing_output():  # --help may be cut off by its reader
        return tyro.cli(kind)
