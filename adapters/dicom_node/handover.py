"""Hands durable instances to the sink on its own thread, so that nothing stands between data and Success.

What the sink refuses or fails on stays pending and is offered again; after a crash the store's pending marks are
the queue. The sink must therefore be idempotent. What comes close together is handed over together: a database
then pays one commit for many images, and this thread wakes once for them.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence

from adapters.dicom_node.durable_store import DurableStore, Kept, Outcome
from service.ports import InstanceSink, ReceivedInstance

_log = logging.getLogger("spineprint.dicom")
_FIRST_RETRY_S = 0.5
_LONGEST_RETRY_S = 60.0
_GATHER_S = 0.05
_MOST_AT_ONCE = 100

BatchSink = Callable[[Sequence[ReceivedInstance]], None]
"""Takes all or, when it raises, none."""


class Handover:
    """`batch_sink` gets what `sink` would get, several at once; what it fails on goes to `sink` one by one.

    `on_done` forgets the mark of what a sink has taken; by default the store's own. `on_idle`: nothing waits any more.
    """

    def __init__(
        self,
        store: DurableStore,
        sink: InstanceSink,
        conflict_sink: InstanceSink | None,
        *,
        batch_sink: BatchSink | None = None,
        on_done: Callable[[Kept], None] | None = None,
        on_idle: Callable[[], None] | None = None,
    ) -> None:
        self._on_done = on_done or store.retire
        self._on_idle = on_idle
        self._sink = sink
        self._conflict_sink = conflict_sink
        self._batch_sink = batch_sink
        self._heap: list[tuple[float, int, Kept, int]] = []
        self._order = itertools.count()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._asleep = False
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._busy = 0
        self.failures = 0

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="dicom-handover", daemon=True)
        self._thread.start()

    def offer(self, kept: Kept, *, delay_s: float = 0.0, attempt: int = 0) -> None:
        with self._lock:
            heapq.heappush(self._heap, (time.monotonic() + delay_s, next(self._order), kept, attempt))
            if self._asleep:
                self._changed.notify_all()

    def stop(self, timeout_s: float) -> None:
        """Hand over what is due, within the time given; the rest is offered again at the next start."""
        with self._lock:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)

    @property
    def waiting(self) -> int:
        with self._lock:
            return len(self._heap) + self._busy

    def _run(self) -> None:
        while jobs := self._next():
            if (
                self._batch_sink is None
                or len(jobs) == 1
                or not self._deliver_together(jobs, self._batch_sink)
            ):
                for kept, attempt in jobs:
                    self._deliver(kept, attempt)
            with self._lock:
                self._busy = 0
                idle = not self._heap
            if idle and self._on_idle is not None:
                self._on_idle()

    def _next(self) -> list[tuple[Kept, int]]:
        """What is due, once something is; empty at the end."""
        with self._lock:
            while not (self._heap and self._heap[0][0] <= time.monotonic()):
                if self._stopping:
                    return []
                self._asleep = True
                self._changed.wait(self._heap[0][0] - time.monotonic() if self._heap else None)
                self._asleep = False
                self._changed.wait_for(lambda: self._stopping, _GATHER_S)
            now = time.monotonic()
            due: list[tuple[Kept, int]] = []
            while self._heap and self._heap[0][0] <= now and len(due) < _MOST_AT_ONCE:
                _, _, kept, attempt = heapq.heappop(self._heap)
                due.append((kept, attempt))
            self._busy = len(due)
            return due

    def _deliver_together(self, jobs: Sequence[tuple[Kept, int]], sink: BatchSink) -> bool:
        try:
            sink([kept.instance for kept, _ in jobs])
        except Exception as error:  # noqa: BLE001 - whatever it raises, each is tried by itself next
            _log.warning("intake of %d together failed (%s); now one by one", len(jobs), type(error).__name__)
            return False
        for kept, attempt in jobs:
            self._retire(kept, attempt)
        return True

    def _deliver(self, kept: Kept, attempt: int) -> None:
        sink = self._conflict_sink if kept.outcome is Outcome.CONFLICT else self._sink
        try:
            if sink is not None:
                sink(kept.instance)
        except Exception as error:  # noqa: BLE001 - whatever the sink raises, the instance must stay queued
            self._later(kept, attempt, error)
        else:
            self._retire(kept, attempt)

    def _retire(self, kept: Kept, attempt: int) -> None:
        try:
            self._on_done(kept)
        except OSError as error:
            self._later(kept, attempt, error)

    def _later(self, kept: Kept, attempt: int, error: Exception) -> None:
        self.failures += 1
        delay = min(_FIRST_RETRY_S * 2.0**attempt, _LONGEST_RETRY_S)
        _log.error("intake failed (%s), offered again in %.1f s", type(error).__name__, delay)
        self.offer(kept, delay_s=delay, attempt=attempt + 1)
