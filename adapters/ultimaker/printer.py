"""`service.ports.Printer` for the Ultimaker 3."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from adapters.ultimaker.client import PrinterClient, Timeouts, refusal
from adapters.ultimaker.cluster_queue import Listed, PrinterQueue, with_queue
from adapters.ultimaker.commands import Commander, check_known
from adapters.ultimaker.credentials import load_credentials
from adapters.ultimaker.faults import PrinterAuthError
from adapters.ultimaker.firmware import FirmwareTraits, traits_for
from adapters.ultimaker.interfaces import DIRECT, Interface
from adapters.ultimaker.lookup import Wanted, current_document, find_job
from adapters.ultimaker.preflight import (
    PLA_GUIDS,
    GcodeHead,
    finding_reasons,
    read_head,
    slot_reasons,
    state_reasons,
)
from adapters.ultimaker.reading import reading_from, second_core_missing
from adapters.ultimaker.sending import Sender, refused
from service.errors import ConfigError, DeviceError, InputRefusedError
from service.ports import (
    Clock,
    JobLookup,
    PrinterReading,
    PrinterState,
    SendResult,
)

#: Unique, harmless to every firmware, readable by anyone on the network: never a name of a person.
JOB_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")


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
    interface: Interface = DIRECT
    """What jobs are sent, told and commanded by; the machine is read through the direct one all the same."""


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
        self._interface = self._settings.interface
        self._reader = PrinterClient(url, timeouts=self._settings.timeouts)
        self._queue = PrinterQueue(self._reader, self._interface)
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
        # the queue first: a job that begins between two questions is then seen twice and never not at all
        entries, unread = self._read_queue()
        job = current_document(self._reader)
        printer = self._reader.get_json("/printer")
        self._answered_at = self._clock.now()
        return with_queue(reading_from(printer, job, self._answered_at), entries, unread), printer

    def _read_queue(self) -> tuple[list[Listed], str]:
        """Its entries, and in words why it could not be read."""
        try:
            return self._queue.listed(), ""
        except DeviceError as exc:
            return [], exc.message

    def find(self, job_name: str, uuid: str = "") -> JobLookup:
        """See the port. ABSENT takes at least `settle_s`, since it needs two looks."""
        wanted = self._wanted(job_name, uuid)
        return find_job(self._reader, wanted, self._settings.settle_s, queue=self._queue)

    def _wanted(self, job_name: str, uuid: str) -> Wanted:
        return Wanted(job_name, uuid, own_uuid=not self._interface.has_queue)

    def preflight(self, gcode: Path) -> Sequence[str]:
        """Reasons in words not to print now; empty = fine.

        Raises DeviceError when the printer cannot be asked, InputRefusedError when the file cannot be read.
        """
        head = _head_or_refuse(gcode)
        reading, printer = self._read_both()
        if self._interface.has_queue:
            self._queue.identity()  # a group that does not say which printer is ours is not sent to
        reasons = state_reasons(reading)
        reasons += slot_reasons(
            reading,
            head,
            self._settings.nozzle,
            self._settings.materials,
            no_second_core=second_core_missing(printer),
        )
        try:
            client = self._client()  # by the direct interface, whatever jobs are sent by
            client.verify()
        except (ConfigError, PrinterAuthError) as exc:
            return [*reasons, str(exc)]
        if self._firmware().validates_header:
            reasons += self._validate(client, head, reading)
        return reasons

    def _validate(self, client: PrinterClient, head: GcodeHead, reading: PrinterReading) -> list[str]:
        # the printer reads only the header here: no need to send the whole file twice
        with client.uploading() as uploader:
            part = ("check.gcode", head.raw, "application/octet-stream")
            answer = uploader.post("/printer/validate_header", {"file": part})
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
            return refused("A job name has 1 to 63 letters, digits, '-' and '_'.")
        return Sender(self._doer, self.read, self._queue, self._interface).send(gcode, job_name)

    def command(self, target: str, job_name: str, uuid: str = "") -> None:
        """'pause' | 'print' (resume) | 'abort', then watch that it shows: 204 alone means nothing (sheet 2.5).

        The machine takes a command for whatever job it has, so it is asked for its job just before.

        Raises InputRefusedError (another word), CommandUnsureError (taken or perhaps taken, but it does not
        show within `confirm_s`), DeviceError (no job, another job, not begun yet, not paired, silent).
        """
        check_known(target, self._interface)
        try:
            commander = self._commander(self._doer())
        except ConfigError as exc:
            raise PrinterAuthError(exc.message, status=401) from exc
        commander.command(target, self._wanted(job_name, uuid))

    def withdraw(self, job_name: str, uuid: str = "") -> JobLookup:
        """See the port. Never raises for the device."""
        return self._commander(self._reader).withdraw(self._wanted(job_name, uuid))

    def _commander(self, client: PrinterClient) -> Commander:
        settings = self._settings
        return Commander(
            self._reader, client, self._queue, self._interface, settings.settle_s, settings.confirm_s
        )

    def _doer(self) -> PrinterClient:
        """The client for what changes something. Raises what `_client` raises, where the interface wants it."""
        return self._client() if self._interface.authenticated else self._reader

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


def _head_or_refuse(gcode: Path) -> GcodeHead:
    try:
        return read_head(gcode)
    except OSError as exc:
        raise InputRefusedError(
            f"The G-code file cannot be read: {exc.strerror}.", next_step="Slice the model again."
        ) from exc
