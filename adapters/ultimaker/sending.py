"""One POST that starts a print, and what its answer means. REFUSED only when nothing was started for certain."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from adapters.ultimaker.client import Answer, PrinterClient, Uploader, refusal
from adapters.ultimaker.cluster_queue import PrinterQueue, status_word
from adapters.ultimaker.faults import PrinterSilentError
from adapters.ultimaker.interfaces import Interface
from adapters.ultimaker.lookup import Wanted
from adapters.ultimaker.preflight import GZIP_MAGIC, state_reasons
from service.errors import ConfigError, DeviceError
from service.ports import WAITING_STATES, PrinterJob, PrinterReading, PrinterState, SendOutcome, SendResult


@dataclass(frozen=True)
class Sender:
    """`client` is made when it is needed: without usable credentials nothing was sent, and that is said so."""

    client: Callable[[], PrinterClient]
    read: Callable[[], PrinterReading]
    queue: PrinterQueue
    interface: Interface

    def send(self, gcode: Path, job_name: str) -> SendResult:
        """Send the file unless the printer has a job of this name: that was an earlier attempt of ours."""
        try:
            body = gcode.read_bytes()
            if not body.startswith(GZIP_MAGIC):
                body = gzip.compress(body, compresslevel=6, mtime=0)
        except OSError as exc:
            return refused(f"The G-code file cannot be read: {exc.strerror}.")
        reading = self.read()
        present = job_in(reading, job_name)
        if present is not None:
            return _already(present)
        reasons = state_reasons(reading)
        if reasons:
            return refused(f"Nothing was sent. {reasons[0]}")
        return self._send_body(job_name, body)

    def _send_body(self, job_name: str, body: bytes) -> SendResult:
        posted = False
        try:
            fields = self._fields(job_name)
            with self.client().uploading(authenticated=self.interface.authenticated) as uploader:
                posted = True
                answer = _post(uploader, self.interface.send, fields, f"{job_name}.gcode.gz", body)
        except PrinterSilentError as exc:
            if posted and exc.reached:
                return _unsure(f"{exc.message} The file may have arrived.")
            return refused(f"Nothing was sent. {exc.message}")
        except (DeviceError, ConfigError) as exc:
            return _unsure(exc.message) if posted else refused(f"Nothing was sent. {exc.message}")
        return self._judge_answer(answer, job_name)

    def _fields(self, job_name: str) -> dict[str, str]:
        # bound to the printer at this address: a group may give a job to the plate of another one
        own = self.queue.identity().unique_name if self.interface.has_queue else ""
        values = {"{name}": job_name, "{printer}": own}
        return {key: values.get(value, value) for key, value in self.interface.fields.items()}

    def _judge_answer(self, answer: Answer, job_name: str) -> SendResult:
        if answer.status in self.interface.accepted:
            return self._accepted(answer)
        if answer.status == 408 or answer.status >= 500 or answer.status < 400:
            return _unsure(f"The printer answered {answer.status} to the upload; it may have started.")
        if answer.status in (401, 403) and not self.interface.authenticated:
            return refused(
                f"The printer's queue takes no jobs without a login ({answer.status}): "
                'print through the printer\'s own interface (interface = "direct").'
            )
        words = refusal("print", answer).message
        if answer.status in (401, 403):
            return refused(words)
        # busy, by whatever code; with our own job, should a first answer have been lost on the way
        reading = self.read()
        if reading.state is PrinterState.SILENT:
            return _unsure(f"{words} Then: {reading.detail}")
        present = job_in(reading, job_name)
        return refused(words) if present is None else _already(present)

    def _accepted(self, answer: Answer) -> SendResult:
        try:
            document = answer.json()
        except DeviceError as exc:
            return _unsure(exc.message)
        uuid = document.get("uuid") if isinstance(document, dict) else None
        if not isinstance(uuid, str) or not uuid:
            return _unsure("The printer accepted without naming the job.")
        # without a word it counts as waiting: what has begun is seen at the next look
        state = status_word(document, self.interface).state
        waits = self.interface.has_queue and (not state or state in WAITING_STATES)
        return SendResult(SendOutcome.ACCEPTED, uuid, answer.message, waits=waits)


def job_in(reading: PrinterReading, job_name: str) -> PrinterJob | None:
    """Our job, in the machine or in its queue."""
    wanted = Wanted(job_name)
    jobs = [*([reading.job] if reading.job else []), *reading.waiting]
    return next((job for job in jobs if wanted.fits(job)), None)


def refused(detail: str) -> SendResult:
    return SendResult(SendOutcome.REFUSED, detail=detail)


def _already(job: PrinterJob) -> SendResult:
    return SendResult(SendOutcome.ACCEPTED, job.uuid, "The job was already in the printer.", waits=job.waits)


def _unsure(detail: str) -> SendResult:
    return SendResult(SendOutcome.UNSURE, detail=detail)


def _post(uploader: Uploader, path: str, fields: dict[str, str], filename: str, body: bytes) -> Answer:
    parts: dict[str, str | tuple[str, bytes, str]] = {**fields}
    parts["file"] = (filename, body, "application/octet-stream")
    return uploader.post(path, parts)
