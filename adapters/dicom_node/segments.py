"""The segment log: where an instance becomes durable before Success, at the price of one disk barrier.

    segments/  NNNN.seg       fixed size, written over and over: overwriting allocated blocks needs no journal commit
               <random>.big   one record of its own size, for what does not fit into memory

A segment starts with a header block that carries a random generation. A record is a header block (generation,
sequence number, own offset, and the facts with length and SHA-256 of the data) and the data set bytes; both start on
a block boundary, so that writing one record never rewrites a block of another. Start-up looks at every block for a
header of the segment's generation: a record that was cut off fails its digest and was never acknowledged, and what
parallel associations wrote behind it is still found. Giving a segment a new generation forgets its records.

Parallel associations share a barrier: whoever finds none running syncs for all that was written before.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import logging
import os
import secrets
import struct
import threading
import uuid
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adapters.dicom_node.part10 import InstanceFacts, facts_from_json, facts_to_json
from adapters.dicom_node.stored_files import storage_error, sync_directory, write_parts
from service.errors import StorageError

_log = logging.getLogger("spineprint.dicom")

BLOCK = 4096
_SEGMENT = struct.Struct("<8s16sI")
_RECORD = struct.Struct("<8s16sQQQII")
"""magic, generation, sequence, offset, data length, length of the facts, CRC-32 of all before and the facts"""
_SEGMENT_MAGIC, _RECORD_MAGIC = b"SPSEGM01", b"SPRECD01"
COPY_BYTES = 1 << 20


@dataclass(eq=False)
class Segment:
    """One open file of the log. Fields are guarded by `changed`, the cursor by the log's lock."""

    path: Path
    descriptor: int
    size: int
    generation: bytes
    cursor: int = BLOCK
    big: bool = False
    waiting: int = 0
    """Records not yet in their own files."""
    written: int = 0
    synced: int = 0
    syncing: bool = False
    broken: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    def sync(self) -> None:
        """Return when all that the calling thread wrote is on stable storage. Raises StorageError."""
        with self.changed:
            self.written += 1
            mine = self.written
            while self.synced < mine and not self.broken:
                if self.syncing:
                    self.changed.wait()
                    continue
                self.syncing, upto = True, self.written
                self.changed.release()
                try:
                    os.fdatasync(self.descriptor)
                except OSError:
                    # after a failed sync the kernel forgets which pages are dirty: nothing here may be trusted again
                    self.broken = True
                finally:
                    self.changed.acquire()
                    self.syncing = False
                if not self.broken:
                    self.synced = max(self.synced, upto)
                self.changed.notify_all()
            if self.synced < mine:
                raise storage_error(OSError(errno.EIO, "sync failed"))


@dataclass(frozen=True)
class Record:
    """One durable instance in the log; its data starts at `offset` of the segment."""

    segment: Segment
    offset: int
    size: int
    sequence: int
    facts: InstanceFacts

    def blocks(self) -> Iterator[memoryview]:
        """The data set in pieces; each is valid until the next is asked for."""
        buffer = memoryview(bytearray(min(self.size, COPY_BYTES)))
        done = 0
        while done < self.size:
            got = os.preadv(self.segment.descriptor, [buffer[: self.size - done]], self.offset + done)
            if not got:
                raise OSError(errno.EIO, "segment ends early")
            yield buffer[:got]
            done += got

    def copy_to(self, descriptor: int, head: bytes, buffer: bytearray) -> None:
        """Write `head` and the data set to an open file.

        Through a buffer that is used again: copy_file_range(2) takes more of the processor on ext4, because it goes
        page by page, and a fresh buffer would be zeroed by the kernel first.
        """
        done = 0
        with memoryview(buffer) as view:
            while done < self.size or head:
                room = view[: self.size - done]
                got = os.preadv(self.segment.descriptor, [room], self.offset + done) if room else 0
                if room and not got:
                    raise OSError(errno.EIO, "segment ends early")
                write_parts(descriptor, [head, view[:got]])
                head = b""
                done += got


