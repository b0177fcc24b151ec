"""Differences between firmware generations, as data (reference sheet sections 0, 2.3, 2.6, 6.4)."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class FirmwareTraits:
    """What a printer of this generation can be asked. Exact version borders are not published."""

    label: str
    from_version: tuple[int, int]
    validates_header: bool
    """Has POST /printer/validate_header."""


TRAITS = (
    FirmwareTraits("early UM3", (0, 0), validates_header=False),
    FirmwareTraits("UM3 4.x and later", (4, 0), validates_header=True),
)


def traits_for(version: str) -> FirmwareTraits:
    """Traits of a version text such as `4.3.3.20180529`; an unreadable one is taken as the latest known."""
    match = re.match(r"\s*(\d+)\.(\d+)", version)
    if match is None:
        return TRAITS[-1]
    number = (int(match[1]), int(match[2]))
    return [t for t in TRAITS if t.from_version <= number][-1]
