"""`service.ports.Printer` for the Ultimaker 3."""

from __future__ import annotations

import gzip
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from adapters.ultimaker.client import Answer, PrinterClient, Timeouts, refusal
from adapters.ultimaker.credentials import load_credentials
from adapters.ultimaker.faults import CommandUnsureError, PrinterAuthError, PrinterSilentError
from adapters.ultimaker.firmware import FirmwareTraits, traits_for
from adapters.ultimaker.lookup import Wanted, current_document, current_job, find_job
from adapters.ultimaker.preflight import (
    GZIP_MAGIC,
    PLA_GUIDS,
    GcodeHead,
    finding_reasons,
    read_head,
    slot_reasons,
    state_reasons,
)
from adapters.ultimaker.reading import reading_from, second_core_missing
from service.errors import ConfigError, DeviceError, InputRefusedError
from service.ports import (
    Clock,
    JobLookup,
    PrinterReading,
    PrinterState,
    SendOutcome,
    SendResult,
)

#: Unique, harmless to every firmware, readable by anyone on the network: never a name of a person.
JOB_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")

#: Job states that show that a command has taken effect.
_EFFECT = {
    "pause": frozenset({"pausing", "paused"}),
    "print": frozenset({"resuming", "printing", "pre_print", "post_print", "wait_cleanup"}),
    "abort": frozenset({"none", "", "post_print", "wait_cleanup"}),
}


@dataclass(frozen=True)
class PrinterSettings:
    """How this printer is used. Nozzle and materials: PLA through AA 0.4, as the print settings of the paper."""

    nozzle: str = "AA 0.4"
    materials: frozenset[str] = PLA_GUIDS
    settle_s: float = 3.0
    """Between the two looks that make ABSENT; longer than the printer needs to read an upload it already has."""
    confirm_s: float = 5.0
    """How long to wait for a command to show in the job's state."""
    timeouts: Timeouts = field(default_factory=Timeouts)


