"""The Griffin header, judged by the rules of UltiMaker's own reader (reference/ultimaker3_api.md, 6.1)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
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


_NUMBER = r"\d{1,6}(\.\d{1,6})?"
_SIGNED = rf"-?{_NUMBER}(e-\d\d)?"
#: Every key the file may have and the only form of its value: no free text, in which a name could travel.
_FORMS: Mapping[str, str] = {
    "HEADER_VERSION": r"0\.1",
    "FLAVOR": r"Griffin",
    "GENERATOR.NAME": r"Cura_SteamEngine",
    "GENERATOR.VERSION": r"[45](\.\d{1,2}){1,2}(-(alpha|beta)(\.\d{1,2})?)?",
    # the machine is of 2016: no earlier date, which could be one of birth
    "GENERATOR.BUILD_DATE": r"20(1[6-9]|[2-9]\d)-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])",
    "TARGET_MACHINE.NAME": r"Ultimaker 3( Extended)?",
    "EXTRUDER_TRAIN.0.INITIAL_TEMPERATURE": _NUMBER,
    "EXTRUDER_TRAIN.0.MATERIAL.VOLUME_USED": _NUMBER,
    "EXTRUDER_TRAIN.0.MATERIAL.GUID": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "EXTRUDER_TRAIN.0.NOZZLE.DIAMETER": _NUMBER,
    "EXTRUDER_TRAIN.0.NOZZLE.NAME": r"(AA|BB|CC) 0\.\d{1,2}",
    "BUILD_PLATE.TYPE": r"glass",
    "BUILD_PLATE.INITIAL_TEMPERATURE": _NUMBER,
    "PRINT.TIME": _NUMBER,
    "PRINT.GROUPS": r"1",
    **{f"PRINT.SIZE.{end}.{axis}": _SIGNED for end in ("MIN", "MAX") for axis in "XYZ"},
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
            # not which key: what is no key of ours may be a name
            faults.append(f"header line {line.number} repeats a key")
        else:
            values[parts[0]] = parts[1].strip()
    missing = [key for key in REQUIRED if not values.get(key)]
    if missing:
        faults.append(f"the header lacks {', '.join(missing)}")
    return Header(values, tuple(faults))


def text_faults(lines: Sequence[TextLine]) -> Iterator[str]:
    """Header lines whose key is not known, or whose value has not the form of that key. Says where, not what."""
    for line in lines:
        key, colon, value = line.text.strip().removeprefix(";").partition(":")
        if not colon:
            continue
        form = _FORMS.get(key)
        if form is None:
            yield f"header line {line.number} has a key that no header of ours has"
        elif not re.fullmatch(form, value.strip(), re.ASCII):
            yield f"header line {line.number} has a value of unknown form"
