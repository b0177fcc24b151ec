"""Images that came by HTTP, kept by the same store as those of the DICOM node, in a root of its own.

One process owns a root, and the web process may be another than the node. Nothing here knows HTTP: a finished
file on disk comes in, and when `keep` returns, its data set is on stable storage byte for byte, under a file meta
of ours that says who brought it. What the sink has not taken is offered again, after a crash at the next start.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import mmap
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from adapters.dicom_node.contexts import STORAGE_CLASSES, STORAGE_SYNTAXES
from adapters.dicom_node.durable_store import DurableStore, Outcome
from adapters.dicom_node.handover import BatchSink, Handover
from adapters.dicom_node.part10 import InstanceFacts, read_meta
from service.errors import ConfigError, InputRefusedError, StorageError
from service.ports import FileFacts, InstanceIntake, InstanceSink, KeptAs, Origin

_log = logging.getLogger("spineprint.dicom")
_KEPT = {Outcome.NEW: KeptAs.NEW, Outcome.DUPLICATE: KeptAs.DUPLICATE, Outcome.CONFLICT: KeptAs.CONFLICT}


def _utc_now() -> datetime:
    return datetime.now(UTC)


class WebDoor(InstanceIntake):
    """Safe for several threads. `sink` gets every instance that is durable, at least once, conflicts too;
    `batch_sink` the same, several at once.
    """

    def __init__(
        self,
        root: Path,
        sink: InstanceSink,
        *,
        scratch: Path,
        disk_reserve_bytes: int,
        batch_sink: BatchSink | None = None,
        ae_title: str = "SPINEPRINT",
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._root = root
        self._scratch = scratch
        self._store = DurableStore(root, reserve_bytes=disk_reserve_bytes)
        self._handover = Handover(self._store, sink, sink, batch_sink=batch_sink)
        self._ae_title = ae_title
        self._now = now
        self._owner: int | None = None
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._carrying: Counter[tuple[str, str]] = Counter()

    def start(self) -> None:
        """Take the root, empty the scratch folder, offer what was left. Raises ConfigError, StorageError."""
        self._own()
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(mode=0o750, parents=True)
        self._store.open()
        for kept in self._store.waiting():
            self._count("replayed")
            self._handover.offer(kept)
        self._handover.start()

    def stop(self) -> None:
        """Hand over what is due; the rest is offered again at the next start."""
        self._handover.stop(10.0)
        if self._owner is not None:
            os.close(self._owner)
            self._owner = None

    # --- InstanceIntake -----------------------------------------------------------------------------------

    @property
    def scratch(self) -> Path:
        return self._scratch

    def require_room(self, size: int) -> None:
        self._store.require_room(size)

    def look(self, file: Path) -> FileFacts:
        try:
            meta = read_meta(file)
        except ValueError as error:
            raise InputRefusedError(
                f"The file header (DICOM part 10) cannot be used: {error}.",
                next_step="Export the images again; if it repeats, ask the support of the exporting system.",
                code="dicom.file_meta",
            ) from error
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            stream.seek(meta.dataset_offset)
            while block := stream.read(1 << 20):
                digest.update(block)
            size = stream.tell() - meta.dataset_offset
        return FileFacts(
            meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid, digest.hexdigest(), size
        )

    def keep(self, file: Path, facts: FileFacts, origin: Origin) -> KeptAs:
        _require_storable(facts)
        whole = InstanceFacts(
            sop_class_uid=facts.sop_class_uid,
            sop_instance_uid=facts.sop_instance_uid,
            transfer_syntax_uid=facts.transfer_syntax_uid,
            calling_ae=origin.calling_ae,
            called_ae=self._ae_title,
            peer_address=origin.peer_address,
            association=origin.association,
            received_at=self._now(),
            sha256="",
            size=0,
        )
        # Mapped, not read: a data set of a gigabyte costs no memory of ours.
        with (
            file.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as everything,
            everything[len(everything) - facts.size :] as data,
        ):
            kept = self._store.keep(whole, data)
        self._count("received")
        if kept.outcome is Outcome.DUPLICATE:
            self._count("duplicates")
        elif kept.outcome is Outcome.CONFLICT:
            self._count("conflicts")
            _log.error(
                "%s brought other content under a UID that is already stored; kept in quarantine as %s",
                origin.calling_ae,
                kept.instance.path.name,
            )
        self._handover.offer(kept)
        return _KEPT[kept.outcome]

    def know_already(self) -> None:
        self._count("received")
        self._count("duplicates")

    @contextmanager
    def carrying(self, origin: Origin) -> Iterator[None]:
        key = (origin.association, origin.calling_ae)
        with self._lock:
            self._carrying[key] += 1
        try:
            yield
        finally:
            with self._lock:
                self._carrying[key] -= 1
                self._carrying += Counter()  # drops what fell to nothing

    def open_associations(self) -> Mapping[str, str]:
        with self._lock:
            return dict(self._carrying.keys())

    def counters(self) -> Mapping[str, int]:
        """Since start: received, duplicates, conflicts, replayed, intake_waiting, intake_failures."""
        with self._lock:
            counts = dict(self._counts)
        return counts | {
            "intake_waiting": self._handover.waiting,
            "intake_failures": self._handover.failures,
        }

    # --- steps --------------------------------------------------------------------------------------------

    def _own(self) -> None:
        try:
            self._root.mkdir(mode=0o750, parents=True, exist_ok=True)
            lock = os.open(self._root / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise StorageError(
                f"The folder for web uploads cannot be used ({error.strerror}).",
                next_step="Check the data disk and its permissions.",
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise ConfigError(
                "Another process already takes web uploads into this data folder.",
                next_step="Run one process with the role web (or all) on a data folder; stop the other.",
                code="config.web_owner",
            ) from error
        self._owner = lock

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1


def _require_storable(facts: FileFacts) -> None:
    """What no presentation context of the node would take is not taken here either."""
    if facts.size == 0:
        raise InputRefusedError(
            "The file has a header and nothing else.", next_step="Export the image again.", code="dicom.empty"
        )
    if facts.sop_class_uid not in STORAGE_CLASSES:
        raise InputRefusedError(
            "The file is not of a kind of object that is stored here.",
            next_step="Send images; leave this object out.",
            code="dicom.class",
        )
    if facts.transfer_syntax_uid not in STORAGE_SYNTAXES:
        raise InputRefusedError(
            "The file is in a transfer syntax that is not taken here.",
            next_step="Export it again, best as Explicit VR Little Endian.",
            code="dicom.syntax",
        )
