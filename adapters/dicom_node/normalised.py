"""C-ECHO and the normalised services of storage commitment, through pynetdicom's message classes."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.uid import UID
from pynetdicom.dimse_messages import C_ECHO_RSP, N_ACTION_RSP, N_EVENT_REPORT_RSP, DIMSEMessage
from pynetdicom.dimse_primitives import C_ECHO, N_ACTION, N_EVENT_REPORT
from pynetdicom.dsutils import decode
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA

from adapters.dicom_node.dimse import COMMAND_FLAG, LAST_FLAG, CommandError

DECODE_FAILURES = (
    ValueError, TypeError, LookupError, AttributeError, NotImplementedError, struct.error, OverflowError,
    RecursionError, EOFError, OSError, BytesLengthException,
)  # fmt: skip
"""What pydicom and pynetdicom raise for damaged commands and data sets (they have no common base class)."""

Primitive = Any
_ANSWERS = {C_ECHO: C_ECHO_RSP, N_ACTION: N_ACTION_RSP, N_EVENT_REPORT: N_EVENT_REPORT_RSP}


def primitive_of(context: int, command: bytes, data: bytes | None) -> Primitive:
    """pynetdicom's primitive of a whole message. Raises CommandError when it cannot be decoded."""
    parts = [[context, bytes([COMMAND_FLAG | LAST_FLAG]) + command]]
    if data is not None:
        parts.append([context, bytes([LAST_FLAG]) + data])
    carrier = P_DATA()
    message = DIMSEMessage()
    try:
        carrier.presentation_data_value_list = parts
        message.decode_msg(carrier)
        return message.message_to_primitive()
    except DECODE_FAILURES as error:
        raise CommandError(f"it cannot be decoded ({type(error).__name__})") from error


def data_set(stream: BytesIO | None, transfer_syntax: str) -> Dataset | None:
    """The data set of a message, or None when it has none. Raises CommandError when it cannot be decoded."""
    if stream is None or not stream.getbuffer().nbytes:
        return None
    syntax = UID(transfer_syntax)
    try:
        found = decode(stream, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
        for _ in found.iterall():  # values are decoded lazily: damage shows here, not later
            pass
    except DECODE_FAILURES as error:
        raise CommandError(f"its data set cannot be decoded ({type(error).__name__})") from error
    return found


def answer(request: Primitive, context: int, status: int, comment: str, longest_pdu: int) -> bytes:
    """The response PDUs to a C-ECHO, N-ACTION or N-EVENT-REPORT request (PS3.7 sections 9.1.5, 10.1)."""
    reply = type(request)()
    reply.MessageIDBeingRespondedTo = request.MessageID
    reply.Status = status
    if isinstance(request, C_ECHO):
        reply.AffectedSOPClassUID = request.AffectedSOPClassUID
    elif isinstance(request, N_ACTION):
        reply.AffectedSOPClassUID = request.RequestedSOPClassUID
        reply.AffectedSOPInstanceUID = request.RequestedSOPInstanceUID
        reply.ActionTypeID = request.ActionTypeID
    else:
        reply.AffectedSOPClassUID = request.AffectedSOPClassUID
        reply.AffectedSOPInstanceUID = request.AffectedSOPInstanceUID
        reply.EventTypeID = request.EventTypeID
    if comment:
        reply.ErrorComment = comment[:64]
    message = _ANSWERS[type(request)]()
    message.primitive_to_message(reply)
    pdus = []
    for part in message.encode_msg(context, longest_pdu):
        pdu = P_DATA_TF()
        pdu.from_primitive(part)
        pdus.append(pdu.encode())
    return b"".join(pdus)
