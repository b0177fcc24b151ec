"""Hands durable instances to the sink on its own thread, so that nothing stands between data and Success.

What the sink refuses or fails on stays pending and is offered again; after a crash the store's pending marks are
the queue. The sink must therefore be idempotent.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time

from adapters.dicom_node.durable_store import DurableStore, Kept, Outcome
from service.ports import InstanceSink

_log = logging.getLogger("spineprint.dicom")
_FIRST_RETRY_S = 0.5
_LONGEST_RETRY_S = 60.0


class Handover:
    def __init__(self, store: DurableStore, sink: InstanceSink, conflict_sink: InstanceSink | None) -> None:
        self._store = store
        self._sink = sink
        self._conflict_sink = conflict_sink
        self._heap: list[tuple[float, int, Kept, int]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._busy = False
        self.failures = 0

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="dicom-handover", daemon=True)
        self._thread.start()

    def offer(self, kept: Kept, *, delay_s: float = 0.0, attempt: int = 0) -> None:
        with self._changed:
            heapq.heappush(self._heap, (time.monotonic() + delay_s, next(self._order), kept, attempt))
            self._changed.notify()

    def stop(self, timeout_s: float) -> None:
        """Hand over what is due, within the time given; the rest is offered again at the next start."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)

    @property
    def waiting(self) -> int:
        with self._changed:
            return len(self._heap) + int(self._busy)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            kept, attempt = job
            try:
                self._deliver(kept)
            except Exception as error:  # noqa: BLE001 - whatever the sink raises, the instance must stay queued
                self.failures += 1
                delay = min(_FIRST_RETRY_S * 2.0**attempt, _LONGEST_RETRY_S)
                _log.error("intake failed (%s), offered again in %.1f s", type(error).__name__, delay)
                self.offer(kept, delay_s=delay, attempt=attempt + 1)
            with self._changed:
                self._busy = False

    def _next(self) -> tuple[Kept, int] | None:
        with self._changed:
            while True:
                now = time.monotonic()
                if self._heap and self._heap[0][0] <= now:
                    _, _, kept, attempt = heapq.heappop(self._heap)
                    self._busy = True
                    return kept, attempt
                if self._stopping:
                    return None
                self._changed.wait(self._heap[0][0] - now if self._heap else None)

    def _deliver(self, kept: Kept) -> None:
        if kept.outcome is not Outcome.CONFLICT:
            self._sink(kept.instance)
        elif self._conflict_sink is not None:
            self._conflict_sink(kept.instance)
        self._store.retire(kept)
