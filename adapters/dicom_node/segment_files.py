"""The files of the segment log as they lie on the disk: segments, records and their headers (see `segments`)."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import logging
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import xxhash
from pydantic_core import to_json

from adapters.dicom_node.direct_io import BLOCK, aligned, room, write_whole
from adapters.dicom_node.part10 import InstanceFacts, facts_from_json, facts_to_json
from service.errors import StorageError

COPY_BYTES = 1 << 20
_SEGMENT = struct.Struct("<8s16sI")
_RECORD = struct.Struct("<8s16sQQQII")
"""magic, generation, sequence, offset, data length, length of the facts, CRC-32 of all before and the facts"""
_log = logging.getLogger("spineprint.dicom")
_SEGMENT_MAGIC, _RECORD_MAGIC = b"SPSEGM01", b"SPRECD01"


@dataclass(eq=False)
class Segment:
    """One open file of the log. `cursor` and `waiting` are guarded by the log's lock."""

    path: Path
    descriptor: int
    size: int
    generation: bytes
    cursor: int = BLOCK
    big: bool = False
    waiting: int = 0
    """Records not yet in their own files."""
    broken: bool = False
    """A barrier failed: nothing more may be written here."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    handles: dict[int, int] = field(default_factory=dict)
    """Thread -> its own open descriptor of this file."""
    direct: int = 0
    """O_DIRECT or 0, for records; the header goes through the page cache."""
    reading: int | None = None

    def reader(self) -> int:
        """A descriptor for reading what was made durable. For one thread, the writer's."""
        if self.reading is None:
            self.reading = os.open(self.path, os.O_RDONLY | self.direct)
        return self.reading

    def close(self) -> None:
        self.release_handles()
        os.close(self.descriptor)

    def release_handles(self) -> None:
        """When nobody writes any more."""
        with self.lock:
            for handle in self.handles.values():
                os.close(handle)
            self.handles.clear()
            if self.reading is not None:
                os.close(self.reading)
                self.reading = None

    def write_durably(self, data: memoryview, offset: int) -> None:
        """Write whole blocks from page-aligned memory and wait for the disk. Raises OSError.

        Each thread through a descriptor of its own. The kernel merges the flushes of those that wait at the same
        time (block/blk-flush.c), better than a barrier shared here would; and it tells a failed write-back once to
        each open descriptor, so that with a common one the second of two threads would take it for success.
        """
        handle = self._handle()
        write_whole(handle, data, offset)
        try:
            os.fdatasync(handle)
        except OSError:
            # the kernel has forgotten which pages are dirty: nothing here may be trusted again
            self.broken = True
            raise
        if self.broken:
            raise OSError(errno.EIO, "another barrier on this segment failed")

    def _handle(self) -> int:
        thread = threading.get_ident()
        with self.lock:
            if thread not in self.handles:
                self.handles[thread] = os.open(self.path, os.O_RDWR | self.direct)
            return self.handles[thread]


@dataclass(frozen=True)
class Record:
    """One durable instance in the log; its data starts at `offset` of the segment."""

    segment: Segment
    offset: int
    size: int
    sequence: int
    facts: InstanceFacts
    """Their `sha256` is empty until the instance gets its own file: it is not computed between data and Success."""
    check: str
    """XXH3 (128 bit, hexadecimal) of the data: tells a record that was cut off."""

    def read(self, into: memoryview, at: int) -> int:
        """Bytes of the data set from position `at` (whole blocks) into page-aligned memory; how many they are.

        What lies behind them in the last block is overwritten too. Raises OSError.
        """
        wanted = min(len(into), aligned(self.size - at))
        got = os.preadv(self.segment.reader(), [into[:wanted]], self.offset + at)
        if got < min(wanted, self.size - at):
            raise OSError(errno.EIO, "segment ends early")
        return min(got, self.size - at)

    def blocks(self) -> Iterator[memoryview]:
        """The data set in pieces; each is valid until the next is asked for."""
        buffer = room(min(self.size, COPY_BYTES))
        done = 0
        while done < self.size:
            got = self.read(buffer, done)
            yield buffer[:got]
            done += got


def write_segment_header(segment: Segment) -> None:
    start = _SEGMENT_MAGIC + segment.generation
    head = _SEGMENT.pack(_SEGMENT_MAGIC, segment.generation, zlib.crc32(start))
    write_at(segment.descriptor, [head.ljust(BLOCK, b"\0")], 0)


def read_generation(descriptor: int) -> bytes | None:
    """Of the segment in this file; None when it has no whole header."""
    head = os.pread(descriptor, _SEGMENT.size, 0)
    if len(head) < _SEGMENT.size:
        return None
    magic, generation, crc = _SEGMENT.unpack(head)
    whole = magic == _SEGMENT_MAGIC and zlib.crc32(magic + generation) == crc
    return bytes(generation) if whole else None


def record_header(generation: bytes, sequence: int, offset: int, facts: InstanceFacts, check: str) -> bytes:
    document = facts_to_json(facts)
    document["xxh3"] = check
    text = to_json(document)
    if _RECORD.size + len(text) > BLOCK:
        raise StorageError("An instance has facts longer than any real one.", code="storage.failed")
    fields = (_RECORD_MAGIC, generation, sequence, offset, facts.size, len(text))
    crc = zlib.crc32(_RECORD.pack(*fields, 0) + text)
    return (_RECORD.pack(*fields, crc) + text).ljust(BLOCK, b"\0")


def records_of(segment: Segment) -> Iterator[Record]:
    offset = BLOCK
    while offset + BLOCK <= segment.size:
        record = _record_at(segment, offset)
        if record is None:
            offset += BLOCK
        else:
            yield record
            offset = record.offset + aligned(record.size)


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
    document = json.loads(text)
    facts = facts_from_json(document)
    record = Record(segment, offset + BLOCK, size, sequence, facts, str(document.get("xxh3", "")))
    # a record of an earlier version has a SHA-256 in its place
    digest, expected = (xxhash.xxh3_128(), record.check) if record.check else (hashlib.sha256(), facts.sha256)
    for block in record.blocks():
        digest.update(block)
    if digest.hexdigest() == expected:
        return record
    # cut off by a crash before it was acknowledged, or damaged since: nothing here can tell which
    _log.warning("log %s: the record at %d is not whole and is passed over", segment.path.name, offset)
    return None


def write_at(descriptor: int, parts: Sequence[bytes | memoryview], offset: int) -> None:
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
