"""Whatever a client may send: the PDU reader, the negotiation, the messages and the state of an association.

The real association runs over a socket pair against a real segment log, in memory. It may refuse, abort or hang up;
it must not raise, must answer in whole PDUs, and must be done when the client is.
"""

from __future__ import annotations

import atexit
import logging
import shutil
import socket
import struct
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from pynetdicom.dimse_messages import C_ECHO_RQ, C_STORE_RQ, N_ACTION_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_ECHO, C_STORE, N_ACTION
from pynetdicom.dsutils import encode
from pynetdicom.pdu import P_DATA_TF

from adapters.dicom_node.association import Association, Surroundings
from adapters.dicom_node.commitment import CommitmentDesk
from adapters.dicom_node.events import NodeEvents
from adapters.dicom_node.holdings import StoreHoldings
from adapters.dicom_node.landing import Landing
from adapters.dicom_node.negotiation import CALLED_UNKNOWN, Proposal, Rejection
from adapters.dicom_node.pdu_reader import ReadLimits
from adapters.dicom_node.segment_files import Record
from adapters.dicom_node.segments import SegmentLog
from bench.dicom.wire import VERIFICATION, associate_request
from bench.fuzz.mutate import Unit
from service.errors import StorageError
from service.ports import Peer

_CT, _COMMITMENT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.20.1"
_INSTANCE = "1.2.826.0.1.3680043.10.9999.4.1"
_RESET_AFTER = 1000
_SEND_BUFFER = 1 << 20
_LONGEST = 150_000
"""What fits into a socket pair at once, so that one thread can play both sides."""
_ANSWERS = {0x02: 2, 0x03: 4, 0x04: 6, 0x06: 4, 0x07: 4}
"""PDU types that an acceptor may send, and the shortest length of each."""
_NOW = datetime(2024, 1, 2, tzinfo=UTC)


class _World:
    """What an association needs round it, all real but the clock; the log's folder is in memory when it can be."""

    def __init__(self) -> None:
        shared = Path("/dev/shm")
        self._folder = Path(tempfile.mkdtemp(prefix="fuzz-pdu-", dir=shared if shared.is_dir() else None))
        self._log = SegmentLog(self._folder / "segments", segment_bytes=1 << 20, spare_segments=1)
        self._log.open()
        self.events = NodeEvents(lambda: _NOW)
        (self._folder / "commitment").mkdir()
        holdings = StoreHoldings(self._folder, settle=lambda _: True)
        desk = CommitmentDesk(
            holdings, self._folder / "commitment", ae_title="SPINEPRINT",
            peers=(Peer("BENCH", "127.0.0.1", 104, ("pacs",)),), tls=None, now=lambda: _NOW,
            on_event=self.events.add, on_report=lambda _: None,
        )  # fmt: skip
        self.around = Surroundings(
            ae_title="SPINEPRINT",
            limits=ReadLimits(negotiation_s=2, idle_s=2, pdu_s=2, longest_pdu=1 << 20, announced_pdu=131072),
            new_landing=self._new_landing,
            decide=self._decide,
            keep=self._keep,
            desk=desk,
            events=self.events,
            now=lambda: _NOW,
        )
        self.cases = 0

    def _new_landing(self) -> Landing:
        return Landing(self._log, self._room, largest_bytes=100_000)

    @staticmethod
    def _room(wanted: int) -> None:
        if wanted > 60_000:
            raise StorageError("The disk is filled up to its reserve.", code="storage.full")

    @staticmethod
    def _decide(proposal: Proposal, _: str) -> None:
        if proposal.called_ae != "SPINEPRINT":
            raise Rejection(*CALLED_UNKNOWN)

    def _keep(self, record: Record) -> None:
        data = b"".join(bytes(block) for block in record.blocks())
        assert len(data) == record.size > 0, "a record has another length than it says"
        self._log.placed(record)
        self.events.count("kept")

    def retire(self) -> None:
        self._log.retire(also_active=True)

    def close(self) -> None:
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)


_world: _World | None = None


def reset() -> None:
    """Let go of the log and of what the desk keeps on the disk."""
    global _world  # noqa: PLW0603 - one per process, as cheap as it can be between cases
    if _world is not None:
        _world.close()
        _world = None


