"""DICOM in: the node, the door for images over HTTP, and who calls."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class ReceivedInstance:
    """One durable instance as it came from the wire; the file holds the bytes exactly as received (Part 10)."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    sha256: str
    size: int
    calling_ae: str
    called_ae: str
    peer_address: str
    association: str
    """Unique id of the association that carried it."""
    received_at: datetime


@dataclass(frozen=True)
class Origin:
    """Who brought an instance that did not come over the DICOM network; the names are those of an association."""

    calling_ae: str
    """`WEB:` and the user or token, at most 16 characters."""
    peer_address: str
    association: str
    """Unique id of the upload that carried it."""


@dataclass(frozen=True)
class FileFacts:
    """What a Part-10 file says of itself; `sha256` and `size` are those of its data set, without the file meta."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    sha256: str
    size: int


class KeptAs(enum.StrEnum):
    NEW = "new"
    DUPLICATE = "duplicate"
    """The same bytes were here already."""
    CONFLICT = "conflict"
    """Other bytes under the same UID: kept in quarantine, the first one stays."""


class InstanceIntake(Protocol):
    """The second door for images: files that came by HTTP, with the same promises as the DICOM node gives."""

    @property
    def scratch(self) -> Path:
        """A folder on the disk of the store for what is still arriving; emptied at every start."""
        ...

    def require_room(self, size: int) -> None:
        """Raises StorageError (`storage.full`) when so many bytes would go below the disk reserve."""
        ...

    def look(self, file: Path) -> FileFacts:
        """Raises InputRefusedError when it is no Part-10 file or its file meta is damaged."""
        ...

    def keep(self, file: Path, facts: FileFacts, origin: Origin) -> KeptAs:
        """Make the data set durable before returning. `facts` may carry the identity the data set itself has.

        Raises InputRefusedError (`dicom.uid`, `dicom.class`, `dicom.syntax`), StorageError; then nothing is left.
        """
        ...

    def know_already(self) -> None:
        """Count an image that was brought again and need not be kept: its study has the same bytes."""
        ...

    def carrying(self, origin: Origin) -> AbstractContextManager[None]:
        """While the block runs, `open_associations` names this upload."""
        ...

    def open_associations(self) -> Mapping[str, str]:
        """Upload id -> calling name of those running now in this process."""
        ...

    def counters(self) -> Mapping[str, int]: ...


class InstanceSink(Protocol):
    """Where the DICOM node hands over what is already durable. Called again for the same file after a crash."""

    def __call__(self, instance: ReceivedInstance) -> None: ...


@dataclass(frozen=True)
class NodeEvent:
    """Something an administrator wants to see about the DICOM node: a rejection, a refusal, a fault, an abort.

    `kind` is one of the counters' names (`rejected_calling_ae`, `refused_storage`, `faults` ...). Titles come from
    the wire cleaned for printing; no patient data.
    """

    at: datetime
    kind: str
    calling_ae: str
    called_ae: str
    address: str
    what: str
    """What happened, in words."""
    next_step: str = ""


class ImageNode(Protocol):
    """The listening DICOM node."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def take_events(self) -> Sequence[NodeEvent]:
        """What happened since the last call, oldest first; older ones beyond some hundred are dropped."""
        ...

    def open_associations(self) -> Mapping[str, str]:
        """Association id -> calling AE title of those open now."""
        ...

    def counters(self) -> Mapping[str, int]: ...


@dataclass(frozen=True)
class Peer:
    """A DICOM application we know. Roles: planning_ct, oarm, pacs. `tls`: we call it over TLS."""

    ae_title: str
    host: str
    port: int
    roles: tuple[str, ...] = field(default=())
    tls: bool = False
