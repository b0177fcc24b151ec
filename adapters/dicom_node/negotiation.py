"""From the bytes of an A-ASSOCIATE-RQ to the answer (PS3.8 section 9.3.2, PS3.7 annex D).

The structure is checked here, in one bounded walk, before pynetdicom decodes it: its decoder trusts lengths. Which
syntax is taken, who may call and what is answered is decided context by context in the requestor's order.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pynetdicom import pdu_primitives
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.presentation import PresentationContext, build_context, negotiate_as_acceptor

from adapters.dicom_node.contexts import COMMITMENT, VERIFICATION, syntaxes_for
from adapters.dicom_node.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from adapters.dicom_node.pdu_reader import PeerFaultError

_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
_FIXED_BYTES = 68
_CONTEXT_ITEM, _ABSTRACT_SYNTAX, _TRANSFER_SYNTAX, _USER_ITEM = 0x20, 0x30, 0x40, 0x50
_MOST_CONTEXTS, _MOST_SUB_ITEMS = 128, 512
_LEAST_PDU = 1024
"""Shorter than any answer would be; nobody real announces less (0 means no limit)."""
_DECODER_FAILURES = (
    ValueError, TypeError, LookupError, AttributeError, NotImplementedError, struct.error, OverflowError,
    RecursionError, AssertionError,
)  # fmt: skip
"""What pynetdicom's decoder raises for bytes that pass the walk and still make no sense."""


@dataclass(frozen=True)
class Proposal:
    """A decoded request. `primitive` is pynetdicom's A_ASSOCIATE."""

    calling_ae: str
    called_ae: str
    contexts: tuple[PresentationContext, ...]
    longest_pdu: int
    primitive: Any

    @property
    def only_echo(self) -> bool:
        return all(str(context.abstract_syntax) == VERIFICATION for context in self.contexts)


@dataclass(frozen=True)
class AcceptedContext:
    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True)
class Acceptance:
    """The answer to send and what may be used on the association."""

    answer: bytes
    contexts: dict[int, AcceptedContext]


class Rejection(Exception):  # noqa: N818 - an answer of the protocol, not a fault of the program
    """(result, source, reason) of PS3.8 section 9.3.4."""

    def __init__(self, result: int, source: int, reason: int) -> None:
        super().__init__((result, source, reason))
        self.codes = (result, source, reason)


VERSION_UNKNOWN = (0x01, 0x02, 0x02)
APPLICATION_UNKNOWN = (0x01, 0x01, 0x02)
CALLING_UNKNOWN = (0x01, 0x01, 0x03)
CALLED_UNKNOWN = (0x01, 0x01, 0x07)
LIMIT_EXCEEDED = (0x02, 0x03, 0x02)


def read_proposal(body: bytes) -> Proposal:
    """The content of an A-ASSOCIATE-RQ PDU (without type and length).

    Raises PeerFaultError for bytes that are none, Rejection for a version or application context we do not speak.
    """
    _walk(body)
    request = A_ASSOCIATE_RQ()
    try:
        request.decode(struct.pack(">BBI", 0x01, 0, len(body)) + body)
        primitive = request.to_primitive()
        contexts = tuple(primitive.presentation_context_definition_list)
        calling, called = str(primitive.calling_ae_title).strip(), str(primitive.called_ae_title).strip()
        longest = int(primitive.maximum_length_received or 0)
        application = str(primitive.application_context_name)
    except _DECODER_FAILURES as error:
        raise PeerFaultError(
            f"sent an association request that makes no sense ({type(error).__name__})"
        ) from error
    if not int.from_bytes(body[:2], "big") & 1:
        raise Rejection(*VERSION_UNKNOWN)
    if application != _APPLICATION_CONTEXT:
        raise Rejection(*APPLICATION_UNKNOWN)
    if 0 < longest < _LEAST_PDU:
        raise PeerFaultError(
            f"announced that it takes PDUs of {longest} bytes at most, too short for any answer"
        )
    return Proposal(calling, called, contexts, longest, primitive)


