"""What happens at the node, counted and kept for an administrator: one call writes log, counter and event."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from adapters.dicom_node.callers import printable
from service.ports import NodeEvent

_log = logging.getLogger("spineprint.dicom")
_KEPT = 500


class NodeEvents:
    """Safe for several threads."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._events: deque[NodeEvent] = deque(maxlen=_KEPT)

    def count(self, kind: str, by: int = 1) -> None:
        with self._lock:
            self._counts[kind] += by

    def note(
        self,
        kind: str,
        what: str,
        *,
        calling_ae: str = "",
        called_ae: str = "",
        address: str = "",
        next_step: str = "",
        level: int = logging.WARNING,
    ) -> None:
        """`what` is a sentence for the log and the page; titles are cleaned here."""
        event = NodeEvent(
            self._now(),
            kind,
            printable(calling_ae) if calling_ae else "",
            printable(called_ae) if called_ae else "",
            address,
            what,
            next_step,
        )
        self.add(event, level)

    def add(self, event: NodeEvent, level: int = logging.WARNING) -> None:
        with self._lock:
            self._counts[event.kind] += 1
            self._events.append(event)
        who = (
            f"{event.calling_ae or 'unnamed client'} at {event.address}"
            if event.address
            else event.calling_ae
        )
        _log.log(level, "%s: %s", who or "node", event.what)

    def take(self) -> Sequence[NodeEvent]:
        with self._lock:
            events = tuple(self._events)
            self._events.clear()
        return events

    def counts(self) -> Mapping[str, int]:
        with self._lock:
            return dict(self._counts)
