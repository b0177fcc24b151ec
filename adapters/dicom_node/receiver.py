"""The listening DICOM node: C-ECHO and C-STORE, every image durable before Success is answered.

The transport is pynetdicom with its known defects mended (`guarded_socket`, `contexts`); storage
(`durable_store`) and intake (`handover`) know nothing of it, so that the data path can be replaced.
"""

from __future__ import annotations

import logging
import socket
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from pynetdicom import AE, _config, evt

from adapters.dicom_node.callers import known_peer, printable
from adapters.dicom_node.contexts import VERIFICATION, asks_only_for_echo, supported_for
from adapters.dicom_node.durable_store import DurableStore, Kept, Outcome
from adapters.dicom_node.guarded_socket import GuardedReceive
from adapters.dicom_node.handover import Handover
from adapters.dicom_node.part10 import InstanceFacts
from service.errors import ConfigError, InputRefusedError, StorageError
from service.ports import ImageNode, InstanceSink, Peer

_log = logging.getLogger("spineprint.dicom")

_SUCCESS = 0x0000
_PROCESSING_FAILURE = 0x0110
_OUT_OF_RESOURCES = 0xA700
_CLASS_MISMATCH = 0xA900
_CANNOT_UNDERSTAND = 0xC000
_CALLING_UNKNOWN = (0x01, 0x01, 0x03)
_CALLED_UNKNOWN = (0x01, 0x01, 0x07)
_LIMIT_EXCEEDED = (0x02, 0x03, 0x02)
"""A-ASSOCIATE-RJ result, source and reason (PS3.8 section 9.3.4)."""

_LONGEST_NEGOTIATION_BYTES = 1 << 20
_MOST_CONNECTIONS = 1000
"""Open sockets, two threads each, before negotiation sorts them out."""


@dataclass(frozen=True)
class NodeConfig:
    """Settings of the node. Time-outs in seconds; the PDU size is the one DCMTK uses at most (131072)."""

    host: str
    port: int
    """0 takes any free port; see `DicomNode.port`."""
    store_dir: Path
    ae_title: str = "SPINEPRINT"
    peers: tuple[Peer, ...] = ()
    require_known_callers: bool = True
    require_called_ae: bool = True
    max_associations: int = 25
    acse_timeout_s: float = 30.0
    dimse_timeout_s: float = 60.0
    network_timeout_s: float = 60.0
    pdu_timeout_s: float = 30.0
    """Longest time one PDU may take from its first to its last byte."""
    max_pdu_bytes: int = 131072
    disk_reserve_bytes: int = 2 << 30


def _utc_now() -> datetime:
    return datetime.now(UTC)