class _SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class UltimakerPrinter:
    """One printer at a configured address. Reading works unpaired; all else wants the credentials file.

    Parameters
    ----------
    name : our name for it, unique in the configuration.
    url : `http://<name or address>[:port]`.
    credentials_file : as written by `adapters.ultimaker.pair`; read when first needed and again when it
        changes, so that a pairing takes effect without a restart.
    """

    def __init__(
        self,
        name: str,
        url: str,
        credentials_file: Path | None = None,
        settings: PrinterSettings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._name = name
        self._url = url
        self._credentials_file = credentials_file
        self._settings = settings or PrinterSettings()
        self._clock: Clock = clock or _SystemClock()
        self._reader = PrinterClient(url, timeouts=self._settings.timeouts)
        self._lock = threading.Lock()
        self._paired: tuple[int, PrinterClient] | None = None
        self._traits: FirmwareTraits | None = None
        self._answered_at: datetime | None = None

    @property
    def name(self) -> str:
        return self._name

    # --- looking -----------------------------------------------------------------------------------------

    def read(self) -> PrinterReading:
        """Status, job and temperatures now.

        When it does not answer usably: SILENT, with `read_at` the time of the last good answer (or of the first
        attempt), so that the age of the reading is the length of the silence.
        """
        try:
            return self._read_both()[0]
        except DeviceError as exc:
            if self._answered_at is None:
                self._answered_at = self._clock.now()
            return PrinterReading(PrinterState.SILENT, self._answered_at, detail=exc.message)

    def _read_both(self) -> tuple[PrinterReading, object]:
        job = current_document(self._reader)
        printer = self._reader.get_json("/printer")
        self._answered_at = self._clock.now()
        return reading_from(printer, job, self._answered_at), printer

    def find(self, job_name: str, uuid: str = "") -> JobLookup:
        """See the port. ABSENT takes at least `settle_s`, since it needs two looks."""
        return find_job(self._reader, Wanted(job_name, uuid), self._settings.settle_s)

    def preflight(self, gcode: Path) -> Sequence[str]:
        """Reasons in words not to print now; empty = fine.

        Raises DeviceError when the printer cannot be asked, InputRefusedError when the file cannot be read.
        """
        head = _head_or_refuse(gcode)
        reading, printer = self._read_both()
        reasons = state_reasons(reading)
        reasons += slot_reasons(
            reading,
            head,
            self._settings.nozzle,
            self._settings.materials,
            no_second_core=second_core_missing(printer),
        )
        try:
            client = self._client()
            client.verify()
        except (ConfigError, PrinterAuthError) as exc:
            return [*reasons, str(exc)]
        if self._firmware().validates_header:
            reasons += self._validate(client, head, reading)
        return reasons

    def _validate(self, client: PrinterClient, head: GcodeHead, reading: PrinterReading) -> list[str]:
        # the printer reads only the header here: no need to send the whole file twice
        with client.verified() as uploader:
            answer = uploader.post("/printer/validate_header", {"file": _part("check.gcode", head.raw)})
        if answer.status in (404, 405):
            return []  # this firmware has no such check
        if answer.status != 200:
            raise refusal("check the file", answer)
        accepted = self._settings.materials
        fits = reading.material_guid in accepted and (head.material_guid or reading.material_guid) in accepted
        return finding_reasons(answer.json(), materials_fit=fits)

    def _firmware(self) -> FirmwareTraits:
        if self._traits is None:
            answer = self._reader.get("/system/firmware")
            version = answer.json() if answer.status == 200 else ""
            self._traits = traits_for(version if isinstance(version, str) else "")
        return self._traits

    # --- doing -------------------------------------------------------------------------------------------

    def send(self, gcode: Path, job_name: str) -> SendResult:
        """Start a print with one POST.

        REFUSED is said only when nothing was started for certain, UNSURE whenever the file may have arrived.
        A job of this name already in the printer is ACCEPTED without sending: it was an earlier attempt of ours.
        """
        if not JOB_NAME.fullmatch(job_name):
            return _refused("A job name has 1 to 63 letters, digits, '-' and '_'.")
        try:
            body = gcode.read_bytes()
            if not body.startswith(GZIP_MAGIC):
                body = gzip.compress(body, compresslevel=6, mtime=0)
        except OSError as exc:
            return _refused(f"The G-code file cannot be read: {exc.strerror}.")
        reading = self.read()
        if Wanted(job_name).fits(reading.job) and reading.job is not None:
            return SendResult(SendOutcome.ACCEPTED, reading.job.uuid, "The job was already in the printer.")
        reasons = state_reasons(reading)
        if reasons:
            return SendResult(SendOutcome.REFUSED, detail=f"Nothing was sent. {reasons[0]}")
        return self._send_body(job_name, f"{job_name}.gcode.gz", body)

    def _send_body(self, job_name: str, filename: str, body: bytes) -> SendResult:
        posted = False
        try:
            with self._client().verified() as uploader:
                posted = True
                answer = uploader.post("/print_job", {"jobname": job_name, "file": _part(filename, body)})
        except PrinterSilentError as exc:
            if posted and exc.reached:
                return SendResult(SendOutcome.UNSURE, detail=f"{exc.message} The file may have arrived.")
            return _refused(f"Nothing was sent. {exc.message}")
        except (DeviceError, ConfigError) as exc:
            if posted:
                return SendResult(SendOutcome.UNSURE, detail=exc.message)
            return _refused(f"Nothing was sent. {exc.message}")
        return self._judge_answer(answer, job_name)

    def _judge_answer(self, answer: Answer, job_name: str) -> SendResult:
        if answer.status in (200, 201):
            return self._accepted(answer)
        if answer.status == 408 or answer.status >= 500 or answer.status < 400:
            return SendResult(
                SendOutcome.UNSURE,
                detail=f"The printer answered {answer.status} to the upload; it may have started.",
            )
        if answer.status == 405:
            # busy; with our own job, should a first answer have been lost on the way
            try:
                job = current_job(self._reader)
            except DeviceError as exc:
                return SendResult(SendOutcome.UNSURE, detail=f"Busy (405), and then: {exc.message}")
            if job is not None and Wanted(job_name).fits(job):
                return SendResult(SendOutcome.ACCEPTED, job.uuid, "The job was already in the printer.")
        return SendResult(SendOutcome.REFUSED, detail=refusal("print", answer).message)

    def _accepted(self, answer: Answer) -> SendResult:
        try:
            document = answer.json()
        except DeviceError as exc:
            return SendResult(SendOutcome.UNSURE, detail=exc.message)
        uuid = document.get("uuid") if isinstance(document, dict) else None
        if not isinstance(uuid, str) or not uuid:
            return SendResult(SendOutcome.UNSURE, detail="The printer accepted without naming the job.")
        return SendResult(SendOutcome.ACCEPTED, uuid, answer.message)

    def command(self, target: str, job_name: str, uuid: str = "") -> None:
        """'pause' | 'print' (resume) | 'abort', then watch that it shows: 204 alone means nothing (sheet 2.5).

        The machine takes a command for whatever job it has, so it is asked for its job just before.

        Raises InputRefusedError (another word), CommandUnsureError (taken or perhaps taken, but it does not
        show within `confirm_s`), DeviceError (no job, another job, not paired, silent).
        """
        if target not in _EFFECT:
            raise InputRefusedError(
                f"The printer has no command {target!r}.", next_step="Use pause, print or abort."
            )
        try:
            client = self._client()
            present = current_job(self._reader)
            if present is not None and not Wanted(job_name, uuid).fits(present):
                raise DeviceError(
                    f"Another job is in the printer: it was not told to {target}.",
                    next_step="Look at the printer; the state of this print follows by itself.",
                    code="printer.other_job",
                )
            answer = client.put_json("/print_job/state", {"target": target})
        except ConfigError as exc:
            raise PrinterAuthError(exc.message, status=401) from exc
        except PrinterSilentError as exc:
            if exc.reached:
                raise _unsure(target, "did not answer") from exc
            raise
        if answer.status == 404:
            raise DeviceError("The printer has no job.", next_step="Read the printer's state again.")
        if answer.status not in (200, 204):
            raise refusal(target, answer)
        self._watch(target)

    def _watch(self, target: str) -> None:
        ends = time.monotonic() + self._settings.confirm_s
        while True:
            try:
                job = current_job(self._reader)
            except DeviceError as exc:
                raise _unsure(target, "took it, then did not answer") from exc
            if job is None:
                if target == "pause":
                    raise DeviceError("The job has ended.", next_step="Read the printer's state again.")
                return
            if job.state in _EFFECT[target]:
                return
            if time.monotonic() >= ends:
                raise _unsure(target, f"took it, but the job is still {job.state or 'unknown'}")
            time.sleep(0.2)

    # --- credentials -------------------------------------------------------------------------------------

    def _client(self) -> PrinterClient:
        """The client with credentials. Raises CredentialsError, PrinterAuthError (no file configured)."""
        path = self._credentials_file
        if path is None:
            raise PrinterAuthError(f"Printer {self._name} has no credentials file configured.", status=401)
        with self._lock:
            changed_ns = path.stat().st_mtime_ns if path.exists() else 0
            if self._paired is None or self._paired[0] != changed_ns:
                client = PrinterClient(self._url, load_credentials(path), self._settings.timeouts)
                self._paired = (changed_ns, client)
            return self._paired[1]


def _part(filename: str, body: bytes) -> tuple[str, bytes, str]:
    return filename, body, "application/octet-stream"


def _refused(detail: str) -> SendResult:
    return SendResult(SendOutcome.REFUSED, detail=detail)


def _unsure(target: str, what: str) -> CommandUnsureError:
    return CommandUnsureError(
        f"The printer was told to {target} and {what}.", next_step="Look at the printer's display."
    )


def _head_or_refuse(gcode: Path) -> GcodeHead:
    try:
        return read_head(gcode)
    except OSError as exc:
        raise InputRefusedError(
            f"The G-code file cannot be read: {exc.strerror}.", next_step="Slice the model again."
        ) from exc
