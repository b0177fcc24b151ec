"""The few DIMSE messages of the data path, as bytes; everything else goes through pynetdicom's classes.

A command set is Implicit VR Little Endian, group 0000 (PS3.7 section 6.3.1 and annex E).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

COMMAND_FLAG, LAST_FLAG = 0x01, 0x02
"""Bits of the message control header (PS3.8 annex E.2)."""

C_STORE_RQ, C_ECHO_RQ, N_EVENT_REPORT_RQ, N_ACTION_RQ, C_CANCEL_RQ = 0x0001, 0x0030, 0x0100, 0x0130, 0x0FFF
_ANSWER_BIT = 0x8000
_NO_DATA_SET = 0x0101
_ELEMENT = struct.Struct("<HHI")
_NUMBERS = struct.Struct("<" + 4 * "HHIH")
"""Four elements with a number each."""
_CLASS, _FIELD, _MESSAGE, _ANSWERED, _DATA_SET, _STATUS, _COMMENT, _INSTANCE = (
    0x0002, 0x0100, 0x0110, 0x0120, 0x0800, 0x0900, 0x0902, 0x1000,
)  # fmt: skip


class CommandError(ValueError):
    """A command set that is none."""


@dataclass(frozen=True)
class Command:
    """What the node needs of a command set. UIDs as text; ASCII that is none becomes `?`."""

    field: int
    message_id: int
    has_data_set: bool
    sop_class_uid: str
    sop_instance_uid: str


def parse_command(data: bytes) -> Command:
    """Raises CommandError for damaged bytes or a set without the elements that every request has."""
    elements = _elements(data)
    try:
        field = _number(elements[_FIELD])
        message_id = _number(elements[_MESSAGE]) if field != C_CANCEL_RQ else _number(elements[_ANSWERED])
        data_set = _number(elements[_DATA_SET])
    except KeyError as missing:
        raise CommandError(f"element (0000,{missing.args[0]:04X}) is missing") from None
    return Command(
        field, message_id, data_set != _NO_DATA_SET, _uid(elements.get(_CLASS)), _uid(elements.get(_INSTANCE))
    )


def _elements(data: bytes) -> Mapping[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset < len(data):
        if offset + _ELEMENT.size > len(data):
            raise CommandError("it ends inside an element's header")
        group, number, length = _ELEMENT.unpack_from(data, offset)
        offset += _ELEMENT.size
        if group or offset + length > len(data):
            raise CommandError("it holds an element of another group, or one longer than the set")
        found[number] = data[offset : offset + length]
        offset += length
    return found


def _number(value: bytes) -> int:
    if len(value) != 2:
        raise CommandError("a number is not two bytes long")
    return int.from_bytes(value, "little")


def _uid(value: bytes | None) -> str:
    text = (value or b"").rstrip(b"\0 ")
    return text.decode("ascii") if text.isascii() else text.decode("ascii", "replace").replace("\ufffd", "?")


def answer(context: int, command: Command, status: int, comment: str = "") -> bytes:
    """A whole P-DATA-TF PDU that answers `command` without a data set (for C-STORE: PS3.7 section 9.3.1.2)."""
    body = b"".join(
        [
            _element(_CLASS, _even(command.sop_class_uid.encode("ascii", "replace"), b"\0")),
            _NUMBERS.pack(
                *(0, _FIELD, 2, command.field | _ANSWER_BIT),
                *(0, _ANSWERED, 2, command.message_id),
                *(0, _DATA_SET, 2, _NO_DATA_SET),
                *(0, _STATUS, 2, status),
            ),
            _element(_COMMENT, _even(comment.encode("ascii", "replace")[:64], b" ")) if comment else b"",
            _element(_INSTANCE, _even(command.sop_instance_uid.encode("ascii", "replace"), b"\0")),
        ]
    )
    message = _element(0x0000, struct.pack("<I", len(body))) + body
    return (
        struct.pack(">BxIIBB", 0x04, len(message) + 6, len(message) + 2, context, COMMAND_FLAG | LAST_FLAG)
        + message
    )


def _element(number: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0, number, len(value)) + value


def _even(value: bytes, padding: bytes) -> bytes:
    return value + padding if len(value) % 2 else value