class DicomNode(ImageNode):
    """One listening port. `sink` gets every instance that is durable (also duplicates), at least once.

    `conflict_sink` gets instances kept in quarantine because other content already has their UID; without it
    they are only logged and counted.
    """

    def __init__(
        self,
        config: NodeConfig,
        sink: InstanceSink,
        *,
        conflict_sink: InstanceSink | None = None,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._config = config
        self._now = now
        self._store = DurableStore(config.store_dir, reserve_bytes=config.disk_reserve_bytes)
        self._sink = sink
        self._conflict_sink = conflict_sink
        self._handover: Handover | None = None
        self._server: Any = None
        self._ids: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    # --- ImageNode ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Replay what is waiting, then listen. Raises ConfigError (port not free), StorageError."""
        swept = self._store.open()
        if swept:
            _log.info("store: removed %d cut-off file(s), none of them was acknowledged", swept)
        self._handover = Handover(self._store, self._sink, self._conflict_sink)
        for kept in self._store.waiting():
            self._count("replayed")
            self._handover.offer(kept)
        self._handover.start()
        # the library's per-PDU log handlers cost a third of the speed; ours say what matters
        _config.LOG_HANDLER_LEVEL = "none"
        # it writes a stack trace for every client that hangs up; `_on_open` says the same in one line
        logging.getLogger("pynetdicom.dul").setLevel(logging.CRITICAL)
        try:
            self._server = self._application_entity().start_server(
                (self._config.host, self._config.port), block=False, evt_handlers=self._handlers()
            )
        except OSError as error:
            self._handover.stop(1.0)
            raise ConfigError(
                f"The DICOM port {self._config.port} cannot be opened ({error.strerror}).",
                next_step="Choose another [dicom] port, or stop the program that holds it.",
                code="config.dicom_port",
            ) from error
        _log.info("listening as %s on port %d", self._config.ae_title, self.port)

    def stop(self) -> None:
        """Close the port and open associations; hand over what is due, the rest is replayed at the next start."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            for association in list(self._server.active_associations):
                association.abort()
            self._server = None
        if self._handover is not None:
            self._handover.stop(10.0)

    def open_associations(self) -> Mapping[str, str]:
        if self._server is None:
            return {}
        return {
            self._id(assoc): printable(str(assoc.requestor.ae_title))
            for assoc in list(self._server.active_associations)
            if assoc.is_established
        }

    def counters(self) -> Mapping[str, int]:
        """Since start: received, duplicates, conflicts, refused_*, rejected_*, faults, echoes, replayed, waiting."""
        with self._lock:
            counts = dict(self._counts)
        if self._handover is not None:
            counts["intake_waiting"] = self._handover.waiting
            counts["intake_failures"] = self._handover.failures
        return counts

    @property
    def port(self) -> int:
        """The port really listened on."""
        return self._config.port if self._server is None else int(self._server.server_address[1])

    # --- negotiation --------------------------------------------------------------------------------------

    def _application_entity(self) -> AE:
        entity = AE(ae_title=self._config.ae_title)
        # the library also counts connections that never asked for anything; _on_requested counts real ones
        entity.maximum_associations = _MOST_CONNECTIONS
        entity.maximum_pdu_size = self._config.max_pdu_bytes
        entity.acse_timeout = self._config.acse_timeout_s
        entity.dimse_timeout = self._config.dimse_timeout_s
        entity.network_timeout = self._config.network_timeout_s
        # at least one is needed to start; every association gets its own list in _on_requested
        entity.add_supported_context(VERIFICATION)
        return entity

    def _handlers(self) -> list[tuple[Any, Any]]:
        return [
            (evt.EVT_CONN_OPEN, self._on_open),
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_ACCEPTED, self._on_accepted),
            (evt.EVT_ABORTED, self._on_aborted),
            (evt.EVT_C_ECHO, self._on_echo),
            (evt.EVT_C_STORE, self._on_store),
        ]

    def _on_open(self, event: Any) -> None:
        address = str(event.address[0])
        wire = event.assoc.dul.socket
        if self._server is not None and len(self._server.active_associations) > _MOST_CONNECTIONS:
            self._count("rejected_connections")
            wire.socket.shutdown(socket.SHUT_RDWR)

        def fault(what: str) -> None:
            self._count("faults")
            _log.warning("connection from %s dropped: it %s", address, what)

        wire.recv = GuardedReceive(
            wire,
            pdu_timeout_s=self._config.pdu_timeout_s,
            longest_pdu_bytes=max(_LONGEST_NEGOTIATION_BYTES, self._config.max_pdu_bytes),
            on_fault=fault,
        )

    def _on_requested(self, event: Any) -> None:
        association = event.assoc
        request = association.requestor.primitive
        proposed = request.presentation_context_definition_list
        association.acceptor.supported_contexts = supported_for(proposed)
        calling, called = str(request.calling_ae_title).strip(), str(request.called_ae_title).strip()
        if self._config.require_called_ae and called != self._config.ae_title.strip():
            why = f"it called {printable(called)}, this node is {self._config.ae_title}"
            self._reject(association, _CALLED_UNKNOWN, "called_ae", why)
        elif len(self.open_associations()) >= self._config.max_associations:
            why = f"{self._config.max_associations} associations are open already"
            self._reject(association, _LIMIT_EXCEEDED, "limit", why)
        elif self._config.require_known_callers and not asks_only_for_echo(proposed):
            peer, why = known_peer(self._config.peers, calling, str(association.requestor.address))
            if peer is None:
                self._reject(association, _CALLING_UNKNOWN, "calling_ae", why)

    def _reject(self, association: Any, answer: tuple[int, int, int], counter: str, why: str) -> None:
        self._count(f"rejected_{counter}")
        calling = printable(str(association.requestor.primitive.calling_ae_title))
        _log.warning("association from %s at %s rejected: %s", calling, association.requestor.address, why)
        association.acse.send_reject(*answer)
        association.kill()

    def _on_accepted(self, event: Any) -> None:
        self._count("associations")
        if not event.assoc.accepted_contexts:
            self._count("no_context")
            _log.warning(
                "association from %s at %s has no object class or syntax this node stores",
                printable(str(event.assoc.requestor.ae_title)),
                event.assoc.requestor.address,
            )

    def _on_aborted(self, event: Any) -> None:
        if event.assoc.requestor.primitive is None:
            # a port probe that never asked for an association
            return
        self._count("aborted")
        _log.warning(
            "association from %s at %s was aborted",
            printable(str(event.assoc.requestor.ae_title)),
            event.assoc.requestor.address,
        )

    def _id(self, association: Any) -> str:
        with self._lock:
            return self._ids.setdefault(association, uuid.uuid4().hex)

    # --- services -----------------------------------------------------------------------------------------

    def _on_echo(self, event: Any) -> int:
        self._count("echoes")
        return _SUCCESS

    def _on_store(self, event: Any) -> int:
        """Status of one C-STORE (PS3.4 annex B.2.3). The data set is never parsed here."""
        request, association = event.request, event.assoc
        caller = printable(str(association.requestor.ae_title))
        if str(request.AffectedSOPClassUID) != str(event.context.abstract_syntax):
            return self._refuse("class", caller, _CLASS_MISMATCH, "its class is not that of its context")
        if request.DataSet is None or not request.DataSet.getbuffer().nbytes:
            return self._refuse("empty", caller, _CANNOT_UNDERSTAND, "it has no data set")
        facts = InstanceFacts(
            sop_class_uid=str(request.AffectedSOPClassUID),
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            transfer_syntax_uid=str(event.context.transfer_syntax),
            calling_ae=caller,
            called_ae=self._config.ae_title,
            peer_address=str(association.requestor.address),
            association=self._id(association),
            received_at=self._now(),
            sha256="",
            size=0,
        )
        try:
            kept = self._store.keep(facts, request.DataSet.getbuffer())
        except InputRefusedError as error:
            return self._refuse("uid", caller, _CANNOT_UNDERSTAND, error.message)
        except StorageError as error:
            full = error.code == "storage.full"
            status = _OUT_OF_RESOURCES if full else _PROCESSING_FAILURE
            return self._refuse("storage", caller, status, error.message)
        self._note(kept, caller)
        return _SUCCESS

    def _refuse(self, counter: str, caller: str, status: int, why: str) -> int:
        self._count(f"refused_{counter}")
        _log.warning("instance from %s refused with %04X: %s", caller, status, why)
        return status

    def _note(self, kept: Kept, caller: str) -> None:
        self._count("received")
        if kept.outcome is Outcome.DUPLICATE:
            self._count("duplicates")
        elif kept.outcome is Outcome.CONFLICT:
            self._count("conflicts")
            _log.error(
                "%s sent other content under a UID that is already stored; kept in quarantine as %s",
                caller,
                kept.instance.path.name,
            )
        if self._handover is not None:
            self._handover.offer(kept)

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1
