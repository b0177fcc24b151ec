"""Where received instances are kept. Knows files and directories, nothing of the network.

Layout below the store's root:

    segments/    the log in which an instance becomes durable before Success (see `segments`)
    incoming/    <random>.part              being written; swept at start-up, never acknowledged
    pending/     <uid hash>-<digest>.dcm    not yet acknowledged by the sink (hard link)
    instances/   <xx>/<uid hash>.dcm        the store; its paths never change
    quarantine/  <uid hash>-<digest>.dcm    another content under a UID that is already stored

What comes from the network is in the log first; `place` gives it its file with no barrier and no mark of its own,
because the log keeps the bytes until the sink has returned and the file system was synced (`mark` lets the log forget
an instance that a failing sink keeps waiting). What comes by another way (`keep`) is made durable here: data to
`incoming`, fsync, rename to `pending`, fsync of that directory. A pending name is removed when the sink has returned.
File names are hashes: nothing from the wire becomes part of a path.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import itertools
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import xxhash

from adapters.dicom_node.direct_io import BLOCK, HUGE_PAGE, flag_for, room, write_ending, write_whole
from adapters.dicom_node.part10 import InstanceFacts, envelope, read_facts, read_meta
from adapters.dicom_node.stored_files import storage_error, sync_directory, write_parts
from service.errors import InputRefusedError, StorageError
from service.ports import ReceivedInstance

_SCRATCH_BYTES = HUGE_PAGE - BLOCK
_AMPLE_BYTES, _AMPLE_S = 2 << 30, 0.1
"""With twice so much room nothing that comes within so long can fill it, and the disk is not asked each time."""
_log = logging.getLogger("spineprint.dicom")

_UID = re.compile(r"[0-9]+(\.[0-9]+)*", re.ASCII)


class Outcome(enum.StrEnum):
    NEW = "new"
    DUPLICATE = "duplicate"
    """The same bytes were here already."""
    CONFLICT = "conflict"
    """Other bytes under the same UID: kept in quarantine, the first one stays."""


@dataclass(frozen=True)
class Kept:
    """One durable instance. `pending` is the mark to retire after the sink returned; None when nothing waits."""

    instance: ReceivedInstance
    outcome: Outcome
    pending: Path | None
    sequence: int = 0
    """Of its record in the log, which is its mark; 0 when it did not come through the log."""


class Source(Protocol):
    """Durable bytes that get their own file: a record of the log."""

    @property
    def sequence(self) -> int: ...

    @property
    def facts(self) -> InstanceFacts:
        """With the size of the data set; `sha256` may still be empty."""
        ...

    @property
    def check(self) -> str:
        """XXH3 of the data set as it came over the wire; empty when only `sha256` is known."""
        ...

    def read(self, into: memoryview, at: int) -> int:
        """Bytes from position `at` of the data set (whole blocks); how many they are. Raises OSError."""
        ...


def is_uid(text: str) -> bool:
    """Digits and dots, at most 64 characters (PS3.5 section 9.1; leading zeros occur and do no harm here)."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


