"""Storage commitment transactions that were accepted and not yet reported, one durable file each.

Accepted means on stable storage: the file is written aside, synced, renamed, and its directory synced. The name is
a hash: nothing from the wire becomes part of a path.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from adapters.dicom_node.commitment_content import Reference

_log = logging.getLogger("spineprint.dicom")


@dataclass(frozen=True)
class Transaction:
    """Who asked, when, and for what. `digest` tells whether a second request asks for the same."""

    calling_ae: str
    address: str
    transaction_uid: str
    accepted_at: datetime
    digest: str
    count: int

    @property
    def key(self) -> str:
        """One per caller and UID: callers cannot disturb each other's transactions."""
        return hashlib.sha256(f"{self.calling_ae}\0{self.transaction_uid}".encode()).hexdigest()


def digest_of(references: tuple[Reference, ...]) -> str:
    return hashlib.sha256("\n".join(" ".join(r) for r in sorted(references)).encode()).hexdigest()


class TransactionFiles:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def open(self) -> None:
        """Make the folder, sweep what was cut off. Raises OSError."""
        self._folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        for part in self._folder.glob("*.part"):
            part.unlink(missing_ok=True)
        self._sync()

    def waiting(self) -> Iterator[Transaction]:
        """What was accepted and not reported, oldest first. Damaged files are set aside."""
        found = []
        for path in self._folder.glob("*.json"):
            try:
                found.append(_header(json.loads(path.read_text("utf-8"))))
            except (ValueError, KeyError, TypeError):
                # it was whole when it was accepted, so damaged since: the requestor will ask again
                _log.error("storage commitment transaction %s is damaged and was set aside", path.name)
                path.replace(path.with_suffix(".damaged"))
        yield from sorted(found, key=lambda t: t.accepted_at)

    def save(self, transaction: Transaction, references: tuple[Reference, ...]) -> None:
        """Durable when this returns. Raises OSError; then nothing is left behind."""
        document = {
            "calling_ae": transaction.calling_ae,
            "address": transaction.address,
            "transaction_uid": transaction.transaction_uid,
            "accepted_at": transaction.accepted_at.isoformat(),
            "references": references,
        }
        path = self._path(transaction)
        part = path.with_suffix(".part")
        try:
            with part.open("w", encoding="utf-8") as stream:
                json.dump(document, stream, separators=(",", ":"))
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
            self._sync()
        except OSError:
            part.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise

    def references(self, transaction: Transaction) -> tuple[Reference, ...]:
        """Raises OSError, ValueError."""
        return _references(json.loads(self._path(transaction).read_text("utf-8")))

    def remove(self, transaction: Transaction) -> None:
        self._path(transaction).unlink(missing_ok=True)

    def _path(self, transaction: Transaction) -> Path:
        return self._folder / f"{transaction.key}.json"

    def _sync(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _header(document: dict[str, object]) -> Transaction:
    references = _references(document)
    return Transaction(
        calling_ae=str(document["calling_ae"]),
        address=str(document["address"]),
        transaction_uid=str(document["transaction_uid"]),
        accepted_at=datetime.fromisoformat(str(document["accepted_at"])),
        digest=digest_of(references),
        count=len(references),
    )


def _references(document: dict[str, object]) -> tuple[Reference, ...]:
    listed = document["references"]
    if not isinstance(listed, list):
        raise ValueError("references are not a list")  # noqa: TRY004 - one error for a damaged file
    return tuple((str(sop_class), str(uid)) for sop_class, uid in listed)
