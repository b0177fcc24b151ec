"""Reasons not to print now, in words. Reads the head of the file and the printer; changes nothing."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from adapters.ultimaker.reading import text
from service.ports import PrinterReading, PrinterState

GZIP_MAGIC = b"\x1f\x8b"
HEAD_LINES = 200

#: PLA of 2.85 mm (fdm_materials, reference sheet section 6.5). Spools report the colour, files the generic one.
PLA_GUIDS = frozenset(
    {
        "506c9f0d-e3aa-4bd4-b2d2-23e2425b1aa9",  # generic
        "3ee70a86-77d8-4b87-8005-e4a1bc57d2ce",  # Ultimaker black
        "e509f649-9fe6-4b14-ac45-d441438cb4ef",  # Ultimaker white
        "0e01be8c-e425-4fb1-b4a3-b79f255f1db9",  # Ultimaker silver metallic
        "532e8b3d-5fd4-4149-b936-53ada9bd6b85",  # Ultimaker transparent
    }
)

_STATE_REASONS: Mapping[PrinterState, str] = {
    PrinterState.BUSY: "The printer is busy.",
    PrinterState.AWAITING_REMOVAL: "A part is still on the plate: remove it and confirm at the printer.",
    PrinterState.NEEDS_PERSON: "The printer needs a person at its display.",
    PrinterState.BOOTING: "The printer is starting up.",
    PrinterState.ERROR: "The printer reports an error.",
    PrinterState.SILENT: "The printer does not answer.",
}


@dataclass(frozen=True)
class GcodeHead:
    """The first lines of the file (as bytes, for the printer's own check) and its header items."""

    raw: bytes
    items: Mapping[str, str]

    @property
    def nozzle(self) -> str:
        return self.items.get("EXTRUDER_TRAIN.0.NOZZLE.NAME", "")

    @property
    def material_guid(self) -> str:
        return self.items.get("EXTRUDER_TRAIN.0.MATERIAL.GUID", "").lower()


def read_head(gcode: Path) -> GcodeHead:
    """Up to the first layer, of a plain or gzipped file. Raises OSError, also for a damaged archive."""
    lines: list[bytes] = []
    with _opened(gcode) as source:
        for _ in range(HEAD_LINES):
            line = source.readline(4096)
            if not line or line.startswith(b";LAYER:"):
                break
            lines.append(line)
    items = {}
    for line in lines:
        written = line.decode("utf-8", "replace").strip()
        if written.startswith(";END_OF_HEADER"):
            break
        key, colon, value = written.removeprefix(";").partition(":")
        if written.startswith(";") and colon:
            items[key.strip()] = value.strip()
    return GcodeHead(b"".join(lines), items)


def _opened(gcode: Path) -> IO[bytes]:
    with gcode.open("rb") as source:
        packed = source.read(2) == GZIP_MAGIC
    return cast(IO[bytes], gzip.open(gcode, "rb")) if packed else gcode.open("rb")


def state_reasons(reading: PrinterReading) -> list[str]:
    if reading.state is PrinterState.IDLE:
        return []
    reason = _STATE_REASONS[reading.state]
    return [f"{reason} {reading.detail}".strip()]


def slot_reasons(
    reading: PrinterReading, head: GcodeHead, nozzle: str, materials: frozenset[str], *, no_second_core: bool
) -> list[str]:
    """Core and material of the left slot against the settings and the file."""
    reasons = []
    if reading.nozzle_id != nozzle:
        reasons.append(f"Print core {nozzle} must be in slot 1; there is {reading.nozzle_id or 'none'}.")
    if head.nozzle and head.nozzle != nozzle:
        reasons.append(f"The file was made for print core {head.nozzle}, not for {nozzle}.")
    if no_second_core:
        reasons.append("Slot 2 has no print core; the printer wants one in both slots.")
    loaded = reading.material_guid
    if not loaded:
        reasons.append("No material is loaded in slot 1.")
    elif loaded not in materials:
        reasons.append(f"The material in slot 1 is not an accepted PLA (GUID {loaded}).")
    if head.material_guid and head.material_guid not in materials:
        reasons.append(f"The file was made for another material (GUID {head.material_guid}).")
    return reasons


def finding_reasons(findings: object, *, materials_fit: bool) -> list[str]:
    """Reasons from the list of POST /printer/validate_header (reference sheet section 6.4).

    Which code has which level is not documented, so every finding counts, except a differing GUID where both
    materials are accepted ones: a spool reports its colour, the file names the generic PLA.
    """
    if not isinstance(findings, Sequence) or isinstance(findings, str):
        return ["The printer's check of the file gave no list of findings."]
    reasons = []
    for finding in findings:
        item = finding if isinstance(finding, Mapping) else {}
        code = text(item.get("fault_code")) or "unnamed finding"
        if code == "GUID_MISMATCH" and materials_fit:
            continue
        words = f"{text(item.get('message'))} {text(item.get('data'))}".strip()
        reasons.append(f"The printer's check says {code}: {words}" if words else f"The printer says {code}.")
    return reasons
