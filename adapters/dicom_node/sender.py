"""C-STORE and C-ECHO as a client. Files go out in their own transfer syntax, byte for byte."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pynetdicom import AE, _config
from pynetdicom.presentation import build_context

from adapters.dicom_node.contexts import VERIFICATION
from adapters.dicom_node.part10 import FileMeta, read_meta
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
        connect_timeout_s: float = 10.0,
        acse_timeout_s: float = 30.0,
        dimse_timeout_s: float = 60.0,
        max_pdu_bytes: int = 131072,
    ) -> None:
        self._ae_title = ae_title
        self._connect_timeout_s = connect_timeout_s
        self._acse_timeout_s = acse_timeout_s
        self._dimse_timeout_s = dimse_timeout_s
        self._max_pdu_bytes = max_pdu_bytes

    def send(self, files: Sequence[Path], destination: Destination) -> Sequence[StoreStatus]:
        """C-STORE the files; one status per file, in order.

        A file that is no Part 10 file gets C000 and a class or syntax the destination did not accept gets 0122,
        both without being sent; no connection or no answer gives None. More than 128 kinds of object take
        several associations.
        """
        answers: dict[int, StoreStatus] = {}
        items = []
        for index, path in enumerate(files):
            try:
                items.append(_Item(index, path, read_meta(path)))
            except (OSError, ValueError) as error:
                detail = f"not sent: not a readable DICOM file ({type(error).__name__})"
                answers[index] = StoreStatus("", _CANNOT_UNDERSTAND, detail)
        for batch in _batches(items):
            self._send_batch(batch, destination, answers)
        return [answers[index] for index in range(len(files))]

    def echo(self, destination: Destination) -> bool:
        entity = self._entity()
        entity.add_requested_context(VERIFICATION)
        association = self._associate(entity, destination)
        if not association.is_established:
            return False
        try:
            status = association.send_c_echo()
        except (RuntimeError, ValueError, OSError):
            # the library's words for an association lost between two calls
            return False
        finally:
            _close(association)
        return bool("Status" in status and status.Status == 0)

    def _entity(self) -> AE:
        _config.LOG_HANDLER_LEVEL = "none"
        # without it the library decodes each file and encodes it again, which changes damaged or odd data sets
        _config.STORE_SEND_CHUNKED_DATASET = True
        entity = AE(ae_title=self._ae_title)
        entity.connection_timeout = self._connect_timeout_s
        entity.acse_timeout = self._acse_timeout_s
        entity.dimse_timeout = self._dimse_timeout_s
        entity.network_timeout = self._dimse_timeout_s
        entity.maximum_pdu_size = self._max_pdu_bytes
        return entity

    def _associate(self, entity: AE, destination: Destination) -> Any:
        return entity.associate(
            destination.host,
            destination.port,
            ae_title=destination.ae_title,
            max_pdu=self._max_pdu_bytes,
        )

    def _send_batch(
        self, batch: Sequence[_Item], destination: Destination, answers: dict[int, StoreStatus]
    ) -> None:
        entity = self._entity()
        entity.requested_contexts = [build_context(*kind) for kind in dict.fromkeys(i.context for i in batch)]
        association = self._associate(entity, destination)
        lost = _why_not_established(association)
        if lost:
            _log.warning("no association with %s: %s", destination.ae_title, lost)
        accepted = {
            (str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in association.accepted_contexts
        }
        try:
            for item in batch:
                uid = item.meta.sop_instance_uid
                if not lost and item.context not in accepted:
                    detail = "not sent: the destination accepts neither this object class nor its syntax"
                    answers[item.index] = StoreStatus(uid, _NOT_SUPPORTED, detail)
                elif lost or not association.is_established:
                    answers[item.index] = StoreStatus(uid, None, lost or "the association was lost before")
                else:
                    answers[item.index] = _store(association, item)
        finally:
            _close(association)


def _store(association: Any, item: _Item) -> StoreStatus:
    uid = item.meta.sop_instance_uid
    try:
        answer = association.send_c_store(item.path)
    except (RuntimeError, ValueError, AttributeError, OSError) as error:
        # RuntimeError: association gone; ValueError/AttributeError: the library cannot encode the request
        return StoreStatus(uid, None, f"not sent ({type(error).__name__})")
    if "Status" not in answer:
        return StoreStatus(uid, None, "no answer: time-out, abort or an invalid response")
    return StoreStatus(uid, int(answer.Status), str(answer.get("ErrorComment", "") or ""))


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


def _why_not_established(association: Any) -> str:
    if association.is_established:
        return ""
    if association.is_rejected:
        answer = association.acceptor.primitive
        reason = getattr(answer, "reason_str", "") if answer is not None else ""
        return f"the destination rejected the association: {reason or 'no reason given'}"
    # the library sets the same flag when the port is closed and when the peer aborts the negotiation
    return "no connection, or the destination aborted the negotiation"


def _close(association: Any) -> None:
    if association.is_established:
        association.release()
