"""The segment log: where an instance becomes durable before Success, at the price of one disk barrier.

    segments/  NNNN.seg       fixed size, written over and over: overwriting allocated blocks needs no journal commit
               <random>.big   one record of its own size, for what does not fit into memory

A segment starts with a header block that carries a random generation. A record is a header block (generation,
sequence number, own offset, and the facts with length and XXH3 of the data) and the data set bytes; both start on
a block boundary, so that writing one record never rewrites a block of another. Start-up looks at every block for a
header of the segment's generation: a record that was cut off fails its digest and was never acknowledged, and what
parallel associations wrote behind it is still found. Giving a segment a new generation forgets its records.

Parallel associations write and wait each for itself; the kernel merges the flushes of those that wait together.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import xxhash

from adapters.dicom_node.direct_io import BLOCK, aligned, flag_for
from adapters.dicom_node.part10 import InstanceFacts
from adapters.dicom_node.segment_files import (
    COPY_BYTES,
    Record,
    Segment,
    read_generation,
    record_header,
    records_of,
    sync_file_system,
    write_at,
    write_segment_header,
)
from adapters.dicom_node.stored_files import storage_error, sync_directory

_PLENTY = 8
"""The log takes at most about a part in so many of the room on its disk."""


class SegmentLog:
    """Appends are safe for several threads; one process at a time owns the folder."""

    def __init__(
        self,
        folder: Path,
        *,
        segment_bytes: int,
        spare_segments: int,
        room: Callable[[], int] = lambda: 1 << 62,
    ) -> None:
        """`room`: bytes that may still be used on this disk. Where it is scarce the log keeps nothing in advance."""
        self._folder = folder
        self._room = room
        self._segment_bytes = segment_bytes - segment_bytes % BLOCK
        self._spare_wanted = spare_segments
        self._lock = threading.Lock()
        self._active: Segment | None = None
        self._sealed: list[Segment] = []
        self._spare: list[Segment] = []
        self._sequence = 0
        self._number = 0
        self._direct = 0

    # --- life ---------------------------------------------------------------------------------------------

    def open(self) -> list[Record]:
        """Open the folder; what was durable and not yet retired, in the order it came. Raises StorageError."""
        records: list[Record] = []
        try:
            self._folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            sync_directory(self._folder.parent)
            for left in self._folder.glob("*.probe"):
                left.unlink()
            self._direct = flag_for(self._folder)
            for path in sorted((*self._folder.glob("*.seg"), *self._folder.glob("*.big"))):
                records += self._reopen(path)
        except OSError as error:
            raise storage_error(error) from error
        records.sort(key=lambda record: record.sequence)
        self._sequence = max((record.sequence for record in records), default=0)
        return records

    def _reopen(self, path: Path) -> list[Record]:
        if path.suffix == ".seg":
            self._number = max(self._number, int(path.stem) + 1)
        descriptor = os.open(path, os.O_RDWR)
        size = os.fstat(descriptor).st_size
        generation = read_generation(descriptor)
        records: list[Record] = []
        big = path.suffix == ".big"
        segment = Segment(
            path, descriptor, size, generation or b"", cursor=size, big=big, direct=self._direct
        )
        if generation is not None:
            records = list(records_of(segment))
        segment.waiting = len(records)
        if records or (not big and size == self._segment_bytes):
            self._sealed.append(segment)
        else:
            os.close(descriptor)
            path.unlink()
        return records

    def close(self) -> None:
        with self._lock:
            for segment in (*self._sealed, *self._spare, *([self._active] if self._active else [])):
                segment.close()
            self._sealed, self._spare, self._active = [], [], None

    # --- writing ------------------------------------------------------------------------------------------

    def append(self, facts: InstanceFacts, frame: memoryview, check: str = "") -> Record:
        """Make one instance durable: when this returns its bytes survive a crash and a power cut.

        `frame` is page-aligned memory: a free block, then the data set, then room up to the end of its last block.
        `facts` with the size of the data set; `check` is its XXH3 when the caller has it already. Raises
        StorageError (`storage.full`, `storage.failed`); then the instance counts as never seen.
        """
        try:
            size, whole = facts.size, BLOCK + aligned(facts.size)
            segment, offset, sequence = self._reserve(whole)
            check = check or xxhash.xxh3_128_hexdigest(frame[BLOCK : BLOCK + size])
            frame[:BLOCK] = record_header(segment.generation, sequence, offset, facts, check)
            frame[BLOCK + size : whole] = bytes(whole - BLOCK - size)
            record = Record(segment, offset + BLOCK, size, sequence, facts, check)
            try:
                segment.write_durably(frame[:whole], offset)
            except BaseException:
                self._forget(segment)
                raise
            return record
        except OSError as error:
            raise storage_error(error) from error

    def begin_big(self) -> BigRecord:
        """For an instance too large to be held in memory: written as it comes. Raises StorageError."""
        with self._lock:
            self._sequence += 1
            sequence = self._sequence
        try:
            return BigRecord(self, self._folder / f"{uuid.uuid4().hex}.big", sequence)
        except OSError as error:
            raise storage_error(error) from error

    def _reserve(self, size: int) -> tuple[Segment, int, int]:
        with self._lock:
            segment = self._active
            if segment is not None and (segment.broken or segment.cursor + size > segment.size):
                self._sealed.append(segment)
                self._active = segment = None
            if segment is None:
                segment = self._take_spare(size)
                self._active = segment
            offset = segment.cursor
            segment.cursor += size
            segment.waiting += 1
            self._sequence += 1
            return segment, offset, self._sequence

    def _take_spare(self, size: int) -> Segment:
        """With the lock held: the next segment to write, a prepared one when there is one that is large enough."""
        for segment in self._spare:
            if BLOCK + size <= segment.size:
                self._spare.remove(segment)
                return segment
        least = BLOCK + aligned(size)
        plenty = self._room() > _PLENTY * self._segment_bytes
        return self._make(max(self._segment_bytes, least) if plenty else least)

    def _make(self, size: int) -> Segment:
        path = self._folder / f"{self._number:04d}.seg"
        self._number += 1
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
        try:
            os.posix_fallocate(descriptor, 0, size)
            segment = Segment(path, descriptor, size, secrets.token_bytes(16), direct=self._direct)
            write_segment_header(segment)
            os.fsync(descriptor)
            sync_directory(self._folder)
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        return segment

    def _forget(self, segment: Segment) -> None:
        with self._lock:
            segment.waiting -= 1

    def adopt(self, segment: Segment) -> None:
        """A finished big record's file joins the log."""
        with self._lock:
            self._sealed.append(segment)

    # --- retiring -----------------------------------------------------------------------------------------

    def placed(self, record: Record) -> None:
        """The record is in its own file, though perhaps not on stable storage, and its sink has it or it is marked."""
        self._forget(record.segment)

    def retire(self, *, also_active: bool) -> int:
        """Free the segments whose records all have their own files, after those are on stable storage.

        Returns how many were freed. Raises StorageError when the sync fails; nothing is freed then.
        """
        with self._lock:
            active = self._active
            if also_active and active is not None and active.cursor > BLOCK and not active.waiting:
                self._sealed.append(active)
                self._active = None
            done = [s for s in self._sealed if not s.waiting]
        if not done:
            return 0
        try:
            sync_file_system(self._folder)
            for segment in done:
                self._free(segment)
        except OSError as error:
            raise storage_error(error) from error
        return len(done)

    def _free(self, segment: Segment) -> None:
        keep = (
            not segment.big
            and not segment.broken
            and segment.size == self._segment_bytes
            and len(self._spare) < max(self._spare_wanted, 1)
            and self._room() > _PLENTY * self._segment_bytes
        )
        with self._lock:
            self._sealed.remove(segment)
        segment.release_handles()
        if keep:
            fresh = Segment(
                segment.path,
                segment.descriptor,
                segment.size,
                secrets.token_bytes(16),
                direct=segment.direct,
            )
            write_segment_header(fresh)
            os.fdatasync(fresh.descriptor)
            with self._lock:
                self._spare.append(fresh)
        else:
            segment.path.unlink(missing_ok=True)
            segment.close()

    def prepare_one(self) -> bool:
        """Write one spare segment through to the disk; False when there are enough. Raises StorageError."""
        try:
            if self._room() < 2 * _PLENTY * self._segment_bytes:
                self._give_back_spares()
                return False
        except OSError as error:
            raise storage_error(error) from error
        with self._lock:
            if len(self._spare) >= self._spare_wanted:
                return False
            number, self._number = self._number, self._number + 1
        path = self._folder / f"{number:04d}.seg"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
            segment = Segment(
                path, descriptor, self._segment_bytes, secrets.token_bytes(16), direct=self._direct
            )
            try:
                zeros = bytes(COPY_BYTES)
                for offset in range(0, segment.size, COPY_BYTES):
                    write_at(descriptor, [memoryview(zeros)[: segment.size - offset]], offset)
                write_segment_header(segment)
                os.fsync(descriptor)
                # its pages would only have to be thrown out one by one when records come
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                sync_directory(self._folder)
            except OSError:
                os.close(descriptor)
                path.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise storage_error(error) from error
        with self._lock:
            self._spare.append(segment)
        return True

    def _give_back_spares(self) -> None:
        if self._room() > _PLENTY * self._segment_bytes:
            return
        with self._lock:
            spares, self._spare = self._spare, []
        for segment in spares:
            segment.path.unlink(missing_ok=True)
            segment.close()

    @property
    def under_pressure(self) -> bool:
        """The spare segments are used up while full ones wait to be retired."""
        with self._lock:
            return not self._spare and len(self._sealed) > self._spare_wanted

    @property
    def spare(self) -> int:
        with self._lock:
            return len(self._spare)


