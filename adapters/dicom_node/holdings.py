"""What the store can answer for: is an instance here, whole, and the only one under its UID?

Storage commitment is given on this answer alone, so it is read from the disk each time, never from an index.
"""

from __future__ import annotations

import enum
import hashlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from adapters.dicom_node.durable_store import is_uid
from adapters.dicom_node.part10 import InstanceFacts, read_facts, read_meta

_log = logging.getLogger("spineprint.dicom")


class Holding(enum.StrEnum):
    SAFE = "safe"
    """Here, in its place, its bytes are those that were received."""
    ABSENT = "absent"
    CLASS_CONFLICT = "class_conflict"
    """Here, but it is an object of another class."""
    DAMAGED = "damaged"
    """Its file cannot be read, or its bytes are no longer those that were received."""
    AMBIGUOUS = "ambiguous"
    """Other content came under the same UID and is in quarantine: no sender may delete its copy."""


class Holdings(Protocol):
    """The part of a store that storage commitment asks."""

    def settle(self, timeout_s: float) -> bool:
        """Wait until everything acknowledged so far is in its place; False when that took too long."""
        ...

    def holding(self, sop_class_uid: str, sop_instance_uid: str) -> Holding: ...


class StoreHoldings(Holdings):
    """Reads the layout of `durable_store`. `settle` is that of the writer that fills it.

    The names in quarantine are read once per `settle`: whatever was acknowledged before it is among them.
    """

    def __init__(self, root: Path, *, settle: Callable[[float], bool]) -> None:
        self._root = root
        self._settle = settle
        self._lock = threading.Lock()
        self._contested: frozenset[str] | None = None

    def settle(self, timeout_s: float) -> bool:
        settled = self._settle(timeout_s)
        with self._lock:
            self._contested = None
        return settled

    def holding(self, sop_class_uid: str, sop_instance_uid: str) -> Holding:
        if not is_uid(sop_instance_uid):
            return Holding.ABSENT
        key = hashlib.sha256(sop_instance_uid.encode("ascii")).hexdigest()[:40]
        path = self._root / "instances" / key[:2] / f"{key}.dcm"
        try:
            facts = read_facts(path)
            if facts.sop_class_uid != sop_class_uid:
                return Holding.CLASS_CONFLICT
            if key in self._in_quarantine():
                return Holding.AMBIGUOUS
            _require_whole(path, facts, sop_instance_uid)
        except FileNotFoundError:
            return Holding.ABSENT
        except (OSError, ValueError) as error:
            _log.error("stored instance %s is damaged: %s", path.name, error)
            return Holding.DAMAGED
        return Holding.SAFE

    def _in_quarantine(self) -> frozenset[str]:
        with self._lock:
            if self._contested is None:
                folder = self._root / "quarantine"
                names = (entry.name for entry in folder.iterdir()) if folder.is_dir() else ()
                self._contested = frozenset(name.partition("-")[0] for name in names)
            return self._contested


def _require_whole(path: Path, facts: InstanceFacts, sop_instance_uid: str) -> None:
    """Raises ValueError when the file is not what was received, OSError when it cannot be read."""
    if facts.sop_instance_uid != sop_instance_uid:
        raise ValueError("it holds another instance")
    offset = read_meta(path).dataset_offset
    if path.stat().st_size - offset != facts.size:
        raise ValueError("its size is not that of what was received")
    with path.open("rb") as stream:
        stream.seek(offset)
        if hashlib.file_digest(stream, "sha256").hexdigest() != facts.sha256:
            raise ValueError("its bytes are not those that were received")