class DurableStore:
    """Safe for several threads of one process; one process at a time owns a root."""

    def __init__(self, root: Path, *, reserve_bytes: int) -> None:
        self._root = root
        self._reserve_bytes = reserve_bytes
        self._incoming = root / "incoming"
        self._pending = root / "pending"
        self._instances = root / "instances"
        self._quarantine = root / "quarantine"
        self._numbers = itertools.count()
        self._direct = 0
        self._ample_until = 0.0
        self._frame = room(BLOCK + _SCRATCH_BYTES)
        """Of the one thread that calls `place`: a block for the envelope, then the data set or a piece of it."""
        self._held: Source | None = None
        """Whose whole data set that is."""

    def open(self) -> int:
        """Make the folders, sweep what was cut off. Returns the number of cut-off files removed."""
        try:
            for folder in (self._incoming, self._pending, self._instances, self._quarantine):
                folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            for number in range(256):
                (self._instances / f"{number:02x}").mkdir(mode=0o750, exist_ok=True)
            for folder in (self._instances, self._root):
                sync_directory(folder)
            parts = list(self._incoming.glob("*.part"))
            for part in (*parts, *self._incoming.glob("*.probe")):
                part.unlink(missing_ok=True)
            self._direct = flag_for(self._incoming)
        except OSError as error:
            raise storage_error(error) from error
        return len(parts)

    def keep(self, facts: InstanceFacts, data: bytes | memoryview) -> Kept:
        """Make one instance durable; when this returns, its bytes survive a crash and a power cut.

        `facts.sha256` and `facts.size` are filled in here.

        Raises InputRefusedError (`dicom.uid`) for a malformed UID, StorageError (`storage.full` when there is no
        room above the reserve) when it cannot be stored; then nothing is left behind.
        """
        for uid in (facts.sop_class_uid, facts.sop_instance_uid, facts.transfer_syntax_uid):
            if not is_uid(uid):
                raise InputRefusedError(
                    "An instance carries a UID that is not a UID.",
                    next_step="Correct the object at its source.",
                    code="dicom.uid",
                )
        facts = replace(facts, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        final = self._final(facts)
        if _stored_digest(final) == facts.sha256:
            return Kept(_received(final, facts), Outcome.DUPLICATE, None)
        self.require_room(facts.size)
        try:
            return self._file(self._write_pending(facts, data), facts)
        except OSError as error:
            raise storage_error(error) from error

    def place(self, source: Source, *, replayed: bool = False) -> Kept:
        """Give what is durable in the log its own file; no barrier. Twice is as good as once. For one thread.

        `replayed`: after a crash; a file that was left unfinished then is replaced. Raises StorageError; then the
        bytes are still in the log, for another try.
        """
        try:
            facts = source.facts
            if not facts.sha256:
                facts = replace(facts, sha256=self._digest(source))
            final = self._final(facts)
            if replayed:
                self._set_aside_unfinished(Path(final))
            stored = _stored_digest(final)
            if stored == facts.sha256:
                return Kept(_received(final, facts), Outcome.DUPLICATE, None, source.sequence)
            part = self._part(lambda file: self._copy(source, facts, file), flags=self._direct)
            # only this thread gives names here, so that nothing can have come between the look and the rename
            outcome, path = (Outcome.NEW, final) if stored is None else (Outcome.CONFLICT, self._aside(facts))
            os.replace(part, path)  # noqa: PTH105 - on the path of every image
            return Kept(_received(path, facts), outcome, None, source.sequence)
        except OSError as error:
            raise storage_error(error) from error

    def _digest(self, source: Source) -> str:
        digest, check = hashlib.sha256(), xxhash.xxh3_128()
        for piece in self._pieces(source):
            digest.update(piece)
            check.update(piece)
        if source.check and check.hexdigest() != source.check:
            # what the disk gives back must not become the truth
            raise StorageError(
                "The disk of the image store reads back other bytes than were written.",
                next_step="Check the data disk and its cabling.",
                code="storage.damaged",
            )
        return digest.hexdigest()

    def set_aside(self, source: Source) -> Path:
        """Keep for a person, durably, what the log gives back of a damaged record. Raises StorageError."""
        facts = source.facts
        path = self._quarantine / f"{_uid_hash(facts.sop_instance_uid)}-{source.check}.damaged"

        def write(descriptor: int) -> None:
            self._copy(source, facts, descriptor)
            os.fsync(descriptor)

        try:
            Path(self._part(write, flags=self._direct)).replace(path)
            sync_directory(self._quarantine)
        except OSError as error:
            raise storage_error(error) from error
        return path

    def _pieces(self, source: Source) -> Iterator[memoryview]:
        content, at, size = self._frame[BLOCK:], 0, source.facts.size
        while at < size:
            self._held = None
            count = source.read(content, at)
            self._held = source if count == size else None
            yield content[:count]
            at += count

    def _copy(self, source: Source, facts: InstanceFacts, descriptor: int) -> None:
        """The file of an instance; in one piece when it is not large."""
        head, size = envelope(facts, block=BLOCK), facts.size
        if len(head) == BLOCK and BLOCK + size <= len(self._frame):
            if self._held is not source:
                self._held = None
                source.read(self._frame[BLOCK:], 0)
            self._frame[:BLOCK] = head
            write_ending(descriptor, self._frame, BLOCK + size, 0)
            return
        start = room(len(head))
        start[: len(head)] = head
        write_whole(descriptor, start, 0)
        at = 0
        for piece in self._pieces(source):
            write_ending(descriptor, piece, len(piece), len(head) + at)
            at += len(piece)

    def mark(self, kept: Kept) -> None:
        """Let the log forget an instance whose sink has not returned. Raises StorageError."""
        try:
            with contextlib.suppress(FileExistsError):
                os.link(kept.instance.path, self._mark_of(kept))
        except OSError as error:
            raise storage_error(error) from error

    def unmark(self, kept: Kept) -> None:
        self._mark_of(kept).unlink(missing_ok=True)

    def _mark_of(self, kept: Kept) -> Path:
        return self._pending / _name_of(kept.instance.sop_instance_uid, kept.instance.sha256)

    def _set_aside_unfinished(self, final: Path) -> None:
        """A power cut may leave a name with part of its bytes; the log has them all."""
        if final.exists() and not is_intact(final):
            _log.warning("stored file %s was left unfinished and is written again", final.name)
            final.replace(self._quarantine / f"{final.name}.damaged")

    def waiting(self) -> Iterator[Kept]:
        """What was durable but not acknowledged by the sink when the process last ended."""
        for pending in sorted(self._pending.glob("*.dcm"), key=lambda p: (p.stat().st_mtime_ns, p.name)):
            try:
                yield self._file(pending, read_facts(pending))
            except ValueError:
                # complete when it was written, so damaged since: keep it for a person, do not stop the node
                _log.error("pending instance %s is damaged and was set aside", pending.name)
                pending.replace(self._quarantine / f"{pending.name}.damaged")
            except OSError as error:
                raise storage_error(error) from error

    def retire(self, kept: Kept) -> None:
        """The sink has what `keep` or `waiting` gave: forget the mark, after the stored name itself is durable."""
        if kept.pending is not None:
            sync_directory(kept.instance.path.parent)
            kept.pending.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Room left above the reserve (negative when below)."""
        stat = os.statvfs(self._root)
        return stat.f_bavail * stat.f_frsize - self._reserve_bytes

    # --- steps --------------------------------------------------------------------------------------------

    def require_room(self, size: int) -> None:
        """Raises StorageError (`storage.full`) when `size` more bytes would not fit above the reserve."""
        now = time.monotonic()
        if now < self._ample_until and size < _AMPLE_BYTES:
            return
        try:
            room = self.free_bytes()
        except OSError as error:
            raise storage_error(error) from error
        if room > 2 * _AMPLE_BYTES:
            self._ample_until = now + _AMPLE_S
        if room < size:
            raise StorageError(
                "The disk of the image store is filled up to its reserve.",
                next_step="Free space on the data disk; the sender can then send again.",
                code="storage.full",
            )

    def _part(self, write: Callable[[int], None], *, flags: int = 0) -> str:
        """A whole file in `incoming`. Raises OSError; then nothing is left of it."""
        part = f"{self._incoming}/{next(self._numbers)}.part"
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags, 0o440)
        try:
            write(descriptor)
        except OSError:
            Path(part).unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        return part

    def _write_pending(self, facts: InstanceFacts, data: bytes | memoryview) -> Path:
        def write(descriptor: int) -> None:
            write_parts(descriptor, [envelope(facts), data])
            os.fsync(descriptor)

        part = Path(self._part(write))
        pending = self._pending / _name_of(facts.sop_instance_uid, facts.sha256)
        part.replace(pending)
        sync_directory(self._pending)
        return pending

    def _file(self, pending: Path, facts: InstanceFacts) -> Kept:
        """Give a durable pending file its place; the first content under a UID keeps it."""
        final = self._final(facts)
        try:
            os.link(pending, final)
            return Kept(_received(final, facts), Outcome.NEW, pending)
        except FileExistsError:
            if _stored_digest(final) == facts.sha256:
                return Kept(_received(final, facts), Outcome.NEW, pending)
        except FileNotFoundError:
            # the same bytes came twice at once: the other has handed them over and forgotten the mark of both
            if _stored_digest(final) == facts.sha256:
                return Kept(_received(final, facts), Outcome.DUPLICATE, None)
        aside = self._aside(facts)
        try:
            os.link(pending, aside)
        except FileExistsError:
            pass  # the same contradicting content came before
        except FileNotFoundError:
            if _stored_digest(aside) != facts.sha256:
                raise
            return Kept(_received(aside, facts), Outcome.CONFLICT, None)
        return Kept(_received(aside, facts), Outcome.CONFLICT, pending)

    # names as text: on the path of every image, where a Path costs more than it is worth

    def _final(self, facts: InstanceFacts) -> str:
        key = _uid_hash(facts.sop_instance_uid)
        return f"{self._instances}/{key[:2]}/{key}.dcm"

    def _aside(self, facts: InstanceFacts) -> str:
        return f"{self._quarantine}/{_name_of(facts.sop_instance_uid, facts.sha256)}"


def dataset_bytes(path: Path) -> bytes:
    """The data set of a stored instance, byte for byte as received."""
    with path.open("rb") as stream:
        stream.seek(read_meta(path).dataset_offset)
        return stream.read()


def is_intact(path: Path) -> bool:
    """Whether a stored file still holds, byte for byte, what its envelope says was received."""
    try:
        facts, meta = read_facts(path), read_meta(path)
        with path.open("rb") as stream:
            stream.seek(meta.dataset_offset)
            return hashlib.file_digest(stream, "sha256").hexdigest() == facts.sha256
    except (OSError, ValueError):
        return False


def _uid_hash(sop_instance_uid: str) -> str:
    return hashlib.sha256(sop_instance_uid.encode("ascii")).hexdigest()[:40]


def _name_of(sop_instance_uid: str, sha256: str) -> str:
    return f"{_uid_hash(sop_instance_uid)}-{sha256[:32]}.dcm"


def _stored_digest(path: str) -> str | None:
    if not os.path.exists(path):  # noqa: PTH110 - on the path of every image
        return None
    try:
        return read_facts(Path(path)).sha256
    except FileNotFoundError:
        return None
    except ValueError:
        # damaged from outside: never equal, so the new bytes go to quarantine and nothing is overwritten
        return ""


def _received(path: str, facts: InstanceFacts) -> ReceivedInstance:
    return ReceivedInstance(
        path=Path(path),
        sop_class_uid=facts.sop_class_uid,
        sop_instance_uid=facts.sop_instance_uid,
        transfer_syntax_uid=facts.transfer_syntax_uid,
        sha256=facts.sha256,
        size=facts.size,
        calling_ae=facts.calling_ae,
        called_ae=facts.called_ae,
        peer_address=facts.peer_address,
        association=facts.association,
        received_at=facts.received_at,
    )
