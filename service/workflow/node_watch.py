"""The DICOM node as other processes and people see it: what it says is kept, and read back here.

The process with the node writes (`NodeWatch`), every process reads (`seen`): open associations hold studies open
and stand on the pages whichever process answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from service.ports import ImageNode, NodeEvent
from service.store import node_events, times
from service.store.database import reading, transaction
from service.store.node_events import StoredStatus
from service.workflow.app import App

#: Without a change the state is written this often, so that readers can tell a running node from a dead one.
HEARTBEAT = timedelta(seconds=5)
#: A node not heard of for this long does not run (or cannot reach the database).
SILENT_AFTER = timedelta(seconds=20)
#: A node not heard of for this long is forgotten: the machine was renamed or taken away.
FORGOTTEN_AFTER = timedelta(days=7)
_MOST_WAITING = 1000


@dataclass(frozen=True)
class OpenAssociation:
    id: str
    calling_ae: str
    since: datetime


@dataclass(frozen=True)
class SeenNode:
    """One node as its process last described it. `tls_port` None: no TLS."""

    name: str
    ae_title: str
    host: str
    port: int
    tls_port: int | None
    listening_since: datetime
    counters: Mapping[str, int]
    associations: tuple[OpenAssociation, ...]
    stopped: bool
    """It was stopped in good order, not lost."""
    heard_at: datetime


@dataclass(frozen=True)
class Nodes:
    """All nodes, judged at one moment: those that run, and those that have fallen silent."""

    running: tuple[SeenNode, ...]
    silent: tuple[SeenNode, ...]

    @property
    def open_associations(self) -> dict[str, str]:
        """Association id -> calling AE title."""
        return {a.id: a.calling_ae for node in self.running for a in node.associations}

    @property
    def listening_since(self) -> datetime | None:
        """The youngest start: the silence before it was ours, not the sender's."""
        return max((n.listening_since for n in self.running), default=None)


def seen(connection: Connection, now: datetime) -> Nodes:
    nodes = [_node(s) for s in node_events.statuses(connection)]
    running = [n for n in nodes if not n.stopped and now - n.heard_at <= SILENT_AFTER]
    return Nodes(tuple(running), tuple(n for n in nodes if n not in running))


def _node(stored: StoredStatus) -> SeenNode:
    d = stored.document
    return SeenNode(
        name=stored.name,
        ae_title=d["ae_title"],
        host=d["host"],
        port=d["port"],
        tls_port=d["tls_port"],
        listening_since=times.from_text(d["listening_since"]),
        counters=d["counters"],
        associations=tuple(
            OpenAssociation(a["id"], a["calling_ae"], times.from_text(a["since"])) for a in d["associations"]
        ),
        stopped=d["stopped"],
        heard_at=stored.updated_at,
    )


@dataclass
class NodeWatch:
    """Carries what one running node says into the database. `machine` tells it from nodes elsewhere."""

    app: App
    node: ImageNode
    machine: str
    port: int
    listening_since: datetime
    _since: dict[str, str] = field(default_factory=dict)
    _written: dict[str, Any] = field(default_factory=dict)
    _written_at: datetime | None = None
    _waiting: list[NodeEvent] = field(default_factory=list)

    def look(self) -> Nodes:
        """Take what happened since the last look, write what changed, and say what all nodes hold open.

        Events that cannot be written now (database locked or full) wait for the next look.
        """
        now = self.app.clock.now()
        self._waiting = [*self._waiting, *self.node.take_events()][-_MOST_WAITING:]
        document = self._document(now)
        # Counters alone are not worth a write of their own twice a second.
        changed = {k: v for k, v in document.items() if k != "counters"} != self._written
        due = self._written_at is None or not timedelta(0) <= now - self._written_at < HEARTBEAT
        if changed or due or self._waiting:
            with transaction(self.app.engine) as connection:
                node_events.record(connection, self._waiting)
                node_events.save_status(connection, self._name, document, now)
                node_events.forget_statuses(connection, now - FORGOTTEN_AFTER)
            self._waiting = []
            self._written = {k: v for k, v in document.items() if k != "counters"}
            self._written_at = now
        with reading(self.app.engine) as connection:
            return seen(connection, now)

    def leave(self) -> None:
        """The last words of a node that was stopped."""
        now = self.app.clock.now()
        last = self._document(now) | {"stopped": True, "associations": []}
        with transaction(self.app.engine) as connection:
            node_events.record(connection, [*self._waiting, *self.node.take_events()])
            node_events.save_status(connection, self._name, last, now)

    @property
    def _name(self) -> str:
        return f"{self.machine[:70]}:{self.port}"

    def _document(self, now: datetime) -> dict[str, Any]:
        config, open_now = self.app.config.dicom, dict(self.node.open_associations())
        if self.app.door:
            open_now |= self.app.door.open_associations()
        self._since = {i: self._since.get(i, times.to_text(now)) for i in open_now}
        return {
            "ae_title": config.ae_title,
            "host": config.host,
            "port": self.port,
            "tls_port": config.tls_port,
            "stopped": False,
            "listening_since": times.to_text(self.listening_since),
            "counters": dict(self.node.counters()),
            "associations": [
                {"id": i, "calling_ae": ae, "since": self._since[i]} for i, ae in sorted(open_now.items())
            ],
        }
