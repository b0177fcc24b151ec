"""What the two-dimensional code on a pack says, and reading it back at the door.

One line of text: a mark and version, then pack, case, level and patient reference, each percent-encoded. It carries
no name, birth date or patient ID. It is no GS1 code: the site owns no GTIN by default, and we do not invent one.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote

from service.errors import InputRefusedError

_MARK = "SPINEPRINT/1"
_LONGEST = 600


@dataclass(frozen=True)
class PackCode:
    pack_id: str
    case_id: str
    level: str
    patient_reference: str


def write_code(code: PackCode) -> str:
    """The text in the code of a pack's label."""
    parts = (code.pack_id, code.case_id, code.level, code.patient_reference)
    return "|".join((_MARK, *(quote(part, safe="") for part in parts)))


def read_code(text: str) -> PackCode:
    """What a scanner read from a pack.

    Raises
    ------
    InputRefusedError : with code `label.code` when it is not one of our labels, or not all of it.
    """
    fields = text.strip().split("|")
    if len(text) > _LONGEST or len(fields) != 5 or fields[0] != _MARK or not all(fields[1:]):
        raise InputRefusedError(
            "The code scanned is not that of a spineprint pack, or was not read whole.",
            next_step="Scan the square code on the pack's label again. Do not use a pack without a readable label.",
            code="label.code",
        )
    return PackCode(*(unquote(field) for field in fields[1:]))
