"""C-STORE SCU with the manners of a PACS that auto-routes (PS3.4 B.2)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom import AE
from pynetdicom.association import Association

NO_ANSWER = -1
"""Status of an instance that was never answered: no association, aborted, timed out or not sent any more."""
NOT_ACCEPTED = -2
"""Status of an instance whose presentation context the peer refused."""


@dataclass(frozen=True)
class SendResult:
    """What became of one file. `status` is the DIMSE status or one of the negative values above."""

    path: Path
    sop_instance_uid: str
    study_instance_uid: str
    status: int

    @property
    def stored(self) -> bool:
        """Success or one of the C-STORE warnings."""
        return self.status == 0x0000 or 0xB000 <= self.status <= 0xBFFF


@dataclass(frozen=True)
class _Item:
    path: Path
    sop_class: str
    sop_instance: str
    study: str
    syntax: str


def find_instances(folder: Path) -> list[_Item]:
    """All DICOM files below `folder` in order of path; other files are passed over."""
    items = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "DICOMDIR"):
        try:
            head = dcmread(path, stop_before_pixels=True, specific_tags=["StudyInstanceUID"])
        except InvalidDicomError:
            continue
        meta = head.file_meta
        items.append(
            _Item(
                path,
                str(meta.MediaStorageSOPClassUID),
                str(meta.MediaStorageSOPInstanceUID),
                str(head.get("StudyInstanceUID", "")),
                str(meta.TransferSyntaxUID),
            )
        )
    return items


def send_directory(
    folder: Path | str,
    ae: str,
    host: str,
    port: int,
    *,
    calling_ae: str = "SIMPACS",
    delay_s: float = 0.0,
    abort_after: int | None = None,
    timeout_s: float = 30.0,
) -> list[SendResult]:
    """Send every instance below `folder`: one association per study, transfer syntax as in the file.

    `abort_after` breaks the association off (A-ABORT) after that many instances of the first study and sends no
    more, as a failing sender would. Returns one result per instance, in order of sending.
    """
    studies: dict[str, list[_Item]] = {}
    for item in find_instances(Path(folder)):
        studies.setdefault(item.study, []).append(item)
    results: list[SendResult] = []
    broken = False
    for items in studies.values():
        if broken:
            results += [_result(item, NO_ANSWER) for item in items]
            continue
        results += _send_study(items, (ae, host, port), calling_ae, delay_s, abort_after, timeout_s)
        broken = abort_after is not None
    return results


def _result(item: _Item, status: int) -> SendResult:
    return SendResult(item.path, item.sop_instance, item.study, status)


def _send_study(
    items: Sequence[_Item],
    peer: tuple[str, str, int],
    calling_ae: str,
    delay_s: float,
    abort_after: int | None,
    timeout_s: float,
) -> list[SendResult]:
    entity = AE(ae_title=calling_ae)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = timeout_s
    entity.connection_timeout = timeout_s
    for sop_class, syntax in sorted({(item.sop_class, item.syntax) for item in items}):
        entity.add_requested_context(sop_class, syntax)
    name, host, port = peer
    association = entity.associate(host, port, ae_title=name)
    results = []
    for count, item in enumerate(items):
        if count == abort_after:
            association.abort()
        elif count and delay_s:
            time.sleep(delay_s)
        results.append(_result(item, _send_one(association, item)))
    if association.is_established:
        association.release()
    return results


def _send_one(association: Association, item: _Item) -> int:
    """DIMSE status of one instance, or a negative value."""
    if not association.is_established:
        return NO_ANSWER
    # the library's reading thread, waking late from the request before, would swallow the answer to this one
    end = time.monotonic() + 5.0
    while association._is_paused and association.is_alive() and time.monotonic() < end:
        time.sleep(0.0005)
    try:
        answer = association.send_c_store(item.path)
    except ValueError:
        return NOT_ACCEPTED
    return int(answer.Status) if "Status" in answer else NO_ANSWER
