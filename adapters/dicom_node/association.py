"""One association, from its first byte to its last, on its own thread.

The data path: fragments go from the socket into the buffer of this association, the last one makes the instance
durable in the log, then Success is sent. The data set is never parsed and no database is asked.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from io import BytesIO
from typing import NamedTuple

from pynetdicom.dimse_primitives import C_ECHO, N_ACTION, N_EVENT_REPORT

from adapters.dicom_node import dimse, normalised, pdu_reader
from adapters.dicom_node.callers import printable
from adapters.dicom_node.commitment import CommitmentDesk
from adapters.dicom_node.contexts import COMMITMENT, STORAGE_CLASSES, VERIFICATION
from adapters.dicom_node.dimse import Command, CommandError
from adapters.dicom_node.durable_store import is_uid
from adapters.dicom_node.events import NodeEvents
from adapters.dicom_node.landing import Landing
from adapters.dicom_node.negotiation import (
    AcceptedContext,
    Proposal,
    Rejection,
    accept,
    read_proposal,
    rejection_pdu,
)
from adapters.dicom_node.part10 import InstanceFacts
from adapters.dicom_node.pdu_reader import PduReader, PeerFaultError, PeerGoneError, ReadLimits
from adapters.dicom_node.segment_files import Record
from service.errors import StorageError

_log = logging.getLogger("spineprint.dicom")

SUCCESS, PROCESSING_FAILURE, CLASS_NOT_SUPPORTED = 0x0000, 0x0110, 0x0122
UNRECOGNISED_OPERATION, OUT_OF_RESOURCES, CLASS_MISMATCH, CANNOT_UNDERSTAND = 0x0211, 0xA700, 0xA900, 0xC000
_STATUS_OF_STORAGE = {"storage.full": OUT_OF_RESOURCES, "storage.size": OUT_OF_RESOURCES}

_LONGEST_COMMAND = 1 << 16
_LONGEST_MESSAGE = 16 << 20
"""Data set of a message that is no instance: a commitment request for 50,000 of them has 8 MB (see
`commitment_content` for how many are taken)."""
_LINGER_S = 1.0
_AT_WORK_S = 5.0
"""So long after a message an association counts towards the limit."""
_DEFAULT_PDU = 16384
_SERVICE_PROVIDER = 0x02


@dataclass(frozen=True)
class Surroundings:
    """What an association needs of the node. `decide` raises Rejection, after it said why."""

    ae_title: str
    limits: ReadLimits
    new_landing: Callable[[], Landing]
    decide: Callable[[Proposal, str], None]
    keep: Callable[[Record], None]
    desk: CommitmentDesk | None
    events: NodeEvents
    now: Callable[[], datetime]


@dataclass
class _Message:
    """One DIMSE message while it arrives. `context` 0: nothing of it came yet."""

    context: int = 0
    command: bytearray = field(default_factory=bytearray)
    request: Command | None = None
    """Its command set, once whole; then the data set follows."""
    data: bytearray = field(default_factory=bytearray)
    """Its data set, when it is no instance."""


class Refusal(NamedTuple):
    """Why an instance is not kept; `kind` names the counter."""

    status: int
    kind: str
    why: str
    next_step: str = ""


class Association:
    """`run` returns when the association is over; it never raises for what a peer does."""

    def __init__(self, sock: socket.socket, address: str, around: Surroundings) -> None:
        self.id = uuid.uuid4().hex
        self.address = address
        self.calling_ae = ""
        self.called_ae = ""
        self._caller = ""
        """The title as it may be printed."""
        self.established_at: datetime | None = None
        self.instances = 0
        self._at_work_until = 0.0
        self._sock = sock
        self._around = around
        self._reader = PduReader(sock, around.limits, self._rest)
        self._contexts: dict[int, AcceptedContext] = {}
        self._longest_pdu = _DEFAULT_PDU
        self._landing: Landing | None = None
        self._refusal: Refusal | None = None
        """Why the instance that is arriving will not be kept."""
        self._arriving = _Message()

    # --- life ---------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            if self._negotiate():
                while self._one_pdu():
                    pass
        except PeerGoneError as gone:
            self._on_gone(str(gone))
        except PeerFaultError as fault:
            self._note("faults", f"dropped: it {fault}")
            self._send_abort(fault.reason)
        finally:
            if self._landing is not None:
                self._landing.abandon()
            self.established_at = None
            self._hang_up()

    @property
    def at_work(self) -> bool:
        """In the middle of a message, or soon after one. Who only holds an association is not."""
        return bool(self._arriving.context) or time.monotonic() < self._at_work_until

    def _rest(self) -> None:
        """Between messages: give back what only a busy association needs."""
        if not self._arriving.context:
            self._landing = None

    def end(self) -> None:
        """From another thread: abort."""
        self._send_abort(0)
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _negotiate(self) -> bool:
        kind, length = self._reader.next_pdu(negotiating=True)
        if kind != pdu_reader.ASSOCIATE_RQ:
            raise PeerFaultError("sent a PDU before it asked for an association", pdu_reader.UNEXPECTED_PDU)
        body = self._reader.take(length)
        try:
            proposal = read_proposal(body)
            self.calling_ae, self.called_ae = proposal.calling_ae, proposal.called_ae
            self._around.decide(proposal, self.address)
        except Rejection as rejection:
            self._send(rejection_pdu(rejection.codes))
            return False
        self._caller = printable(self.calling_ae)
        acceptance = accept(proposal, longest_pdu=self._around.limits.announced_pdu)
        self._contexts = acceptance.contexts
        self._longest_pdu = proposal.longest_pdu
        self.established_at = self._around.now()
        self._around.events.count("associations")
        if not self._contexts:
            self._note(
                "no_context",
                "it offers no object class or syntax that this node takes",
                "Let it send CT images in a DICOM syntax.",
            )
        self._send(acceptance.answer)
        return True

    def _on_gone(self, how: str) -> None:
        if self.established_at is None:
            # a port probe, or a peer that changed its mind before it was an association
            self._around.events.count("probes")
        else:
            self._note("aborted", f"the connection was lost {how}".strip())

    def _one_pdu(self) -> bool:
        """False when the association is over."""
        kind, length = self._reader.next_pdu()
        if kind == pdu_reader.P_DATA:
            self._take_fragments()
            return True
        if kind == pdu_reader.RELEASE_RQ:
            self._reader.take(length)
            self._send(struct.pack(">BxI4x", pdu_reader.RELEASE_RP, 4))
            return False
        if kind == pdu_reader.ABORT:
            self._note("aborted", "the sender aborted the association")
            return False
        raise PeerFaultError("sent a PDU that does not belong here", pdu_reader.UNEXPECTED_PDU)

    # --- messages -----------------------------------------------------------------------------------------

    def _take_fragments(self) -> None:
        while (fragment := self._reader.next_pdv()) is not None:
            context, control, length = fragment
            arriving = self._arriving
            if context not in self._contexts:
                raise PeerFaultError(f"used presentation context {context}, which was not accepted")
            if arriving.context not in (0, context):
                raise PeerFaultError("mixed the messages of two presentation contexts")
            arriving.context = context
            is_command, is_last = bool(control & dimse.COMMAND_FLAG), bool(control & dimse.LAST_FLAG)
            if is_command == (arriving.request is not None):
                raise PeerFaultError("sent a message whose parts do not follow each other")
            if is_command:
                self._take_command(arriving, length, is_last)
            else:
                self._take_data(arriving, length, is_last)

    def _take_command(self, arriving: _Message, length: int, is_last: bool) -> None:
        if len(arriving.command) + length > _LONGEST_COMMAND:
            raise PeerFaultError(f"sent a command longer than {_LONGEST_COMMAND} bytes")
        arriving.command += self._reader.take(length)
        if not is_last:
            return
        try:
            request = dimse.parse_command(bytes(arriving.command))
        except CommandError as error:
            raise PeerFaultError(f"sent a command that makes no sense: {error}") from error
        if request.field == dimse.C_STORE_RQ:
            self._begin_instance(arriving.context, request)
        arriving.request = request
        if not request.has_data_set:
            self._handle(arriving, request)

    def _take_data(self, arriving: _Message, length: int, is_last: bool) -> None:
        request = arriving.request
        if request is None:
            raise AssertionError("a data set follows its command")
        if request.field == dimse.C_STORE_RQ and self._landing is not None:
            view = self._landing.view(length)
            try:
                self._reader.fill(view)
            finally:
                view.release()
            self._landing.filled(length)
        elif len(arriving.data) + length > _LONGEST_MESSAGE:
            raise PeerFaultError(f"sent a message longer than {_LONGEST_MESSAGE >> 20} MB")
        else:
            arriving.data += self._reader.take(length)
        if is_last:
            self._handle(arriving, request)

    def _handle(self, message: _Message, request: Command) -> None:
        self._arriving = _Message()
        self._at_work_until = time.monotonic() + _AT_WORK_S
        if request.field == dimse.C_STORE_RQ:
            self._finish_instance(message.context, request)
        elif request.field in (dimse.C_ECHO_RQ, dimse.N_ACTION_RQ, dimse.N_EVENT_REPORT_RQ):
            data = bytes(message.data) if request.has_data_set else None
            self._serve(message.context, bytes(message.command), data)
        elif request.field != dimse.C_CANCEL_RQ:  # nothing here takes long enough to be cancelled
            self._note(
                "refused_operation", f"it asked for an operation that is not offered ({request.field:04X})"
            )
            self._send(dimse.answer(message.context, request, UNRECOGNISED_OPERATION))

    # --- C-STORE ------------------------------------------------------------------------------------------

    def _begin_instance(self, context: int, command: Command) -> None:
        accepted = self._contexts[context]
        if self._landing is None:
            self._landing = self._around.new_landing()
        self._refusal = _refusal_of(command, accepted)
        self._landing.begin(wanted=self._refusal is None)

    def _facts(self, command: Command, context: int, size: int) -> InstanceFacts:
        return InstanceFacts(
            sop_class_uid=command.sop_class_uid,
            sop_instance_uid=command.sop_instance_uid,
            transfer_syntax_uid=self._contexts[context].transfer_syntax,
            calling_ae=self._caller,
            called_ae=self._around.ae_title,
            peer_address=self.address,
            association=self.id,
            received_at=self._around.now(),
            sha256="",
            size=size,
        )

    def _finish_instance(self, context: int, command: Command) -> None:
        """Status of one C-STORE (PS3.4 annex B.2.3)."""
        landing, refusal = self._landing, self._refusal
        if landing is None:
            raise AssertionError("an instance begins before it ends")
        if refusal is None and not landing.size and landing.refusal is None:
            refusal = Refusal(CANNOT_UNDERSTAND, "refused_empty", "it has no data set")
        if refusal is None:
            try:
                record = landing.finish(self._facts(command, context, landing.size))
            except StorageError as error:
                status = _STATUS_OF_STORAGE.get(error.code, PROCESSING_FAILURE)
                kind = "refused_size" if error.code == "storage.size" else "refused_storage"
                refusal = Refusal(status, kind, error.message, error.next_step)
            else:
                self.instances += 1
                self._around.keep(record)
                self._send(dimse.answer(context, command, SUCCESS))
                return
        landing.abandon()
        what = f"instance refused with {refusal.status:04X}: {refusal.why}"
        self._note(refusal.kind, what, refusal.next_step or "Correct the object at its source.")
        self._send(dimse.answer(context, command, refusal.status, refusal.why))

    # --- other services -----------------------------------------------------------------------------------

    def _serve(self, context: int, command: bytes, message: bytes | None) -> None:
        accepted = self._contexts[context]
        try:
            request = normalised.primitive_of(context, command, message)
            status, comment = self._status_of(request, accepted)
        except CommandError as error:
            raise PeerFaultError(f"sent a message that makes no sense: {error}") from error
        except normalised.DECODE_FAILURES as error:
            raise PeerFaultError(f"sent a message that makes no sense ({type(error).__name__})") from error
        self._send(normalised.answer(request, context, status, comment, self._longest_pdu))

    def _status_of(self, request: normalised.Primitive, accepted: AcceptedContext) -> tuple[int, str]:
        if isinstance(request, C_ECHO):
            if accepted.abstract_syntax != VERIFICATION:
                return CLASS_NOT_SUPPORTED, "C-ECHO belongs to the Verification class"
            self._around.events.count("echoes")
            return SUCCESS, ""
        desk = self._around.desk
        if desk is None or accepted.abstract_syntax != COMMITMENT:
            return CLASS_NOT_SUPPORTED, "this class is not offered here"
        if isinstance(request, N_ACTION):
            return desk.action(
                calling_ae=self.calling_ae,
                address=self.address,
                sop_class_uid=str(request.RequestedSOPClassUID or ""),
                sop_instance_uid=str(request.RequestedSOPInstanceUID or ""),
                action_type=int(request.ActionTypeID or 0),
                dataset=normalised.data_set(_stream(request.ActionInformation), accepted.transfer_syntax),
            )
        if isinstance(request, N_EVENT_REPORT):
            return desk.report(
                calling_ae=self.calling_ae,
                address=self.address,
                sop_class_uid=str(request.AffectedSOPClassUID or ""),
                sop_instance_uid=str(request.AffectedSOPInstanceUID or ""),
                event_type=int(request.EventTypeID or 0),
                dataset=normalised.data_set(_stream(request.EventInformation), accepted.transfer_syntax),
            )
        raise CommandError("it is not the request that its number says")

    # --- the wire -----------------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except OSError as error:
            raise PeerGoneError(f"while it was answered ({type(error).__name__})") from error

    def _send_abort(self, reason: int) -> None:
        with contextlib.suppress(OSError):
            self._sock.sendall(struct.pack(">BxIxxBB", pdu_reader.ABORT, 4, _SERVICE_PROVIDER, reason))

    def _hang_up(self) -> None:
        """Let the peer read our last words: closing at once would throw them away with its unread bytes."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)
            end = time.monotonic() + _LINGER_S
            self._sock.settimeout(_LINGER_S)
            while time.monotonic() < end and self._sock.recv(1 << 16):
                pass
        with contextlib.suppress(OSError):
            self._sock.close()

    def _note(self, kind: str, what: str, next_step: str = "") -> None:
        self._around.events.note(
            kind,
            what,
            calling_ae=self.calling_ae,
            called_ae=self.called_ae,
            address=self.address,
            next_step=next_step,
        )


def _refusal_of(command: Command, accepted: AcceptedContext) -> Refusal | None:
    """What can be refused before the first byte of the data set."""
    if accepted.abstract_syntax not in STORAGE_CLASSES:
        return Refusal(CLASS_NOT_SUPPORTED, "refused_class", "this class is not stored")
    if command.sop_class_uid != accepted.abstract_syntax:
        return Refusal(CLASS_MISMATCH, "refused_class", "its class is not that of its context")
    if not is_uid(command.sop_instance_uid):
        return Refusal(CANNOT_UNDERSTAND, "refused_uid", "it carries a UID that is not a UID")
    return None


def _stream(value: object) -> BytesIO | None:
    return value if isinstance(value, BytesIO) else None
