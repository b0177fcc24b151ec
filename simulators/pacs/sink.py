"""A storage SCP that takes every storage class, keeps what it gets and can misbehave on demand."""

from __future__ import annotations

import json
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification

OUT_OF_RESOURCES = 0xA700


@dataclass(frozen=True)
class Faults:
    """How the sink misbehaves; counts are over the life of the sink.

    `refuse_first` C-STORE requests get `refuse_status`; each of the first `drop_associations` associations is
    aborted at its instance number `drop_at` (1 = the first); with `silent` no C-STORE is ever answered.
    """

    refuse_first: int = 0
    refuse_status: int = OUT_OF_RESOURCES
    drop_associations: int = 0
    drop_at: int = 1
    silent: bool = False


class PacsSink:
    """Runs on its own threads between `start` and `stop`, or as a context manager.

    Files go to `folder/<study uid>/<sop instance uid>.dcm`, one line each to `folder/index.jsonl`. A repeated
    instance replaces the file and adds a line, so that double sending can be seen.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        ae_title: str = "PACS",
        host: str = "127.0.0.1",
        port: int = 0,
        faults: Faults | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.ae_title, self.host, self.port = ae_title, host, port
        self.faults = faults or Faults()
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._asked = 0
        self._drops = 0
        self._per_association: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self._server: Any = None

    def start(self) -> PacsSink:
        """Listen; `port` then holds the port in use (0 asks for a free one)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        entity = AE(ae_title=self.ae_title)
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
        entity.add_supported_context(Verification)
        entity.maximum_pdu_size = 0
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_C_ECHO, self._echo)]
        self._server = entity.start_server((self.host, self.port), block=False, evt_handlers=handlers)
        self.port = int(self._server.server_address[1])
        return self

    def stop(self) -> None:
        """Close the port and let silent answers go."""
        self._released.set()
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def __enter__(self) -> PacsSink:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def received(self) -> list[dict[str, Any]]:
        """The index: one mapping per instance taken in, in order of arrival."""
        index = self.folder / "index.jsonl"
        if not index.exists():
            return []
        return [json.loads(line) for line in index.read_text(encoding="utf-8").splitlines()]

    def path_of(self, entry: dict[str, Any]) -> Path:
        """The stored file of one entry of `received`."""
        return self.folder / str(entry["file"])

    def _echo(self, event: evt.Event) -> int:
        return 0x0000

    def _store(self, event: evt.Event) -> int:
        if self.faults.silent:
            self._released.wait()
            return OUT_OF_RESOURCES
        with self._lock:
            self._asked += 1
            if self._asked <= self.faults.refuse_first:
                return self.faults.refuse_status
            at = self._per_association.get(event.assoc, 0) + 1
            self._per_association[event.assoc] = at
            if self._drops < self.faults.drop_associations and at >= self.faults.drop_at:
                self._drops += 1
                event.assoc.abort()
                return OUT_OF_RESOURCES
            self._keep(event)
        return 0x0000

    def _keep(self, event: evt.Event) -> None:
        request = event.request
        head: Dataset = event.dataset
        study = str(head.get("StudyInstanceUID", "")) or "no-study"
        uid = str(request.AffectedSOPInstanceUID)
        path = self.folder / study / f"{uid}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(event.encoded_dataset())
        entry = {
            "file": str(path.relative_to(self.folder)),
            "sop_class_uid": str(request.AffectedSOPClassUID),
            "sop_instance_uid": uid,
            "study_instance_uid": study,
            "series_instance_uid": str(head.get("SeriesInstanceUID", "")),
            "modality": str(head.get("Modality", "")),
            "series_description": str(head.get("SeriesDescription", "")),
            "transfer_syntax_uid": str(event.context.transfer_syntax),
            "calling_ae": str(event.assoc.requestor.ae_title),
        }
        with (self.folder / "index.jsonl").open("a", encoding="utf-8") as index:
            index.write(json.dumps(entry) + "\n")
