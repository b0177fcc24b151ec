"""DICOM out: results to archives, storage commitment as its user, fetching studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Destination:
    """`tls`: call over TLS with our certificate (PS3.15 B.12)."""

    ae_title: str
    host: str
    port: int
    tls: bool = False


@dataclass(frozen=True)
class StoreStatus:
    """Answer of a destination for one instance. `status` is the DIMSE status; None = no answer.

    `attempted` is False when the connection was lost before this instance's turn: it was no try of this instance.
    """

    sop_instance_uid: str
    status: int | None
    detail: str = ""
    attempted: bool = True

    @property
    def accepted(self) -> bool:
        # 0000 success, Bxxx warnings: the instance is stored (PS3.7 C). 0111 duplicate instance: it is there already,
        # e.g. because the answer to an earlier try was lost.
        return self.status is not None and (self.status in (0, 0x0111) or 0xB000 <= self.status <= 0xBFFF)

    @property
    def permanent(self) -> bool:
        """Refusals that a retry cannot change: class not supported (0122), data set does not match class (A9xx),
        cannot understand (Cxxx). A7xx, out of resources, passes."""
        return self.status is not None and (
            self.status == 0x0122 or 0xA900 <= self.status <= 0xA9FF or 0xC000 <= self.status <= 0xCFFF
        )


class ImageSender(Protocol):
    def send(self, files: Sequence[Path], destination: Destination) -> Sequence[StoreStatus]:
        """C-STORE the files over one association; one status per file, in order. Does not raise for refusals."""
        ...

    def echo(self, destination: Destination) -> bool: ...


@dataclass(frozen=True)
class CommitmentAnswer:
    """What a destination said to a storage commitment request; the outcome itself comes later as a report."""

    transaction_uid: str
    accepted: bool
    detail: str = ""


@dataclass(frozen=True)
class CommitmentReport:
    """The outcome of one of our storage commitment requests (PS3.4 annex J.3.3)."""

    transaction_uid: str
    committed: tuple[str, ...]
    """SOP instance UIDs the destination answers for from now on."""
    failed: Mapping[str, int]
    """SOP instance UID -> failure reason (0008,1197)."""


class CommitmentRequester(Protocol):
    """Storage commitment as a user of it: asks a destination to answer for what it was sent."""

    def ask(
        self, instances: Sequence[tuple[str, str]], destination: Destination, transaction_uid: str
    ) -> CommitmentAnswer:
        """Ask for (SOP class UID, SOP instance UID) pairs. Does not raise for refusals or silence."""
        ...


class CommitmentSink(Protocol):
    """Where the node hands over a report. Must be idempotent: a destination may report twice."""

    def __call__(self, report: CommitmentReport) -> None: ...


@dataclass(frozen=True)
class FoundStudy:
    """One study as a PACS describes it in answer to a C-FIND; what it did not tell is empty or None."""

    study_uid: str
    study_date: str = ""
    description: str = ""
    modalities: tuple[str, ...] = ()
    instances: int | None = None
    patient_id: str = ""


@dataclass(frozen=True)
class MoveProgress:
    """Sub-operations of a C-MOVE (PS3.4 C.4.2.1.6 ff.); `remaining` None = the PACS does not say."""

    completed: int = 0
    failed: int = 0
    warned: int = 0
    remaining: int | None = None


@dataclass(frozen=True)
class MoveResult:
    """The end of a C-MOVE. `status` is the DIMSE status of the last response; None = no answer any more."""

    status: int | None
    progress: MoveProgress
    failed_uids: tuple[str, ...] = ()
    detail: str = ""


class MoveWatcher(Protocol):
    def __call__(self, progress: MoveProgress) -> None: ...


class StudyFinder(Protocol):
    """Query/retrieve at a PACS, Study Root."""

    def find(self, accession_number: str, destination: Destination) -> Sequence[FoundStudy]:
        """Studies with exactly this accession number. Raises DeviceError."""
        ...

    def move(self, study_uid: str, destination: Destination, to_ae: str, watch: MoveWatcher) -> MoveResult:
        """Have the study sent to `to_ae`. Raises DeviceError when it cannot be asked for."""
        ...