class SegmentLog:
    """Appends are safe for several threads; one process at a time owns the folder."""

    def __init__(self, folder: Path, *, segment_bytes: int, spare_segments: int) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes - segment_bytes % BLOCK
        self._spare_wanted = spare_segments
        self._lock = threading.Lock()
        self._active: Segment | None = None
        self._sealed: list[Segment] = []
        self._spare: list[Segment] = []
        self._sequence = 0
        self._number = 0

    # --- life ---------------------------------------------------------------------------------------------

    def open(self) -> list[Record]:
        """Open the folder; what was durable and not yet retired, in the order it came. Raises StorageError."""
        records: list[Record] = []
        try:
            self._folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            sync_directory(self._folder.parent)
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
        head = os.pread(descriptor, _SEGMENT.size, 0)
        whole = len(head) == _SEGMENT.size and _SEGMENT.unpack(head)[0] == _SEGMENT_MAGIC
        magic, generation, crc = _SEGMENT.unpack(head) if whole else (b"", b"", 0)
        records: list[Record] = []
        big = path.suffix == ".big"
        segment = Segment(path, descriptor, size, generation, cursor=size, big=big)
        if magic == _SEGMENT_MAGIC and zlib.crc32(magic + generation) == crc:
            records = list(_records_of(segment))
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
                os.close(segment.descriptor)
            self._sealed, self._spare, self._active = [], [], None

    # --- writing ------------------------------------------------------------------------------------------

    def append(self, facts: InstanceFacts, data: memoryview) -> Record:
        """Make one instance durable: when this returns its bytes survive a crash and a power cut.

        `facts` with the size and SHA-256 of `data`. Raises StorageError (`storage.full`, `storage.failed`); then the
        instance counts as never seen.
        """
        try:
            segment, offset, sequence = self._reserve(BLOCK + _aligned(len(data)))
            header = _record_header(segment.generation, sequence, offset, facts)
            record = Record(segment, offset + BLOCK, len(data), sequence, facts)
            try:
                # padded to whole blocks: a block written in part would first have to be read
                _write_at(segment.descriptor, [header, data, bytes(-len(data) % BLOCK)], offset)
                segment.sync()
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
        return self._make(max(self._segment_bytes, BLOCK + _aligned(size)))

    def _make(self, size: int) -> Segment:
        path = self._folder / f"{self._number:04d}.seg"
        self._number += 1
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
        try:
            os.posix_fallocate(descriptor, 0, size)
            segment = Segment(path, descriptor, size, secrets.token_bytes(16))
            _write_segment_header(segment)
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
        )
        with self._lock:
            self._sealed.remove(segment)
        if keep:
            fresh = Segment(segment.path, segment.descriptor, segment.size, secrets.token_bytes(16))
            _write_segment_header(fresh)
            os.fdatasync(fresh.descriptor)
            with self._lock:
                self._spare.append(fresh)
        else:
            segment.path.unlink(missing_ok=True)
            os.close(segment.descriptor)

    def prepare_one(self) -> bool:
        """Write one spare segment through to the disk; False when there are enough. Raises StorageError."""
        with self._lock:
            if len(self._spare) >= self._spare_wanted:
                return False
            number, self._number = self._number, self._number + 1
        path = self._folder / f"{number:04d}.seg"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
            segment = Segment(path, descriptor, self._segment_bytes, secrets.token_bytes(16))
            try:
                zeros = bytes(COPY_BYTES)
                for offset in range(0, segment.size, COPY_BYTES):
                    _write_at(descriptor, [memoryview(zeros)[: segment.size - offset]], offset)
                _write_segment_header(segment)
                os.fsync(descriptor)
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
            _write_at(self._segment.descriptor, [data], 2 * BLOCK + self.size)
        except OSError as error:
            raise storage_error(error) from error
        self.size += len(data)

    def finish(self, facts: InstanceFacts) -> Record:
        """Durable when this returns; `facts` as for `append`. Raises StorageError."""
        segment = self._segment
        header = _record_header(segment.generation, self._sequence, BLOCK, facts)
        try:
            _write_segment_header(segment)
            _write_at(segment.descriptor, [header], BLOCK)
            os.fsync(segment.descriptor)
            sync_directory(segment.path.parent)
        except OSError as error:
            raise storage_error(error) from error
        segment.waiting = 1
        segment.size = segment.cursor = 2 * BLOCK + self.size
        self._log.adopt(segment)
        return Record(segment, 2 * BLOCK, self.size, self._sequence, facts)

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._segment.descriptor)
        self._segment.path.unlink(missing_ok=True)


# --- on disk ----------------------------------------------------------------------------------------------


def _aligned(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _write_segment_header(segment: Segment) -> None:
    start = _SEGMENT_MAGIC + segment.generation
    head = _SEGMENT.pack(_SEGMENT_MAGIC, segment.generation, zlib.crc32(start))
    _write_at(segment.descriptor, [head.ljust(BLOCK, b"\0")], 0)


def _record_header(generation: bytes, sequence: int, offset: int, facts: InstanceFacts) -> bytes:
    text = json.dumps(facts_to_json(facts), separators=(",", ":")).encode("ascii")
    if _RECORD.size + len(text) > BLOCK:
        raise StorageError("An instance has facts longer than any real one.", code="storage.failed")
    fields = (_RECORD_MAGIC, generation, sequence, offset, facts.size, len(text))
    check = zlib.crc32(_RECORD.pack(*fields, 0) + text)
    return (_RECORD.pack(*fields, check) + text).ljust(BLOCK, b"\0")


def _records_of(segment: Segment) -> Iterator[Record]:
    offset = BLOCK
    while offset + BLOCK <= segment.size:
        record = _record_at(segment, offset)
        if record is None:
            offset += BLOCK
        else:
            yield record
            offset = record.offset + _aligned(record.size)


def _record_at(segment: Segment, offset: int) -> Record | None:
    head = os.pread(segment.descriptor, BLOCK, offset)
    if len(head) < BLOCK or not head.startswith(_RECORD_MAGIC):
        return None
    magic, generation, sequence, own, size, length, check = _RECORD.unpack_from(head)
    if generation != segment.generation or own != offset or _RECORD.size + length > BLOCK:
        return None
    text = head[_RECORD.size : _RECORD.size + length]
    if zlib.crc32(_RECORD.pack(magic, generation, sequence, own, size, length, 0) + text) != check:
        return None
    if offset + BLOCK + size > segment.size:
        return None
    record = Record(segment, offset + BLOCK, size, sequence, facts_from_json(json.loads(text)))
    digest = hashlib.sha256()
    for block in record.blocks():
        digest.update(block)
    return record if digest.hexdigest() == record.facts.sha256 else None


def _write_at(descriptor: int, parts: Sequence[bytes | memoryview], offset: int) -> None:
    """All of the parts, one behind the other, each padded by nothing."""
    total = sum(len(part) for part in parts)
    done = os.pwritev(descriptor, list(parts), offset)
    if done == total:
        return
    # a short write is rare (a signal, a full disk): finish it the simple way
    rest = memoryview(b"".join(parts))
    while done < total:
        done += os.pwrite(descriptor, rest[done:], offset + done)


def sync_file_system(folder: Path) -> None:
    """syncfs(2): data and names of everything on the file system of `folder`, in one call. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _LIBC.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(descriptor)


_LIBC = ctypes.CDLL(None, use_errno=True)
