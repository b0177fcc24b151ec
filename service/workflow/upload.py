"""Images that people and machines bring in by HTTP, into the same path as those from the DICOM network.

A file is looked at, made durable by the door (`InstanceIntake`) and sorted by `intake.accept_instance` as one from
a C-STORE is. What is refused here stays with the sender, who is told why; nothing is half kept.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from service.domain.people import Actor
from service.errors import InputRefusedError, SpineprintError, StorageError, ToolMissingError
from service.imaging.instance_header import InstanceHeader, read_header
from service.ports import FileFacts, InstanceIntake, KeptAs, Origin
from service.store import audit, studies
from service.store.database import reading, transaction
from service.workflow import unpack
from service.workflow.app import App

MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
"""DICOMDIR: a table of contents of a disc, not an image."""
_NOTING = threading.Lock()
_SHOWN_NAME = 120


class Verdict(enum.StrEnum):
    STORED = "stored"
    ALREADY_HERE = "already_here"
    KEPT_ASIDE = "kept_aside"
    """Other content under an identity that came before: both are kept, one of them is used."""
    NOT_DICOM = "not_dicom"
    REFUSED = "refused"


@dataclass(frozen=True)
class Taken:
    """What became of one file. UIDs are '' where they could not be read."""

    name: str
    verdict: Verdict
    study_uid: str = ""
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    error: SpineprintError | None = None
    differs: bool = False
    """The file header names another object than the data set; the data set counts."""


@dataclass(frozen=True)
class Bringer:
    """Who brings images, and how (`page` or `stow`)."""

    actor: Actor
    display_name: str
    way: str
    origin: Origin


def bringer(actor: Actor, *, way: str, address: str, upload_id: str) -> Bringer:
    """`upload_id` is unique for this person; it becomes the upload's association id."""
    name = actor.person.display_name if actor.person else actor.name
    plain = "".join(c if (c.isascii() and c.isalnum()) or c in "._-" else "_" for c in actor.name)
    calling = f"WEB:{plain.removeprefix('token_')}"[:16]
    return Bringer(actor, name, way, Origin(calling, address, f"{plain[:31]}:{upload_id}"[:64]))


def door_of(app: App) -> InstanceIntake:
    if app.door is None:
        raise ToolMissingError(
            "This process takes no images over HTTP.",
            next_step="Send them to the process with the role web.",
            code="upload.no_door",
        )
    return app.door


class Upload:
    """One request's worth of files by one bringer. `only_study`: refuse instances of any other study."""

    def __init__(self, app: App, who: Bringer, *, only_study: str = "") -> None:
        self._app = app
        self._door = door_of(app)
        self._who = who
        self._only_study = only_study
        self._noted: set[str] = set()

    def take_zip(self, path: Path, name: str, scratch: Path) -> Iterator[Taken]:
        """Entry by entry. Never raises for what is wrong with the content: what was read before it is kept."""
        most_bytes = self._app.config.web.max_upload_mb << 20
        try:
            for entry in unpack.entries(
                path, scratch, most_bytes=most_bytes, require_room=self._door.require_room
            ):
                if entry.path is None:
                    yield Taken(shown(entry.name), Verdict.REFUSED, error=entry.error)
                elif unpack.is_zip(entry.path):
                    yield Taken(shown(entry.name), Verdict.REFUSED, error=_nested())
                else:
                    yield self.take(entry.path, entry.name)
        except (InputRefusedError, StorageError) as error:
            yield Taken(shown(name), Verdict.REFUSED, error=error)

    def take(self, path: Path, name: str) -> Taken:
        """Make one file durable. A refusal is in the result; only faults of the service itself are raised."""
        name = shown(name)
        if not is_part10(path):
            return Taken(name, Verdict.NOT_DICOM)
        facts: FileFacts | None = None
        header: InstanceHeader | None = None
        try:
            facts = self._door.look(path)
            if facts.sop_class_uid == MEDIA_DIRECTORY:
                return Taken(name, Verdict.NOT_DICOM)
            header = read_header(path)
            return self._keep(path, name, facts, header)
        except (InputRefusedError, StorageError) as error:
            named = header or facts
            return Taken(
                name,
                Verdict.REFUSED,
                study_uid=header.study_uid if header else "",
                sop_class_uid=facts.sop_class_uid if facts else "",
                sop_instance_uid=named.sop_instance_uid if named else "",
                error=error,
            )

    def _keep(self, path: Path, name: str, facts: FileFacts, header: InstanceHeader) -> Taken:
        if self._only_study and header.study_uid != self._only_study:
            raise InputRefusedError(
                "The instance belongs to another study than the one the request names.",
                next_step="Send it to its own study, or without naming one.",
                code="upload.other_study",
            )
        own = replace(
            facts,
            sop_class_uid=header.sop_class_uid or facts.sop_class_uid,
            sop_instance_uid=header.sop_instance_uid,
        )
        with reading(self._app.engine) as connection:
            known = {c.sha256 for c in studies.copies_of(connection, own.sop_instance_uid)}
        if own.sha256 in known:
            self._door.know_already()  # perhaps from the DICOM node, whose files are not the door's
            verdict = Verdict.ALREADY_HERE
        else:
            kept = self._door.keep(path, own, self._who.origin)
            if kept is KeptAs.DUPLICATE:
                verdict = Verdict.ALREADY_HERE
            else:
                verdict = Verdict.KEPT_ASIDE if known or kept is KeptAs.CONFLICT else Verdict.STORED
        self._note(header.study_uid)
        differs = (own.sop_class_uid, own.sop_instance_uid) != (facts.sop_class_uid, facts.sop_instance_uid)
        return Taken(
            name, verdict, header.study_uid, own.sop_class_uid, own.sop_instance_uid, differs=differs
        )

    def _note(self, study_uid: str) -> None:
        """One row of the study's history for each upload that touched it."""
        if study_uid in self._noted:
            return
        subject, upload = f"study:{study_uid}", self._who.origin.association
        with _NOTING, transaction(self._app.engine) as connection:
            rows = audit.history(connection, subject)
            if not any(r.event == "images_uploaded" and r.data.get("upload") == upload for r in rows):
                audit.append(
                    connection,
                    at=self._app.clock.now(),
                    actor=self._who.actor.name,
                    subject=subject,
                    event="images_uploaded",
                    data={"name": self._who.display_name, "way": self._who.way, "upload": upload,
                          "address": self._who.origin.peer_address},
                )  # fmt: skip
        self._noted.add(study_uid)


def is_part10(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def shown(name: str) -> str:
    """A file's name as it may stand in an answer: printable, its end when it is long."""
    return "".join(c if c.isprintable() else "?" for c in name)[-_SHOWN_NAME:] or "(no name)"


def _nested() -> InputRefusedError:
    return InputRefusedError(
        "It is a zip inside the zip; those are not opened.",
        next_step="Upload it by itself.",
        code="upload.zip_nested",
    )
