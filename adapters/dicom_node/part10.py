"""The Part 10 envelope round a data set that is kept exactly as it came from the wire (PS3.10 section 7.1).

Written and read with `struct`, without parsing the data set. Who sent it, when and on which association travels
in the file's own private information (0002,0102), so that one file, made durable once, tells everything.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import to_json

IMPLEMENTATION_CLASS_UID = "2.25.248471163519227606105953402115204914293"
IMPLEMENTATION_VERSION = "SPINEPRINT_1"
_PRIVATE_CREATOR_UID = "2.25.248471163519227606105953402115204914294"
_LONG_LENGTH_VRS = {b"OB", b"OW", b"UN", b"SQ", b"OF", b"OD", b"OL", b"UT", b"UC", b"UR"}
_MAX_META_BYTES = 1 << 16


@dataclass(frozen=True)
class InstanceFacts:
    """What is known about one received instance without opening its data set.

    `sha256` and `size` are those of the data set bytes as received.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_ae: str
    called_ae: str
    peer_address: str
    association: str
    received_at: datetime
    sha256: str
    size: int


@dataclass(frozen=True)
class FileMeta:
    """The file meta of any Part 10 file; `dataset_offset` is where the data set starts."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    dataset_offset: int
    private: bytes = b""


def envelope(facts: InstanceFacts, *, block: int = 2) -> bytes:
    """Preamble, magic and file meta group, to be followed by the data set bytes.

    Its length is a multiple of `block` (even): blanks behind the private information fill it up.
    """
    private = facts_to_json(facts)
    for uid in ("sop_class_uid", "sop_instance_uid", "transfer_syntax_uid"):
        del private[uid]  # the file meta has them
    body = b"".join(
        [
            _VERSION,
            _element(0x0002, b"UI", facts.sop_class_uid.encode("ascii")),
            _element(0x0003, b"UI", facts.sop_instance_uid.encode("ascii")),
            _element(0x0010, b"UI", facts.transfer_syntax_uid.encode("ascii")),
            _IMPLEMENTATION,
            _element(0x0016, b"AE", facts.calling_ae.encode("ascii", "replace")[:16]),
            _PRIVATE_CREATOR,
        ]
    )
    text = to_json(private)
    length = _BEFORE_META + len(body) + _LONG_HEADER + len(text)
    body += _element(0x0102, b"OB", text + b" " * (-length % block))
    return b"\0" * 128 + b"DICM" + _element(0x0000, b"UL", struct.pack("<I", len(body))) + body


def facts_to_json(facts: InstanceFacts) -> dict[str, object]:
    # `asdict` would copy deeply, at the price of a tenth of all the work on an image
    document: dict[str, object] = vars(facts).copy()
    document["received_at"] = facts.received_at.isoformat()
    return document


def facts_from_json(document: Mapping[str, Any]) -> InstanceFacts:
    """Raises KeyError, TypeError or ValueError for a document that `facts_to_json` did not make."""
    return InstanceFacts(
        **{
            f.name: str(document[f.name])
            for f in fields(InstanceFacts)
            if f.name not in ("received_at", "size")
        },
        received_at=datetime.fromisoformat(document["received_at"]),
        size=int(document["size"]),
    )


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    if vr in _LONG_LENGTH_VRS:
        return struct.pack("<HH2sHI", 2, number, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", 2, number, vr, len(value)) + value


_BEFORE_META, _LONG_HEADER = 128 + 4 + 12, 12
"""Preamble, magic and the element of the group's length; an element's header with a long length."""
_VERSION = _element(0x0001, b"OB", b"\x00\x01")
_IMPLEMENTATION = _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode("ascii")) + _element(
    0x0013, b"SH", IMPLEMENTATION_VERSION.encode("ascii")
)
_PRIVATE_CREATOR = _element(0x0100, b"UI", _PRIVATE_CREATOR_UID.encode("ascii"))


def read_meta(path: Path) -> FileMeta:
    """The file meta group of a Part 10 file.

    Raises ValueError when it is not one or its meta group is damaged; OSError when it cannot be read.
    """
    with path.open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            raise ValueError("no Part 10 magic")
        elements = _meta_elements(stream)
        offset = stream.tell()
    missing = [number for number in (0x0002, 0x0003, 0x0010) if not elements.get(number)]
    if missing:
        raise ValueError(f"file meta lacks {', '.join(f'(0002,{n:04x})' for n in missing)}")
    uid = {n: elements[n].rstrip(b"\0 ").decode("ascii", "replace") for n in (0x0002, 0x0003, 0x0010)}
    ours = elements.get(0x0100, b"").rstrip(b"\0 ").decode("ascii", "replace") == _PRIVATE_CREATOR_UID
    private = elements.get(0x0102, b"") if ours else b""
    return FileMeta(uid[0x0002], uid[0x0003], uid[0x0010], offset, private)


def _meta_elements(stream: BinaryIO) -> Mapping[int, bytes]:
    found: dict[int, bytes] = {}
    total = 0
    while True:
        head = stream.read(8)
        if len(head) < 8:
            # a file that ends with its meta group has an empty data set
            stream.seek(-len(head), 1)
            return found
        group, number, vr, length = struct.unpack("<HH2sH", head)
        if group != 2:
            stream.seek(-8, 1)
            return found
        if vr in _LONG_LENGTH_VRS:
            extended = stream.read(4)
            if len(extended) < 4:
                raise ValueError("file meta is cut off")
            (length,) = struct.unpack("<I", extended)
        total += length
        if total > _MAX_META_BYTES:
            raise ValueError("file meta is larger than any real one")
        value = stream.read(length)
        if len(value) != length:
            raise ValueError("file meta is cut off")
        found[number] = value


def read_facts(path: Path) -> InstanceFacts:
    """Facts of a file this node wrote. Raises ValueError when it was not written by this node."""
    meta = read_meta(path)
    try:
        uids = {
            "sop_class_uid": meta.sop_class_uid,
            "sop_instance_uid": meta.sop_instance_uid,
            "transfer_syntax_uid": meta.transfer_syntax_uid,
        }
        return facts_from_json(json.loads(meta.private) | uids)
    except (KeyError, TypeError) as error:
        raise ValueError("file was not written by this node") from error
