"""Where the bytes of one data set land while they arrive: in memory, and beyond a limit in a file of the log."""

from __future__ import annotations

from collections.abc import Callable

import xxhash

from adapters.dicom_node.direct_io import BLOCK, HUGE_PAGE, room
from adapters.dicom_node.part10 import InstanceFacts
from adapters.dicom_node.segment_files import Record
from adapters.dicom_node.segments import BigRecord, SegmentLog
from service.errors import StorageError

RoomCheck = Callable[[int], None]
"""Raises StorageError when so many more bytes do not fit."""
MOST_IN_MEMORY = 8 << 20
"""Per association; a CT image is 0.5 MB, an enhanced CT some hundred."""
_FIRST_BYTES = HUGE_PAGE - BLOCK
_ROOM_STEP = 64 << 20


class Landing:
    """The buffer of one association, used again for every instance. `view` then `filled`, piece by piece."""

    def __init__(self, log: SegmentLog, require_room: RoomCheck, *, largest_bytes: int) -> None:
        self._log = log
        self._require_room = require_room
        self._largest = largest_bytes
        self._frame = room(BLOCK + _FIRST_BYTES)
        self._buffer = self._frame[BLOCK:]
        """Where the data set lands; the block before it is for the header of its record."""
        self._wanted = False
        self._held = 0
        self._check = xxhash.xxh3_128()
        self._big: BigRecord | None = None
        self._next_check = 0
        self.refusal: StorageError | None = None
        """Why this instance cannot be kept; the rest of it is read and forgotten."""

    def begin(self, *, wanted: bool = True) -> None:
        """Not `wanted`: only the bytes of the data set must be got past."""
        self.abandon()
        self._wanted, self.refusal = wanted, None
        self._check.reset()

    @property
    def size(self) -> int:
        return self._held + (self._big.size if self._big else 0)

    def view(self, count: int) -> memoryview:
        """Where the next `count` bytes belong. Released by the caller before the next call."""
        if not self._wanted or self.refusal is not None:
            self._held = 0
        elif self.size + count > self._largest:
            self._refuse(
                StorageError(
                    f"The instance is larger than the {self._largest >> 20} MB this node takes.",
                    next_step="Send it split into smaller objects.",
                    code="storage.size",
                )
            )
        elif self._held + count > MOST_IN_MEMORY:
            self._spill()
        if self._held + count > len(self._buffer):
            frame = room(BLOCK + max(self._held + count, min(2 * len(self._buffer), MOST_IN_MEMORY)))
            grown = frame[BLOCK:]
            grown[: self._held] = self._buffer[: self._held]
            self._frame, self._buffer = frame, grown
        return self._buffer[self._held : self._held + count]

    def filled(self, count: int) -> None:
        if self._wanted:
            # piece by piece, while it is in the processor's cache
            self._check.update(self._buffer[self._held : self._held + count])
        self._held += count

    def finish(self, facts: InstanceFacts) -> Record:
        """Durable when this returns; `facts` with the size of what came. Raises StorageError; then nothing is kept."""
        if self.refusal is not None:
            raise self.refusal
        if not self._wanted or facts.size != self.size:
            raise AssertionError("nothing was begun, or these are the facts of something else")
        check = self._check.hexdigest()
        try:
            if self._big is None:
                # twice: once in the log, once in its own file
                self._require_room(2 * self._held)
                return self._log.append(facts, self._frame, check)
            self._flush()
            big, self._big = self._big, None
            try:
                return big.finish(facts, check)
            except StorageError:
                big.abandon()
                raise
        finally:
            self.abandon()

    def abandon(self) -> None:
        if self._big is not None:
            self._big.abandon()
            self._big = None
        self._wanted, self._held, self._next_check = False, 0, 0

    def _spill(self) -> None:
        try:
            if self._big is None and self._wanted:
                self._big = self._log.begin_big()
            self._flush()
        except StorageError as error:
            self._refuse(error)

    def _flush(self) -> None:
        if self._big is None:
            return
        if self._big.size >= self._next_check:
            self._require_room(2 * self._big.size + _ROOM_STEP)
            self._next_check = self._big.size + _ROOM_STEP
        self._big.write(self._buffer[: self._held])
        self._held = 0

    def _refuse(self, error: StorageError) -> None:
        self.abandon()
        self.refusal = error
