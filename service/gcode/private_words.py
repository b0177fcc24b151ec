"""What of a person must not occur in a print file. Only ever kept in memory: in no log and no document."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: Everything a good file says. It names nobody, so a patient called Wall does not stop every print.
_FIXED_TEXT = (
    "start_of_header end_of_header header_version flavor griffin generator.name generator.version "
    "generator.build_date cura_steamengine target_machine.name ultimaker 3 extended extruder_train.0. "
    "initial_temperature material.volume_used material.guid nozzle.diameter nozzle.name aa 0.4 "
    "build_plate.type glass build_plate.initial_temperature print.time print.groups print.size.min.x max.y z "
    "generated with layer_count layer time_elapsed mesh part.stl filler.stl nonmesh "
    "type skirt wall-outer wall-inner skin fill support support-interface prime-tower"
)
_LEAST_LETTERS = 2
_LEAST_DIGITS = 6
"""A shorter number is bound to be one of the file's own times, lengths or settings."""


def private_words(
    *, name: str = "", patient_id: str = "", birth_date: str = "", other: Sequence[str] = ()
) -> tuple[str, ...]:
    """Words to look for, from DICOM values: parts of the name, numbers, the birth date (YYYYMMDD) as it is written."""
    whole = [patient_id, *other, *_dates(birth_date)]
    parts = re.split(r"[\^=\s,;]+", name)
    found = dict.fromkeys(word.strip() for word in (*parts, *whole))
    return tuple(word for word in found if _can_be_sought(word))


def word_in(word: str, text: str) -> bool:
    """Whether `text` holds `word`, in any case; a number only as a whole, not within a longer one."""
    if word.isdecimal():
        return re.search(rf"(?<![\d.]){word}(?!\d)", text) is not None
    return word.casefold() in text.casefold()


def _can_be_sought(word: str) -> bool:
    if word.isdecimal():
        return len(word) >= _LEAST_DIGITS
    return len(word) >= _LEAST_LETTERS and word.casefold() not in _FIXED_TEXT


def _dates(birth_date: str) -> tuple[str, ...]:
    match = re.fullmatch(r"(\d{4})(\d\d)(\d\d)", birth_date.strip())
    if not match:
        return ()
    year, month, day = match.groups()
    forms = (
        "{y}{m}{d}",
        "{y}-{m}-{d}",
        "{d}.{m}.{y}",
        "{d}{m}{y}",
        "{m}/{d}/{y}",
        "{d}/{m}/{y}",
        "{d}-{m}-{y}",
    )
    return tuple(form.format(y=year, m=month, d=day) for form in forms)
