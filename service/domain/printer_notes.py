"""Maintenance of a printer, as a person notes it: what may be noted, and how long the machine has printed since."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from service.errors import InputRefusedError

MOST_LETTERS = 400


class NoteKind(enum.StrEnum):
    NOZZLE_CHANGED = "nozzle_changed"
    BED_LEVELLED = "bed_levelled"
    PLATE_CLEANED = "plate_cleaned"
    FILAMENT_CHANGED = "filament_changed"
    LUBRICATED = "lubricated"
    CALIBRATED = "calibrated"
    FIRMWARE_UPDATED = "firmware_updated"
    REPAIRED = "repaired"
    OTHER = "other"


#: Kinds that say nothing without words.
NEEDS_WORDS = frozenset({NoteKind.REPAIRED, NoteKind.OTHER})

NOTE_TEXT: Mapping[NoteKind, str] = {
    NoteKind.NOZZLE_CHANGED: "nozzle or print core changed",
    NoteKind.BED_LEVELLED: "bed levelled",
    NoteKind.PLATE_CLEANED: "plate cleaned",
    NoteKind.FILAMENT_CHANGED: "filament changed",
    NoteKind.LUBRICATED: "axes lubricated",
    NoteKind.CALIBRATED: "cores calibrated",
    NoteKind.FIRMWARE_UPDATED: "firmware updated",
    NoteKind.REPAIRED: "repaired",
    NoteKind.OTHER: "other",
}


@dataclass(frozen=True)
class PrinterNote:
    """`noted_at` is UTC; `note` never names a patient."""

    id: str
    printer: str
    kind: NoteKind
    note: str
    noted_by: str
    noted_at: datetime


@dataclass(frozen=True)
class PrintTime:
    """A print on the machine: when it took the job (UTC), and how long it printed by its own clock, s."""

    accepted_at: datetime
    elapsed_s: float


def checked_words(kind: NoteKind, text: str) -> str:
    """The words of a note, stripped. Raises InputRefusedError when they are missing, too long or not printable."""
    words = " ".join(text.split())
    if len(words) > MOST_LETTERS or not words.isprintable():
        raise InputRefusedError(
            f"A note has at most {MOST_LETTERS} printable characters.",
            next_step="Shorten it; never name a patient.",
            code="printer.note",
        )
    if kind in NEEDS_WORDS and not words:
        raise InputRefusedError(
            f"A note of the kind '{kind}' needs words.", next_step="Say what was done.", code="printer.note"
        )
    return words


def printed_h_since(at: datetime, prints: Iterable[PrintTime]) -> float:
    """Hours printed after `at`; a print that was running then does not count, since nobody opens a running machine."""
    return round(sum(p.elapsed_s for p in prints if p.accepted_at >= at) / 3600.0, 2)


def newest_of_each(notes: Sequence[PrinterNote]) -> list[PrinterNote]:
    """The last note of every kind, newest first."""
    last: dict[NoteKind, PrinterNote] = {}
    for note in sorted(notes, key=lambda n: (n.noted_at, n.id)):
        last[note.kind] = note
    return sorted(last.values(), key=lambda n: (n.noted_at, n.id), reverse=True)
