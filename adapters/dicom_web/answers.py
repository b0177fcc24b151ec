"""What a STOW-RS server says about each instance (PS3.18 10.5.3, PS3.3 C.12.1.1.x; DICOM JSON of PS3.18 annex F)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.ports import StoreStatus

_FAILED, _REFERENCED = "00081198", "00081199"
_UID, _WARNING, _FAILURE = "00081155", "00081196", "00081197"
_WORDS = {
    0x0110: "processing failure",
    0x0111: "there already",
    0x0122: "object class not supported",
    0x0124: "not authorised",
    0x0131: "duplicate transaction",
    0x0213: "resources are exhausted",
}
_NOT_THE_CONTENT = frozenset({401, 403, 404, 405, 408, 409, 425, 429})
"""Faults of the address, the login or the moment, and 409, which should say why for each object: without that they
are no reason to give an object up."""


@dataclass(frozen=True)
class Outcome:
    """By SOP instance UID."""

    stored: Mapping[str, int] = field(default_factory=dict)
    """UID -> warning, 0 = none."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """UID -> failure reason."""


def read_outcome(body: bytes) -> Outcome:
    """Never raises for what a server may send; unknown parts are left out."""
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        return Outcome()
    if isinstance(document, list) and len(document) == 1:
        document = document[0]  # some servers put the one data set into a list
    if not isinstance(document, dict):
        return Outcome()
    stored = {uid: _number(item, _WARNING) for uid, item in _items(document, _REFERENCED)}
    failed = {uid: _number(item, _FAILURE) for uid, item in _items(document, _FAILED)}
    return Outcome(stored, failed)


def statuses(uids: Sequence[str], http_status: int, outcome: Outcome) -> list[StoreStatus]:
    """One per instance that was sent. A failure named for it goes before everything else."""
    return [_status(uid, http_status, outcome) for uid in uids]


def _status(uid: str, http_status: int, outcome: Outcome) -> StoreStatus:
    if uid in outcome.failed:
        # 0 is no reason the standard has: the server named the instance and nothing else
        reason = outcome.failed[uid] or 0x0110
        return StoreStatus(uid, reason, _WORDS.get(reason, f"HTTP {http_status}"))
    if uid in outcome.stored:
        warning = outcome.stored[uid]
        return StoreStatus(uid, warning if 0xB000 <= warning <= 0xBFFF else 0, "")
    if http_status == 200 and not outcome.failed:
        # 200: all instances are stored (PS3.18 table 10.5.3-1)
        return StoreStatus(uid, 0, "HTTP 200, not listed one by one")
    if 200 <= http_status < 300:
        return StoreStatus(uid, None, f"HTTP {http_status}, but the answer does not name this object")
    return StoreStatus(uid, None, f"HTTP {http_status}{_hint(http_status)}")


def blames_the_content(http_status: int) -> bool:
    """Whether the server refused the request because of what is in it."""
    return 400 <= http_status < 500 and http_status not in _NOT_THE_CONTENT


def _hint(http_status: int) -> str:
    if 300 <= http_status < 400:
        return ": the address has moved; correct the url"
    return {
        401: ": user or password are wrong",
        403: ": this user may not store",
        404: ": nothing at this address; check the url",
        405: ": this address does not take STOW-RS; check the url",
        409: ": refused",
        413: ": too large for the server",
        415: ": the server does not take this media type",
        507: ": the server is full",
    }.get(http_status, "")


def _items(document: Mapping[str, Any], tag: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for item in _values(document, tag):
        if isinstance(item, dict):
            for uid in _values(item, _UID):
                if isinstance(uid, str):
                    yield uid.strip(), item


def _number(item: Mapping[str, Any], tag: str) -> int:
    for value in _values(item, tag):
        if isinstance(value, int) and 0 <= value <= 0xFFFF:
            return value
        if isinstance(value, str) and value.strip().isdigit():
            return min(int(value), 0xFFFF)
    return 0


def _values(item: Mapping[str, Any], tag: str) -> Iterable[Any]:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else ()
