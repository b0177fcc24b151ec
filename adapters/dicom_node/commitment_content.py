"""What storage commitment messages carry (PS3.4 annex J), in plain values and back. No network here."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.sequence import Sequence as DicomSequence

from adapters.dicom_node.durable_store import is_uid
from service.ports import CommitmentReport, CommitmentSink

_log = logging.getLogger("spineprint.dicom")

PUSH_MODEL = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"
REQUEST_COMMITMENT = 1
"""The only action type of the class (PS3.4 table J.3-1)."""
ALL_COMMITTED, SOME_FAILED = 1, 2
"""Event types (PS3.4 table J.3-2)."""

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
NO_SUCH_INSTANCE = 0x0112
NO_SUCH_EVENT = 0x0113
INVALID_ARGUMENT = 0x0115
NO_SUCH_CLASS = 0x0118
NO_SUCH_ACTION = 0x0123
NOT_AUTHORISED = 0x0124
MISTYPED_ARGUMENT = 0x0212
RESOURCE_LIMITATION = 0x0213
"""Statuses of N-ACTION and N-EVENT-REPORT (PS3.7 sections 10.1.1.1.8 and 10.1.4.1.10)."""

FAILED_PROCESSING = 0x0110
FAILED_ABSENT = 0x0112
FAILED_CLASS_CONFLICT = 0x0119
FAILED_CLASS_UNSUPPORTED = 0x0122
"""Failure reasons (PS3.3 section C.14.1.1)."""

MOST_REFERENCES = 20_000
"""In one request: several CT studies. Each thousand costs the library 0.2 s to decode and as much to report."""
UNREADABLE = (ValueError, TypeError, AttributeError, LookupError, NotImplementedError, OverflowError,
              RecursionError, EOFError, struct.error, BytesLengthException)  # fmt: skip
"""What pydicom raises, at first use, for values that are not what their type says."""

Reference = tuple[str, str]
"""SOP class UID, SOP instance UID."""


@dataclass(frozen=True)
class Refusal:
    """A DIMSE status other than success, and why (ErrorComment, at most 64 characters: PS3.7 annex E.1)."""

    status: int
    comment: str


@dataclass(frozen=True)
class CommitmentRequest:
    transaction_uid: str
    references: tuple[Reference, ...]


def addressed_wrongly(sop_class_uid: str, sop_instance_uid: str) -> Refusal | None:
    """Both messages go to the one well-known instance of the push model (PS3.4 section J.3.5)."""
    if sop_class_uid != PUSH_MODEL:
        return Refusal(NO_SUCH_CLASS, "only the Storage Commitment Push Model class")
    if sop_instance_uid != PUSH_MODEL_INSTANCE:
        return Refusal(NO_SUCH_INSTANCE, "not the well-known Push Model instance")
    return None


def read_request(data: Dataset | None) -> CommitmentRequest | Refusal:
    """The Action Information of a request (PS3.4 table J.3-1)."""
    if data is None:
        return Refusal(INVALID_ARGUMENT, "no action information")
    try:
        return _wish(data)
    except UNREADABLE:
        return Refusal(MISTYPED_ARGUMENT, "action information cannot be read")


def _wish(data: Dataset) -> CommitmentRequest | Refusal:
    transaction = _transaction(data)
    if isinstance(transaction, Refusal):
        return transaction
    references = _references(data, "ReferencedSOPSequence")
    if isinstance(references, Refusal):
        return references
    if not references:
        return Refusal(INVALID_ARGUMENT, "Referenced SOP Sequence is missing or empty")
    return CommitmentRequest(transaction, tuple(dict.fromkeys(references)))


def read_report(event_type: int, data: Dataset | None) -> CommitmentReport | Refusal:
    """The Event Information of a report (PS3.4 table J.3-2). What is named both committed and failed has failed."""
    if event_type not in (ALL_COMMITTED, SOME_FAILED):
        return Refusal(NO_SUCH_EVENT, f"event type {event_type} is not one of this class")
    if data is None:
        return Refusal(INVALID_ARGUMENT, "no event information")
    try:
        return _outcome(data)
    except UNREADABLE:
        return Refusal(MISTYPED_ARGUMENT, "event information cannot be read")


def take_report(
    sink: CommitmentSink | None,
    sop_class_uid: str,
    sop_instance_uid: str,
    event_type: int,
    data: Callable[[], Dataset | None],
) -> CommitmentReport | Refusal:
    """Read a report and give it to the sink; a report that comes back was taken.

    `data` decodes the Event Information, which may be anything.
    """
    refusal = addressed_wrongly(sop_class_uid, sop_instance_uid)
    if refusal is not None:
        return refusal
    if sink is None:
        return Refusal(NOT_AUTHORISED, "this node asks nobody for commitment")
    try:
        told = read_report(event_type, data())
    except UNREADABLE:
        return Refusal(MISTYPED_ARGUMENT, "event information cannot be read")
    if isinstance(told, Refusal):
        return told
    try:
        sink(told)
    except Exception as error:  # noqa: BLE001 - whatever the sink raises, the archive must hear that it has to repeat
        _log.error("storage commitment report could not be kept (%s)", type(error).__name__)
        return Refusal(PROCESSING_FAILURE, "the report could not be kept, repeat it")
    return told


def _outcome(data: Dataset) -> CommitmentReport | Refusal:
    transaction = _transaction(data)
    if isinstance(transaction, Refusal):
        return transaction
    committed = _references(data, "ReferencedSOPSequence")
    if isinstance(committed, Refusal):
        return committed
    failed = _references(data, "FailedSOPSequence")
    if isinstance(failed, Refusal):
        return failed
    reasons = _reasons(data)
    safe = tuple(uid for _, uid in dict.fromkeys(committed) if uid not in reasons)
    if not safe and not reasons:
        return Refusal(INVALID_ARGUMENT, "neither committed nor failed instances named")
    return CommitmentReport(transaction, safe, reasons)


def request_content(transaction_uid: str, references: Sequence[Reference]) -> Dataset:
    data = Dataset()
    data.TransactionUID = transaction_uid
    data.ReferencedSOPSequence = DicomSequence([_item(reference) for reference in references])
    return data


def report_content(
    transaction_uid: str, references: Sequence[Reference], failed: Mapping[str, int]
) -> tuple[int, Dataset]:
    """Event type and Event Information. `failed` maps SOP instance UIDs to reasons; the others are committed."""
    data = Dataset()
    data.TransactionUID = transaction_uid
    committed = [_item(reference) for reference in references if reference[1] not in failed]
    if committed:
        data.ReferencedSOPSequence = DicomSequence(committed)
    if not failed:
        return ALL_COMMITTED, data
    items = []
    for reference in references:
        if reference[1] in failed:
            items.append(_item(reference))
            items[-1].FailureReason = failed[reference[1]]
    data.FailedSOPSequence = DicomSequence(items)
    return SOME_FAILED, data


def _item(reference: Reference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = reference
    return item


def _transaction(data: Dataset) -> str | Refusal:
    uid = _text(data, "TransactionUID")
    if not uid:
        return Refusal(INVALID_ARGUMENT, "Transaction UID is missing or empty")
    return uid if is_uid(uid) else Refusal(INVALID_ARGUMENT, "Transaction UID is not a UID")


def _references(data: Dataset, keyword: str) -> list[Reference] | Refusal:
    items = data.get(keyword)
    if not items:
        return []
    if not isinstance(items, pydicom.Sequence):
        return Refusal(MISTYPED_ARGUMENT, f"{keyword} is not a sequence")
    if len(items) > MOST_REFERENCES:
        return Refusal(RESOURCE_LIMITATION, f"more than {MOST_REFERENCES} instances in one request")
    found = [
        (_text(item, "ReferencedSOPClassUID"), _text(item, "ReferencedSOPInstanceUID")) for item in items
    ]
    if not all(is_uid(uid) for reference in found for uid in reference):
        return Refusal(INVALID_ARGUMENT, f"{keyword} has an item without valid UIDs")
    return found


def _reasons(data: Dataset) -> dict[str, int]:
    items = data.get("FailedSOPSequence") or ()
    return {
        _text(item, "ReferencedSOPInstanceUID"): int(item.get("FailureReason") or FAILED_PROCESSING)
        for item in items
    }


def _text(data: Dataset, keyword: str) -> str:
    value: Any = data.get(keyword)
    return "" if value is None else str(value).strip()
