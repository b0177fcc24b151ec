"""The listening DICOM node: C-ECHO, C-STORE and storage commitment, every image durable before Success is answered.

This is where the parts meet. Transport: `listener`, `association`, `pdu_reader`. Negotiation: `negotiation`,
`contexts`, `callers`. Durability: `landing`, `segments`. Afterwards: `writer`, `durable_store`, `handover`.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from adapters.dicom_node.association import Association, Surroundings
from adapters.dicom_node.callers import known_peer, printable
from adapters.dicom_node.commitment import CommitmentDesk
from adapters.dicom_node.durable_store import DurableStore, Kept, Outcome
from adapters.dicom_node.events import NodeEvents
from adapters.dicom_node.handover import BatchSink, Handover
from adapters.dicom_node.holdings import StoreHoldings
from adapters.dicom_node.landing import Landing
from adapters.dicom_node.listener import Connections, Listener
from adapters.dicom_node.negotiation import (
    CALLED_UNKNOWN,
    CALLING_UNKNOWN,
    LIMIT_EXCEEDED,
    Proposal,
    Rejection,
)
from adapters.dicom_node.pdu_reader import ReadLimits
from adapters.dicom_node.segment_files import Record
from adapters.dicom_node.segments import SegmentLog
from adapters.dicom_node.tls import TlsFiles
from adapters.dicom_node.writer import Writer
from service.ports import CommitmentSink, ImageNode, InstanceSink, NodeEvent, Peer

_log = logging.getLogger("spineprint.dicom")
_STOP_S = 10.0
_SWITCH_INTERVAL_S = 0.0005
"""A thread that computes in Python (intake reading a header) gives way to one with a packet after this long; with
Python's own 5 ms every read of an association would wait that long while intake works."""


