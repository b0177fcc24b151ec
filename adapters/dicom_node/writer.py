"""The background writer: gives every record of the log its own Part 10 file and retires what the disk has.

One thread, in the order of arrival. Nothing here stands between data and Success.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from adapters.dicom_node.durable_store import DurableStore, Kept
from adapters.dicom_node.segment_files import Record
from adapters.dicom_node.segments import SegmentLog
from service.errors import StorageError

_log = logging.getLogger("spineprint.dicom")
_FIRST_RETRY_S = 0.2
_LONGEST_RETRY_S = 30.0
_GATHER_S = 0.02
"""What comes close together is placed together: this thread then wakes once for several records."""
_DAMAGED_TRIES = 3
"""A disk that reads wrongly may do so once; after so many times the record is damaged."""
_PATIENCE_S = 5.0
"""How long a sink may take before the log stops waiting for it."""
_GIVE_WAY_S = 0.02
_BUSY_S = 0.1
"""An association that sent an image within this time is busy."""
_IDLE_S = 0.5
"""After this long without a record the disk has time: sync, retire, prepare segments."""


class Writer:
    def __init__(
        self,
        log: SegmentLog,
        store: DurableStore,
        on_placed: Callable[[Kept], None],
        on_damaged: Callable[[Record, Path], None],
    ) -> None:
        """`on_damaged`: a record that its disk does not give back as it came was set aside in that file."""
        self._segments = log
        self._store = store
        self._on_placed = on_placed
        self._on_damaged = on_damaged
        self._queue: deque[tuple[Record, bool]] = deque()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # entered by its lock where nobody waits: a Condition is entered in Python, several times an image
        self._busy: dict[str, float] = {}
        """Association -> when its last image came."""
        self._unmarked: dict[int, tuple[Record, Kept, float]] = {}
        """Placed, not yet with the sink, and marked by their record in the log alone; and since when."""
        self._accepted = 0
        self._placed = 0
        self._settling = 0
        self._asleep = False
        self._stopping = False
        self._thread: threading.Thread | None = None
        self.failures = 0

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="dicom-writer", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Place what is there, within the time given; the rest is replayed at the next start."""
        with self._lock:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def enqueue(self, record: Record, *, replayed: bool = False) -> None:
        with self._lock:
            self._queue.append((record, replayed))
            self._accepted += 1
            if not replayed:
                self._busy[record.facts.association] = time.monotonic()
            if self._asleep:
                self._changed.notify_all()

    def acknowledged(self, kept: Kept) -> None:
        """The sink has it."""
        with self._lock:
            waiting = self._unmarked.pop(kept.sequence, None)
        if waiting is not None:
            self._segments.placed(waiting[0])
        else:
            self._store.unmark(kept)

    @property
    def waiting(self) -> int:
        with self._lock:
            return self._accepted - self._placed

    def settle(self, timeout_s: float) -> bool:
        """Wait until everything acknowledged before this call has its own file."""
        end = time.monotonic() + timeout_s
        with self._lock:
            upto = self._accepted
            self._settling += 1
            try:
                return self._changed.wait_for(lambda: self._placed >= upto, end - time.monotonic())
            finally:
                self._settling -= 1

    def _run(self) -> None:
        while not self._over():
            try:
                self._one_step()
            except Exception:  # noqa: BLE001 - see below
                # whatever it is: this thread must not end while images come in; their bytes are safe in the log
                self.failures += 1
                _log.exception("writer: unexpected failure; it goes on after a pause")
                time.sleep(_FIRST_RETRY_S)

    def _over(self) -> bool:
        with self._lock:
            return self._stopping and not self._queue

    def _one_step(self) -> None:
        with self._lock:
            if not self._queue and not self._stopping:
                self._asleep = True
                self._changed.wait_for(lambda: self._queue or self._stopping, _IDLE_S)
                self._asleep = False
                if self._queue:
                    self._changed.wait_for(lambda: self._stopping, _GATHER_S)
            job = self._queue[0] if self._queue else None
            if job is not None and self._gives_way():
                self._changed.wait_for(lambda: self._stopping or self._settling, _GIVE_WAY_S)
                return
        if job is None:
            self._use_the_pause()
            return
        if not self._place(*job):
            self._abandon()
            return
        with self._lock:
            self._queue.popleft()
            self._placed += 1
            if self._settling:
                self._changed.notify_all()
        if self._segments.under_pressure:
            self._attempt(lambda: self._relieve_the_log(0.0))
            self._attempt(lambda: self._segments.retire(also_active=False))

    def _abandon(self) -> None:
        """Stopped while a record could not be placed: all that wait are replayed at the next start."""
        with self._lock:
            self._queue.clear()

    def _gives_way(self) -> bool:
        """With the lock held: whether several senders at once should have the processor to themselves for now.

        Only while nobody waits for the files and the log has prepared room; a single sender leaves time enough.
        """
        if self._stopping or self._settling or not self._segments.spare:
            return False
        since = time.monotonic() - _BUSY_S
        self._busy = {association: at for association, at in self._busy.items() if at > since}
        return len(self._busy) > 1

    def _place(self, record: Record, replayed: bool) -> bool:
        """One record; on failure the next try comes after a pause, for as long as it takes."""
        delay_s = _FIRST_RETRY_S
        damaged = 0
        while True:
            try:
                if damaged == _DAMAGED_TRIES:
                    self._set_aside(record)
                    return True
                kept = self._store.place(record, replayed=replayed)
            except StorageError as error:
                self.failures += 1
                damaged += error.code == "storage.damaged"
                _log.error("writer: %s Next try in %.1f s; the log keeps it.", error.message, delay_s)
                with self._lock:
                    if self._stopping or self._changed.wait_for(lambda: self._stopping, delay_s):
                        return False
                delay_s = min(2 * delay_s, _LONGEST_RETRY_S)
            else:
                with self._lock:
                    self._unmarked[record.sequence] = (record, kept, time.monotonic())
                self._on_placed(kept)
                return True

    def _set_aside(self, record: Record) -> None:
        """It must not hold up those behind it; what is there of it is kept, and told."""
        path = self._store.set_aside(record)
        self._segments.placed(record)
        self._on_damaged(record, path)

    def _relieve_the_log(self, older_than_s: float) -> int:
        """Mark what waits for its sink in another way, so that its segment can be retired."""
        since = time.monotonic() - older_than_s
        with self._lock:
            old = [sequence for sequence, (_, _, at) in self._unmarked.items() if at <= since]
        for sequence in old:
            with self._lock:
                waiting = self._unmarked.pop(sequence, None)
            if waiting is not None:
                record, kept, _ = waiting
                try:
                    self._store.mark(kept)
                except StorageError:
                    with self._lock:
                        self._unmarked[sequence] = waiting
                    raise
                self._segments.placed(record)
        return len(old)

    def _use_the_pause(self) -> None:
        self._attempt(lambda: self._relieve_the_log(_PATIENCE_S))
        if not self._attempt(lambda: self._segments.retire(also_active=True)):
            self._attempt(lambda: int(self._segments.prepare_one()))

    def _attempt(self, step: Callable[[], int]) -> int:
        try:
            return step()
        except StorageError as error:
            self.failures += 1
            _log.error(
                "writer: %s Nothing is lost; the log keeps what is not on stable storage.", error.message
            )
            return 0