class BigRecord:
    """One instance written to a file of its own while it arrives; counts only after `finish`."""

    def __init__(self, log: SegmentLog, path: Path, sequence: int) -> None:
        self._log = log
        self._sequence = sequence
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
        self._segment = Segment(path, descriptor, 0, secrets.token_bytes(16), big=True)
        self.size = 0

    def write(self, data: memoryview) -> None:
        """Raises StorageError."""
        try:
            write_at(self._segment.descriptor, [data], 2 * BLOCK + self.size)
        except OSError as error:
            raise storage_error(error) from error
        self.size += len(data)

    def finish(self, facts: InstanceFacts, check: str) -> Record:
        """Durable when this returns; `facts` and `check` as for `append`. Raises StorageError."""
        segment = self._segment
        header = record_header(segment.generation, self._sequence, BLOCK, facts, check)
        try:
            write_segment_header(segment)
            write_at(segment.descriptor, [header], BLOCK)
            os.fsync(segment.descriptor)
            sync_directory(segment.path.parent)
        except OSError as error:
            raise storage_error(error) from error
        segment.waiting = 1
        segment.size = segment.cursor = 2 * BLOCK + self.size
        self._log.adopt(segment)
        return Record(segment, 2 * BLOCK, self.size, self._sequence, facts, check)

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._segment.descriptor)
        self._segment.path.unlink(missing_ok=True)
