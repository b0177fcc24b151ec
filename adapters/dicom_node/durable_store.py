"""Where received instances become durable. Knows files and directories, nothing of the network.

Layout below the store's root:

    incoming/    <random>.part              being written; swept at start-up, never acknowledged
    pending/     <uid hash>-<digest>.dcm    durable, not yet acknowledged by the sink (hard link)
    instances/   <xx>/<uid hash>.dcm        the store; its paths never change
    quarantine/  <uid hash>-<digest>.dcm    another content under a UID that is already stored

The barrier before Success is: data to `incoming`, fsync, rename to `pending`, fsync of that directory. The link
into `instances` can be remade from `pending` at any time, so it needs no barrier of its own; the pending name is
removed only after the link is on stable storage and the sink has returned. File names are hashes: nothing from
the wire becomes part of a path.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import hashlib
import logging
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from adapters.dicom_node.part10 import InstanceFacts, envelope, read_facts, read_meta
from service.errors import InputRefusedError, StorageError
from service.ports import ReceivedInstance

_log = logging.getLogger("spineprint.dicom")

_UID = re.compile(r"[0-9]+(\.[0-9]+)*", re.ASCII)
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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

    def open(self) -> int:
        """Make the folders, sweep what was cut off. Returns the number of cut-off files removed."""
        try:
            for folder in (self._incoming, self._pending, self._instances, self._quarantine):
                folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            for number in range(256):
                (self._instances / f"{number:02x}").mkdir(mode=0o750, exist_ok=True)
            for folder in (self._instances, self._root):
                _sync_directory(folder)
            parts = list(self._incoming.glob("*.part"))
            for part in parts:
                part.unlink(missing_ok=True)
        except OSError as error:
            raise _storage_error(error) from error
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
        self._require_room(facts.size)
        try:
            pending = self._write(facts, data)
            return self._file(pending, facts)
        except OSError as error:
            raise _storage_error(error) from error

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
                raise _storage_error(error) from error

    def retire(self, kept: Kept) -> None:
        """The sink has it: forget the mark, after the stored name itself is durable."""
        if kept.pending is not None:
            _sync_directory(kept.instance.path.parent)
            kept.pending.unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Room left above the reserve (negative when below)."""
        stat = os.statvfs(self._root)
        return stat.f_bavail * stat.f_frsize - self._reserve_bytes

    # --- steps --------------------------------------------------------------------------------------------

    def _require_room(self, size: int) -> None:
        try:
            room = self.free_bytes()
        except OSError as error:
            raise _storage_error(error) from error
        if room < size:
            raise StorageError(
                "The disk of the image store is filled up to its reserve.",
                next_step="Free space on the data disk; the sender can then send again.",
                code="storage.full",
            )

    def _write(self, facts: InstanceFacts, data: bytes | memoryview) -> Path:
        part = self._incoming / f"{uuid.uuid4().hex}.part"
        pending = self._pending / f"{_uid_hash(facts)}-{facts.sha256[:32]}.dcm"
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o440)
            with open(descriptor, "wb", buffering=0) as stream:  # noqa: PTH123 - by descriptor
                _write_all(stream.fileno(), envelope(facts))
                _write_all(stream.fileno(), data)
                os.fsync(stream.fileno())
            part.replace(pending)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        _sync_directory(self._pending)
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
        aside = self._quarantine / pending.name
        # the same contradicting content may have come before
        with contextlib.suppress(FileExistsError):
            os.link(pending, aside)
        return Kept(_received(aside, facts), Outcome.CONFLICT, pending)

    def _final(self, facts: InstanceFacts) -> Path:
        key = _uid_hash(facts)
        return self._instances / key[:2] / f"{key}.dcm"


def dataset_bytes(path: Path) -> bytes:
    """The data set of a stored instance, byte for byte as received."""
    with path.open("rb") as stream:
        stream.seek(read_meta(path).dataset_offset)
        return stream.read()


def _uid_hash(facts: InstanceFacts) -> str:
    return hashlib.sha256(facts.sop_instance_uid.encode("ascii")).hexdigest()[:40]


def _stored_digest(path: Path) -> str | None:
    try:
        return read_facts(path).sha256
    except FileNotFoundError:
        return None
    except ValueError:
        # damaged from outside: never equal, so the new bytes go to quarantine and nothing is overwritten
        return ""


def _received(path: Path, facts: InstanceFacts) -> ReceivedInstance:
    return ReceivedInstance(
        path=path,
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


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _storage_error(error: OSError) -> StorageError:
    if error.errno in _FULL:
        return StorageError(
            "The disk of the image store is full.",
            next_step="Free space on the data disk; the sender can then send again.",
            code="storage.full",
        )
    return StorageError(
        f"The image store cannot be written ({errno.errorcode.get(error.errno or 0, 'unknown error')}).",
        next_step="Check the data disk and its permissions.",
        code="storage.failed",
    )