def _walk(body: bytes) -> None:
    """Every item and sub-item inside its parent, within sane counts. Raises PeerFaultError."""
    if len(body) < _FIXED_BYTES:
        raise PeerFaultError("sent an association request that is too short")
    contexts = 0
    for kind, start, end in _items(body, _FIXED_BYTES, len(body)):
        if kind == _CONTEXT_ITEM:
            contexts += 1
            if contexts > _MOST_CONTEXTS:
                raise PeerFaultError(f"proposed more than {_MOST_CONTEXTS} presentation contexts")
            if end - start < 4:
                raise PeerFaultError("sent a presentation context that is too short")
            kinds = [kind for kind, _, _ in _items(body, start + 4, end)]
            if kinds.count(_ABSTRACT_SYNTAX) != 1 or _TRANSFER_SYNTAX not in kinds:
                raise PeerFaultError("proposed a presentation context without a class or without a syntax")
        elif kind == _USER_ITEM:
            _items(body, start, end)


def _items(body: bytes, start: int, end: int) -> Sequence[tuple[int, int, int]]:
    """(type, start, end of the content) of the items between `start` and `end`."""
    found = []
    while start < end:
        if start + 4 > end:
            raise PeerFaultError("sent an association request with an item cut off")
        kind, length = struct.unpack_from(">BxH", body, start)
        start += 4
        if start + length > end:
            raise PeerFaultError("sent an association request with an item longer than its parent")
        found.append((kind, start, start + length))
        if len(found) > _MOST_SUB_ITEMS:
            raise PeerFaultError(
                f"sent an association request with more than {_MOST_SUB_ITEMS} items in one place"
            )
        start += length
    return found


def accept(proposal: Proposal, *, longest_pdu: int) -> Acceptance:
    """Take what we know of the proposal, each context by itself, the syntax in the requestor's order.

    Raises PeerFaultError when the proposal cannot be answered.
    """
    try:
        return _acceptance(proposal, longest_pdu)
    except _DECODER_FAILURES as error:
        raise PeerFaultError(f"made a proposal that cannot be answered ({type(error).__name__})") from error


def _acceptance(proposal: Proposal, longest_pdu: int) -> Acceptance:
    roles = {
        item.sop_class_uid: (item.scu_role, item.scp_role)
        for item in proposal.primitive.user_information
        if isinstance(item, pdu_primitives.SCP_SCU_RoleSelectionNegotiation)
    }
    results: list[PresentationContext] = []
    replies: dict[str, Any] = {}
    for context in proposal.contexts:
        name = str(context.abstract_syntax)
        syntaxes = [str(s) for s in context.transfer_syntax if str(s) in syntaxes_for(name)]
        supported = [_supported(name, syntaxes)] if syntaxes else []
        if not syntaxes and syntaxes_for(name):
            # a class that we take, in no syntax that we take: result 4, not 3 (PS3.8 table 9-18)
            supported = [build_context(name, sorted(syntaxes_for(name))[:1])]
        answered, reply = negotiate_as_acceptor([context], supported, roles)
        results += answered
        replies |= {str(item.sop_class_uid): item for item in reply}
    accepted = {
        int(c.context_id or 0): AcceptedContext(str(c.abstract_syntax), str(c.transfer_syntax[0]))
        for c in results
        if c.result == 0
    }
    return Acceptance(_answer(proposal, results, list(replies.values()), longest_pdu), accepted)


def _supported(name: str, syntaxes: list[str]) -> PresentationContext:
    context = build_context(name, syntaxes)
    if name == COMMITMENT:
        # a PACS that reports on what we asked it to commit comes as provider of this class (PS3.4 annex J.3.3)
        context.scu_role = context.scp_role = True
    return context


def _answer(
    proposal: Proposal, results: list[PresentationContext], replies: list[Any], longest_pdu: int
) -> bytes:
    primitive = pdu_primitives.A_ASSOCIATE()
    primitive.application_context_name = _APPLICATION_CONTEXT
    primitive.calling_ae_title = proposal.primitive.calling_ae_title
    primitive.called_ae_title = proposal.primitive.called_ae_title
    primitive.result, primitive.result_source = 0, 1
    primitive.presentation_context_definition_results_list = results
    length = pdu_primitives.MaximumLengthNotification()
    length.maximum_length_received = longest_pdu
    implementation = pdu_primitives.ImplementationClassUIDNotification()
    implementation.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    version = pdu_primitives.ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION
    primitive.user_information = [length, implementation, version, *replies]
    answer = A_ASSOCIATE_AC()
    answer.from_primitive(primitive)
    return bytes(answer.encode())


def rejection_pdu(codes: tuple[int, int, int]) -> bytes:
    primitive = pdu_primitives.A_ASSOCIATE()
    primitive.result, primitive.result_source, primitive.diagnostic = codes
    answer = A_ASSOCIATE_RJ()
    answer.from_primitive(primitive)
    return bytes(answer.encode())