def counts() -> Mapping[str, int]:
    """What happened since the last `reset`, as the node counts it; `kept`: instances that got Success."""
    return {} if _world is None else _world.events.counts()


def _current() -> _World:
    global _world  # noqa: PLW0603
    if _world is not None and _world.cases >= _RESET_AFTER:
        reset()
    if _world is None:
        logging.getLogger("spineprint.dicom").setLevel(logging.CRITICAL + 1)
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
        logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
        _world = _World()
        atexit.register(reset)
    _world.cases += 1
    return _world


def one_case(data: bytes) -> None:
    """Send `data` and hang up. Raises whatever the association raised, or AssertionError for a broken answer."""
    world = _current()
    client, server = socket.socketpair()
    with client, server:
        for end in (client, server):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            end.settimeout(5)
        client.sendall(data[:_LONGEST])
        client.shutdown(socket.SHUT_WR)
        association = Association(server, "127.0.0.1", world.around)
        association.run()
        assert association.established_at is None, "an association that is over still counts as open"
        answers = bytearray()
        while part := client.recv(1 << 16):
            answers += part
    check_answers(bytes(answers))
    if world.cases % 50 == 0:
        world.retire()


def check_answers(answers: bytes) -> None:
    """Whole PDUs, of types that an acceptor may send, and nothing behind the last word."""
    offset = 0
    over = False
    while offset < len(answers):
        assert not over, "something was sent after the association was over"
        assert offset + 6 <= len(answers), "an answer is cut off in its header"
        kind, length = struct.unpack_from(">BxI", answers, offset)
        assert kind in _ANSWERS, f"an answer has the type {kind:02X}"
        assert length >= _ANSWERS[kind], f"an answer of type {kind:02X} has {length} bytes"
        offset += 6 + length
        over = kind in (0x03, 0x06, 0x07)
    assert offset == len(answers), "an answer is shorter than its header says"


# --- seeds ------------------------------------------------------------------------------------------------


@cache
def seeds() -> tuple[bytes, ...]:
    """Valid conversations of a client, made with pynetdicom."""
    request = associate_request("SPINEPRINT", "BENCH", _CT, VERIFICATION, _COMMITMENT)
    release, abort = struct.pack(">BxI4x", 0x05, 4), struct.pack(">BxI4x", 0x07, 4)
    echo = _message(3, _echo())
    store, store_in_pieces = _message(1, _store()), _message(1, _store(), longest=128)
    action = _message(5, _action())
    rich = _rich_request()
    return (
        request + release,
        request + echo + release,
        request + store + release,
        request + store_in_pieces + store + release,
        request + echo + store + action + echo + abort,
        request + action + release,
        rich + store + release,
        rich + release,
        request + store + store_in_pieces + echo,
        associate_request("SOMEBODY", "BENCH", _CT) + release,
    )


def _message(context: int, message: DIMSEMessage, longest: int = 16384) -> bytes:
    pdus = []
    for part in message.encode_msg(context, longest):
        pdu = P_DATA_TF()
        pdu.from_primitive(part)
        pdus.append(pdu.encode())
    return b"".join(pdus)


def _echo() -> DIMSEMessage:
    primitive = C_ECHO()
    primitive.MessageID, primitive.AffectedSOPClassUID = 7, VERIFICATION
    message = C_ECHO_RQ()
    message.primitive_to_message(primitive)
    return message


def _store() -> DIMSEMessage:
    primitive = C_STORE()
    primitive.MessageID, primitive.Priority = 8, 2
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = _CT, _INSTANCE
    primitive.DataSet = BytesIO(_encoded_image())
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    return message


def _encoded_image() -> bytes:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = _CT, _INSTANCE
    ds.PatientID, ds.Modality = "FUZZ", "CT"
    ds.Rows = ds.Columns = 16
    ds.BitsAllocated = 16
    ds.PixelData = bytes(512)
    ds["PixelData"].VR = "OW"
    buffer = BytesIO()
    dcmwrite(buffer, ds, implicit_vr=False, little_endian=True)
    return buffer.getvalue()


