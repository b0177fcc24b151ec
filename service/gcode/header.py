"""The Griffin header, judged by the rules of UltiMaker's own reader (reference/ultimaker3_api.md, 6.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.gcode.reader import TextLine

REQUIRED = (
    "HEADER_VERSION",
    "FLAVOR",
    "GENERATOR.NAME",
    "GENERATOR.VERSION",
    "GENERATOR.BUILD_DATE",
    "TARGET_MACHINE.NAME",
    "EXTRUDER_TRAIN.0.INITIAL_TEMPERATURE",
    "EXTRUDER_TRAIN.0.MATERIAL.VOLUME_USED",
    "EXTRUDER_TRAIN.0.NOZZLE.DIAMETER",
    "BUILD_PLATE.INITIAL_TEMPERATURE",
    "PRINT.TIME",
    *(f"PRINT.SIZE.{end}.{axis}" for end in ("MIN", "MAX") for axis in "XYZ"),
)

# 2.85 mm PLA of UltiMaker's fdm-materials (CC0); reference/ultimaker3_api.md, 6.5.
KNOWN_PLA_GUIDS: Mapping[str, str] = {
    "506c9f0d-e3aa-4bd4-b2d2-23e2425b1aa9": "Generic PLA",
    "9d5d2d7c-4e77-441c-85a0-e9eefd4aa68c": "Generic Tough PLA",
    "3ee70a86-77d8-4b87-8005-e4a1bc57d2ce": "Ultimaker PLA Black",
    "e509f649-9fe6-4b14-ac45-d441438cb4ef": "Ultimaker PLA White",
    "0e01be8c-e425-4fb1-b4a3-b79f255f1db9": "Ultimaker PLA Silver Metallic",
    "532e8b3d-5fd4-4149-b936-53ada9bd6b85": "Ultimaker PLA Transparent",
    "851427a0-0c9a-4d7c-a9a8-5cc92f84af1f": "Ultimaker Tough PLA White",
}


@dataclass(frozen=True)
class Header:
    """Keys and values as written, and what is wrong with the form of the header."""

    values: Mapping[str, str]
    faults: tuple[str, ...]

    def number(self, key: str) -> float:
        """Value as a number; NaN when absent or not a number, which compares equal to nothing."""
        try:
            return float(self.values.get(key, "nan"))
        except ValueError:
            return float("nan")


def parse_header(lines: Sequence[TextLine]) -> Header:
    """Read header lines; form faults (missing end, two colons, missing or double keys) are collected."""
    values: dict[str, str] = {}
    faults: list[str] = []
    if not lines or lines[0].text.strip() != ";START_OF_HEADER" or lines[0].number != 1:
        faults.append("the file does not begin with ;START_OF_HEADER")
    ended = bool(lines) and lines[-1].text.strip() == ";END_OF_HEADER"
    if not ended:
        faults.append("the header is not closed by ;END_OF_HEADER")
    for line in lines:
        text = line.text.strip()
        if text in {";START_OF_HEADER", ";END_OF_HEADER"}:
            continue
        parts = text[1:].split(":")
        if not text.startswith(";") or len(parts) != 2 or not parts[0]:
            faults.append(f"header line {line.number} is not one key and one value")
        elif parts[0] in values:
            faults.append(f"header line {line.number} repeats {parts[0]}")
        else:
            values[parts[0]] = parts[1].strip()
    missing = [key for key in REQUIRED if not values.get(key)]
    if missing:
        faults.append(f"the header lacks {', '.join(missing)}")
    return Header(values, tuple(faults))
