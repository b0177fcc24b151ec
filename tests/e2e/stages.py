"""Running stages for the end-to-end tests: real processes, ended whatever happens, and proof that none is left."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from pydicom import dcmread
from pynetdicom import AE, _config

from adapters.dicom_node.outgoing import settle
from simulators.demo.client import Service
from simulators.demo.journey import ADMIN, Journey
from simulators.demo.processes import end_orderly_on_sigterm, wait_until_up
from simulators.demo.stage import Stage
from tests.support_dicom import patience

#: Patience with a machine on which other work runs as well.
LONG_S = 150.0


class LeftoverError(AssertionError):
    """Processes that outlived their stage."""


class WatchedStage(Stage):
    """A stage that remembers every process session it opened, restarts included."""

    def sessions(self) -> set[int]:
        return self._seen | {p.process.pid for p in self.processes if p.process}

    _seen: set[int]

    def kill_and_restart(self) -> None:
        assert self.daemon is not None and self.daemon.process is not None
        self._seen.add(self.daemon.process.pid)
        super().kill_and_restart()

    def stop_and_restart(self) -> None:
        """SIGTERM, a clean end within seconds, and up again on the same data."""
        assert self.daemon is not None and self.daemon.process is not None
        self._seen.add(self.daemon.process.pid)
        assert self.daemon.stop(timeout_s=15.0 * patience()) == 0
        self.daemon.start()
        wait_until_up(self.daemon, self.url)

    def make_phantom_at(self, folder: Path, patient_id: str) -> dict[str, Any]:
        """The phantom as another patient's study; its truth."""
        self._run("simulators.phantom", ["--out", str(folder), "--small", "--patient-id", patient_id,
                                         "--study-date", datetime.now(UTC).strftime("%Y%m%d")])  # fmt: skip
        truth: dict[str, Any] = json.loads((folder / "truth.json").read_text("utf-8"))
        return truth

    def hit(self, kind: str, **fault: Any) -> None:
        """A fault of the printer, its network included; see simulators/ultimaker/faults.py."""
        answer = httpx.post(f"{self.printer_url}/panel/faults", json={"kind": kind, **fault}, timeout=10.0)
        answer.raise_for_status()

    def lift(self) -> None:
        httpx.delete(f"{self.printer_url}/panel/faults", timeout=10.0).raise_for_status()

    def originals(self) -> set[str]:
        """SOP instance UIDs of the images in the service's own store, read from its files."""
        files = (self.out / "data" / "dicom" / "instances").rglob("*.dcm")
        return {
            str(dcmread(f, specific_tags=[], stop_before_pixels=True).file_meta[0x00020003].value)
            for f in files
        }

    def node(self) -> tuple[str, str, int]:
        return "SPINEPRINT", "127.0.0.1", self.ports.dicom


@contextmanager
def running_stage(out: Path, **options: Any) -> Iterator[tuple[WatchedStage, Service]]:
    """A started stage; at the end everything of it is gone, or the test fails for it."""
    end_orderly_on_sigterm()  # a test run that is given up must not leave a hospital running
    stage = WatchedStage(out, small=True, **options)
    stage._seen = set()
    service = None
    try:
        service = stage.start()
        yield stage, service
    finally:
        stage.stop()
        left = _end_all(stage.sessions())
        for pipe in (p.process.stdout for p in stage.processes if p.process):
            if pipe is not None:
                pipe.close()
        if service is not None:
            service.close()
    if left:
        raise LeftoverError(f"still running after the stage was stopped: {left}")


def _end_all(sessions: set[int]) -> list[str]:
    """Processes of these sessions that did not end by themselves within a few seconds; they are killed."""
    deadline = time.monotonic() + 5.0
    while (left := _members(sessions)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return [text for text in left.values() if text]


def _members(sessions: set[int]) -> dict[int, str]:
    """Live processes of the sessions: pid -> command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) in sessions and fields[0] != "Z":
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        except (OSError, IndexError):
            continue
    return found


def journey_on(
    stage: WatchedStage,
    service: Service,
    inputs: dict[str, Any],
    patient_id: str,
    scan: Callable[[Any], None],
) -> Journey:
    return Journey(service, inputs, "um3-sim", patient_id, scan, stage.clear_plate, say=lambda _text: None)


def wait_for(look: Callable[[], Any], timeout_s: float = LONG_S, what: str = "it") -> Any:
    """The first true answer of `look`; the limit is that of a quiet machine."""
    start = time.monotonic()
    while time.monotonic() < start + timeout_s * patience():
        if found := look():
            return found
        time.sleep(0.2)
    raise AssertionError(f"{what} did not happen within {timeout_s:.0f} s; last answer {found!r}")


def send_files(stage: WatchedStage, files: Sequence[Path], calling_ae: str = "PACS") -> list[int]:
    """C-STORE the files byte for byte, damaged ones too, over one association; the statuses (-1: no answer)."""
    entity = AE(ae_title=calling_ae)
    metas = [dcmread(f, specific_tags=[], stop_before_pixels=True).file_meta for f in files]
    for pair in sorted({(str(m.MediaStorageSOPClassUID), str(m.TransferSyntaxUID)) for m in metas}):
        entity.add_requested_context(*pair)
    name, host, port = stage.node()
    association = entity.associate(host, port, ae_title=name)
    assert association.is_established
    before, _config.STORE_SEND_CHUNKED_DATASET = _config.STORE_SEND_CHUNKED_DATASET, True
    try:
        statuses = []
        for file in files:
            settle(association)
            answer = association.send_c_store(file) if association.is_established else {}
            statuses.append(int(answer.Status) if "Status" in answer else -1)
    finally:
        _config.STORE_SEND_CHUNKED_DATASET = before
        if association.is_established:
            association.release()
    return statuses


def cases_of(service: Service, study_uid: str) -> list[dict[str, Any]]:
    """The cases of a study, in full."""
    rows = [
        service.get(f"/api/v1/cases/{r['id']}", who="sara") for r in service.get("/api/v1/cases", who="sara")
    ]
    return [r for r in rows if r["study"]["study_uid"] == study_uid]


def case_of(service: Service, study_uid: str) -> dict[str, Any] | None:
    return next(iter(cases_of(service, study_uid)), None)


def study_of(service: Service, study_uid: str) -> dict[str, Any] | None:
    found = service.get("/api/v1/studies", who="sara")
    return next((s for s in found if s["study_uid"] == study_uid), None)


def case_in(service: Service, study_uid: str, *states: str, timeout_s: float = LONG_S) -> dict[str, Any]:
    """Wait until the study's case is in one of the states."""

    def look() -> dict[str, Any] | None:
        case = case_of(service, study_uid)
        return case if case and case["state"] in states else None

    found: dict[str, Any] = wait_for(look, timeout_s, f"the case reaching {' or '.join(states)}")
    return found


def metrics(stage: WatchedStage, service: Service) -> dict[str, float]:
    """The numbers of /metrics by name (labels included)."""
    made = service.post(
        "/api/v1/tokens", {"name": f"m{time.monotonic_ns()}", "scopes": ["metrics"]}, who=ADMIN
    )
    headers = {"Authorization": f"Bearer {made['token']}"}
    text = httpx.get(f"{stage.url}/metrics", headers=headers, timeout=10.0).text
    rows = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in rows}
