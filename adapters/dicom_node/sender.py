"""C-STORE and C-ECHO as a client. Files go out in their own transfer syntax, byte for byte."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pynetdicom.presentation import build_context

from adapters.dicom_node.contexts import VERIFICATION
from adapters.dicom_node.outgoing import (
    LOST,
    Caller,
    close,
    nothing_accepted,
    settle,
    was_cut_off,
    why_not_established,
)
from adapters.dicom_node.part10 import FileMeta, read_meta
from adapters.dicom_node.tls import TlsFiles
from service.ports import Destination, ImageSender, StoreStatus

_log = logging.getLogger("spineprint.dicom")

_MOST_CONTEXTS = 128
"""Presentation context ids are the odd numbers 1 to 255 (PS3.8 section 9.3.2.2)."""
_NOT_SUPPORTED = 0x0122
_CANNOT_UNDERSTAND = 0xC000


@dataclass(frozen=True)
class _Item:
    index: int
    path: Path
    meta: FileMeta

    @property
    def context(self) -> tuple[str, str]:
        return self.meta.sop_class_uid, self.meta.transfer_syntax_uid


class DicomSender(ImageSender):
    def __init__(
        self,
        ae_title: str = "SPINEPRINT",
        *,
        tls: TlsFiles | None = None,
        connect_timeout_s: float = 10.0,
        acse_timeout_s: float = 30.0,
        dimse_timeout_s: float = 60.0,
        max_pdu_bytes: int = 131072,
    ) -> None:
        self._caller = Caller(
            ae_title, tls, connect_timeout_s, acse_timeout_s, dimse_timeout_s, max_pdu_bytes
        )

    def send(self, files: Sequence[Path], destination: Destination) -> Sequence[StoreStatus]:
        """C-STORE the files; one status per file, in order.

        A file that is no Part 10 file gets C000 and a class or syntax the destination did not accept gets 0122,
        both without being sent; no connection or no answer gives None. More than 128 kinds of object take
        several associations. Raises ConfigError when TLS is wanted and our certificate cannot be used.
        """
        answers: dict[int, StoreStatus] = {}
        items = []
        for index, path in enumerate(files):
            try:
                items.append(_Item(index, path, read_meta(path)))
            except (FileNotFoundError, ValueError) as error:
                detail = f"not sent: not a readable DICOM file ({type(error).__name__})"
                answers[index] = StoreStatus("", _CANNOT_UNDERSTAND, detail)
            except OSError as error:
                # a fault of the disk may pass; the object is not to be given up for it
                answers[index] = StoreStatus("", None, f"not sent: the disk fails ({type(error).__name__})")
        for batch in _batches(items):
            self._send_batch(batch, destination, answers)
        return [answers[index] for index in range(len(files))]

    def echo(self, destination: Destination) -> bool:
        entity = self._caller.entity()
        entity.add_requested_context(VERIFICATION)
        association = self._caller.associate(entity, destination)
        if not association.is_established:
            return False
        try:
            status = association.send_c_echo()
        except LOST:
            return False
        finally:
            close(association)
        return bool("Status" in status and status.Status == 0)

    def _send_batch(
        self, batch: Sequence[_Item], destination: Destination, answers: dict[int, StoreStatus]
    ) -> None:
        entity = self._caller.entity()
        entity.requested_contexts = [build_context(*kind) for kind in dict.fromkeys(i.context for i in batch)]
        association = self._caller.associate(entity, destination)
        lost = "" if nothing_accepted(association) else why_not_established(association, destination)
        if lost:
            _log.warning("no association with %s: %s", destination.ae_title, lost)
        accepted = {
            (str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in association.accepted_contexts
        }
        gone = False
        try:
            for item in batch:
                uid = item.meta.sop_instance_uid
                if lost:
                    answers[item.index] = StoreStatus(uid, None, lost)
                elif item.context not in accepted:
                    detail = "not sent: the destination accepts neither this object class nor its syntax"
                    answers[item.index] = StoreStatus(uid, _NOT_SUPPORTED, detail)
                elif gone or not association.is_established:
                    detail = "not sent: the association was lost before"
                    answers[item.index] = StoreStatus(uid, None, detail, attempted=False)
                else:
                    answers[item.index], gone = _store(association, item)
        finally:
            close(association)


def _store(association: Any, item: _Item) -> tuple[StoreStatus, bool]:
    """The answer, and whether the association is gone: its own flag follows the loss only some moments later."""
    uid = item.meta.sop_instance_uid
    try:
        settle(association)
        answer = association.send_c_store(item.path)
    except LOST as error:
        still_there = association.is_established
        status = StoreStatus(uid, None, f"not sent ({type(error).__name__})", attempted=still_there)
        return status, was_cut_off(association) or not still_there
    if "Status" not in answer:
        return StoreStatus(uid, None, "no answer: time-out, abort or an invalid response"), True
    return StoreStatus(uid, int(answer.Status), str(answer.get("ErrorComment", "") or "")), False


def _batches(items: Sequence[_Item]) -> Iterator[list[_Item]]:
    kinds: set[tuple[str, str]] = set()
    batch: list[_Item] = []
    for item in items:
        if item.context not in kinds and len(kinds) == _MOST_CONTEXTS:
            yield batch
            batch, kinds = [], set()
        kinds.add(item.context)
        batch.append(item)
    if batch:
        yield batch