@dataclass(frozen=True)
class NodeConfig:
    """Settings of the node. Time-outs in seconds; the PDU size is the one DCMTK uses at most (131072)."""

    host: str
    port: int
    """0 takes any free port; see `DicomNode.port`."""
    store_dir: Path
    ae_title: str = "SPINEPRINT"
    tls_port: int | None = None
    """A second port for DICOM over TLS; needs `tls`."""
    tls: TlsFiles | None = None
    peers: tuple[Peer, ...] = ()
    require_known_callers: bool = True
    require_called_ae: bool = True
    max_associations: int = 25
    """At work at the same time. Those that are open and silent do not count: they would shut others out."""
    acse_timeout_s: float = 30.0
    """Longest time from the connection to its association request."""
    network_timeout_s: float = 60.0
    """Longest silence on an association."""
    pdu_timeout_s: float = 30.0
    """Longest time one PDU may take from its first to its last byte."""
    handshake_timeout_s: float = 10.0
    max_pdu_bytes: int = 131072
    longest_pdu_bytes: int = 1 << 20
    """PDUs beyond the announced size are taken up to here, because some senders do not keep to it."""
    max_instance_bytes: int = 4 << 30
    disk_reserve_bytes: int = 2 << 30
    segment_bytes: int = 64 << 20
    spare_segments: int = 4
    """Written through in advance, so that a burst of 400 CT images meets allocated blocks."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class DicomNode(ImageNode):
    """`sink` gets every instance that is durable (also duplicates), at least once.

    `conflict_sink` gets instances kept in quarantine because other content already has their UID; without it
    they are only logged and counted. `batch_sink` gets what both would get, several at once.
    `commitment_sink` gets the outcome of our own commitment requests. `on_quiet` is called when the last association
    is over and everything has been handed over.
    """

    def __init__(
        self,
        config: NodeConfig,
        sink: InstanceSink,
        *,
        conflict_sink: InstanceSink | None = None,
        commitment_sink: CommitmentSink | None = None,
        batch_sink: BatchSink | None = None,
        on_quiet: Callable[[], None] | None = None,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._config = config
        self._now = now
        self._on_quiet = on_quiet
        self._events = NodeEvents(now)
        self._store = DurableStore(config.store_dir, reserve_bytes=config.disk_reserve_bytes)
        self._segments = SegmentLog(
            config.store_dir / "segments",
            segment_bytes=config.segment_bytes,
            spare_segments=config.spare_segments,
            room=self._store.free_bytes,
        )
        self._handover = Handover(
            self._store,
            sink,
            conflict_sink,
            batch_sink=batch_sink,
            on_done=self._on_done,
            on_idle=self._perhaps_quiet,
        )
        self._writer = Writer(self._segments, self._store, self._on_placed, self._on_damaged)
        self._desk = CommitmentDesk(
            StoreHoldings(config.store_dir, settle=self._writer.settle),
            config.store_dir / "commitment",
            ae_title=config.ae_title,
            peers=config.peers,
            tls=config.tls,
            now=now,
            on_event=self._events.add,
            on_report=commitment_sink,
        )
        self._connections = Connections(self._perhaps_quiet)
        self._listeners: list[Listener] = []

    # --- ImageNode ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Replay what is waiting, then listen. Raises ConfigError (port not free, TLS files), StorageError."""
        sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_INTERVAL_S))
        swept = self._store.open()
        if swept:
            _log.info("store: removed %d cut-off file(s); their bytes are in the log", swept)
        records = self._segments.open()
        for kept in self._store.waiting():
            self._events.count("replayed")
            self._handover.offer(kept)
        for record in records:
            self._events.count("replayed")
            self._writer.enqueue(record, replayed=True)
        listeners = self._make_listeners()
        try:
            for listener in listeners:
                listener.start()
                self._listeners.append(listener)
        except Exception:
            self.stop()
            raise
        self._handover.start()
        self._writer.start()
        self._desk.start()
        _log.info(
            "DICOM node %s listens on %s", self._config.ae_title, ", ".join(str(x.port) for x in listeners)
        )

    def _make_listeners(self) -> list[Listener]:
        config = self._config
        plain = Listener(config.host, config.port, self._open_association, self._connections, self._events)
        if config.tls_port is None or config.tls is None:
            return [plain]
        secure = Listener(
            config.host, config.tls_port, self._open_association, self._connections, self._events,
            tls=config.tls, handshake_s=config.handshake_timeout_s,
        )  # fmt: skip
        return [plain, secure]

    def stop(self) -> None:
        """Stop listening, abort what is open, hand over what is durable within some seconds."""
        for listener in self._listeners:
            listener.stop()
        self._connections.end_all(_STOP_S)
        self._desk.stop()
        self._writer.stop(_STOP_S)
        self._handover.stop(_STOP_S)
        self._segments.close()
        self._listeners = []

    def open_associations(self) -> Mapping[str, str]:
        return {a.id: printable(a.calling_ae) for a in self._connections.established()}

    def associations(self) -> Sequence[Association]:
        """Those established now."""
        return self._connections.established()

    def take_events(self) -> Sequence[NodeEvent]:
        return self._events.take()

    def counters(self) -> Mapping[str, int]:
        """Since start: received, duplicates, conflicts, refused_*, rejected_*, faults, echoes, replayed; and now:
        intake_waiting (durable, not yet with the sink), segments_spare."""
        counts = dict(self._events.counts()) | dict(self._desk.counters())
        counts["intake_waiting"] = self._writer.waiting + self._handover.waiting
        counts["intake_failures"] = self._writer.failures + self._handover.failures
        counts["segments_spare"] = self._segments.spare
        return counts

    @property
    def port(self) -> int:
        """The port really listened on."""
        return self._listeners[0].port if self._listeners else self._config.port

    @property
    def tls_port(self) -> int | None:
        return self._listeners[1].port if len(self._listeners) > 1 else self._config.tls_port

    # --- associations -------------------------------------------------------------------------------------

    def _open_association(self, sock: socket.socket, address: str) -> Association:
        config = self._config
        limits = ReadLimits(
            negotiation_s=config.acse_timeout_s,
            idle_s=config.network_timeout_s,
            pdu_s=config.pdu_timeout_s,
            longest_pdu=max(config.longest_pdu_bytes, config.max_pdu_bytes),
            announced_pdu=config.max_pdu_bytes,
        )
        around = Surroundings(
            ae_title=config.ae_title,
            limits=limits,
            new_landing=self._new_landing,
            decide=self._decide,
            keep=self._keep,
            desk=self._desk,
            events=self._events,
            now=self._now,
        )
        return Association(sock, address, around)

    def _new_landing(self) -> Landing:
        return Landing(
            self._segments, self._store.require_room, largest_bytes=self._config.max_instance_bytes
        )

    def _decide(self, proposal: Proposal, address: str) -> None:
        """Let the caller in, or raise Rejection after saying why."""
        config = self._config
        if config.require_called_ae and proposal.called_ae != config.ae_title.strip():
            why = f"it called {printable(proposal.called_ae)}, this node is {config.ae_title}"
            step = f"Set the AE title of this destination to {config.ae_title} at the sender."
            self._reject(proposal, address, "called_ae", why, step)
            raise Rejection(*CALLED_UNKNOWN)
        if sum(a.at_work for a in self._connections.established()) >= config.max_associations:
            why = f"{config.max_associations} associations are at work already"
            self._reject(
                proposal, address, "limit", why, "The sender may try again; see [dicom] max_associations."
            )
            raise Rejection(*LIMIT_EXCEEDED)
        if config.require_known_callers and not proposal.only_echo:
            peer, why = known_peer(config.peers, proposal.calling_ae, address)
            if peer is None:
                title = printable(proposal.calling_ae)
                step = f'List it under [[dicom.peers]]: ae_title = "{title}", host = "{address}".'
                self._reject(proposal, address, "calling_ae", why, step)
                raise Rejection(*CALLING_UNKNOWN)

    def _reject(self, proposal: Proposal, address: str, counter: str, why: str, step: str) -> None:
        self._events.note(
            f"rejected_{counter}",
            f"association rejected: {why}",
            calling_ae=proposal.calling_ae or "(empty)",
            called_ae=proposal.called_ae,
            address=address,
            next_step=step,
        )

    def _perhaps_quiet(self) -> None:
        if self._on_quiet is None or self._connections.established():
            return
        if not self._writer.waiting + self._handover.waiting:
            self._on_quiet()

    # --- instances ----------------------------------------------------------------------------------------

    def _keep(self, record: Record) -> None:
        self._events.count("received")
        self._writer.enqueue(record)

    def _on_placed(self, kept: Kept) -> None:
        if kept.outcome is Outcome.DUPLICATE:
            self._events.count("duplicates")
        elif kept.outcome is Outcome.CONFLICT:
            self._events.note(
                "conflicts",
                f"it sent other content under a UID that is already stored; kept in quarantine as "
                f"{kept.instance.path.name}",
                calling_ae=kept.instance.calling_ae,
                called_ae=kept.instance.called_ae,
                address=kept.instance.peer_address,
                next_step="Find out at the sender which of the two is right.",
                level=logging.ERROR,
            )
        self._handover.offer(kept)

    def _on_damaged(self, record: Record, path: Path) -> None:
        self._events.note(
            "damaged",
            f"an image that was received whole does not come back whole from the disk; set aside as {path.name}",
            calling_ae=record.facts.calling_ae,
            called_ae=record.facts.called_ae,
            address=record.facts.peer_address,
            next_step="Have the study sent again, and check the data disk.",
            level=logging.ERROR,
        )

    def _on_done(self, kept: Kept) -> None:
        if kept.sequence:
            self._writer.acknowledged(kept)
        else:
            self._store.retire(kept)