def _action() -> DIMSEMessage:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = _CT, _INSTANCE
    ds = Dataset()
    ds.TransactionUID = "1.2.826.0.1.3680043.10.9999.5.1"
    ds.ReferencedSOPSequence = [item, item]
    primitive = N_ACTION()
    primitive.MessageID, primitive.ActionTypeID = 9, 1
    primitive.RequestedSOPClassUID = _COMMITMENT
    primitive.RequestedSOPInstanceUID = "1.2.840.10008.1.20.1.1"
    primitive.ActionInformation = BytesIO(encode(ds, False, True) or b"")
    message = N_ACTION_RQ()
    message.primitive_to_message(primitive)
    return message


def _rich_request() -> bytes:
    """Every kind of user information that a requestor may send."""
    from pynetdicom.pdu import A_ASSOCIATE_RQ
    from pynetdicom.pdu_primitives import (
        AsynchronousOperationsWindowNegotiation,
        ImplementationVersionNameNotification,
        SCP_SCU_RoleSelectionNegotiation,
        SOPClassCommonExtendedNegotiation,
        SOPClassExtendedNegotiation,
        UserIdentityNegotiation,
    )

    pdu = A_ASSOCIATE_RQ()
    pdu.decode(associate_request("SPINEPRINT", "BENCH", _CT, VERIFICATION, _COMMITMENT))
    primitive = pdu.to_primitive()
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid, role.scu_role, role.scp_role = _COMMITMENT, True, True
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = window.maximum_number_operations_performed = 5
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = "FUZZ_1"
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid, extended.service_class_application_information = _CT, b"\2\0\3\0\1\0"
    common = SOPClassCommonExtendedNegotiation()
    common.sop_class_uid, common.service_class_uid = _CT, "1.2.840.10008.4.2"
    common.related_general_sop_class_identification = ["1.2.840.10008.5.1.4.1.1.88.22"]
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.primary_field, identity.secondary_field = 2, b"name", b"word"
    primitive.user_information = [
        *primitive.user_information, role, window, version, extended, common, identity,
    ]  # fmt: skip
    rich = A_ASSOCIATE_RQ()
    rich.from_primitive(primitive)
    return bytes(rich.encode())


WORDS = (
    b"SPINEPRINT      ", b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.1.2", b"1.2.840.10008.1.1", _CT.encode(),
    b"\4\0\0\0\0\6\0\0\0\2\1\3", b"\5\0\0\0\0\4\0\0\0\0", b"\7\0\0\0\0\4\0\0\0\0", b"\0\0\0\1\2\0\0\0\1\0",
    b"1" * 65, b"../../../x", b"\xff\xff\xff\xff", b"\0\0\x01\xff",
)  # fmt: skip


# --- structure --------------------------------------------------------------------------------------------


def units(data: bytes) -> Sequence[Unit]:
    """PDUs, and in them items, fragments and the elements of commands."""
    found: list[Unit] = []
    offset = 0
    while offset + 6 <= len(data):
        kind, length = struct.unpack_from(">BxI", data, offset)
        end = offset + 6 + length
        if end > len(data):
            break
        found.append(Unit(offset, end, offset + 2))
        if kind == 0x01:
            _items(data, offset + 74, end, found)
        elif kind == 0x04:
            _fragments(data, offset + 6, end, found)
        offset = end
    return found


def _items(data: bytes, start: int, end: int, found: list[Unit]) -> None:
    while start + 4 <= end:
        kind, length = struct.unpack_from(">BxH", data, start)
        stop = start + 4 + length
        if stop > end:
            return
        found.append(Unit(start, stop, start + 2, 2))
        if kind in (0x20, 0x50):
            _items(data, start + (8 if kind == 0x20 else 4), stop, found)
        start = stop


def _fragments(data: bytes, start: int, end: int, found: list[Unit]) -> None:
    while start + 6 <= end:
        length, _context, control = struct.unpack_from(">IBB", data, start)
        stop = start + 4 + length
        if length < 2 or stop > end:
            return
        found.append(Unit(start, stop, start))
        if control & 1:
            _elements(data, start + 6, stop, found)
        start = stop


def _elements(data: bytes, start: int, end: int, found: list[Unit]) -> None:
    while start + 8 <= end:
        (length,) = struct.unpack_from("<I", data, start + 4)
        stop = start + 8 + length
        if stop > end:
            return
        found.append(Unit(start, stop, start + 4, 4, big_endian=False))
        start = stop
