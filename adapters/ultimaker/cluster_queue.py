"""The printer's own queue on cluster firmware, read in our words (reference sheet section 4.2).

Nothing here starts anything. A queue that cannot be read to its end raises DeviceError: no job is ever taken to be
absent from a list that was not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from adapters.ultimaker.client import PrinterClient
from adapters.ultimaker.faults import PrinterOddAnswerError
from adapters.ultimaker.interfaces import Interface, Word
from adapters.ultimaker.reading import number, text
from service.errors import DeviceError
from service.ports import PrinterJob, PrinterReading, PrinterState

_CHANGES: Mapping[str, str] = {
    "material_change": "the material is to be changed",
    "material_insert": "material is to be loaded",
    "print_core_change": "the print core is to be changed",
    "buildplate_change": "the build plate is to be changed",
}


@dataclass(frozen=True)
class Identity:
    """The printer at our address, as its group knows it."""

    unique_name: str
    uuid: str


@dataclass(frozen=True)
class Listed:
    """One entry of the queue. `elsewhere`: bound to another printer of the group for certain."""

    job: PrinterJob
    elsewhere: bool


def own_identity(client: PrinterClient, interface: Interface) -> Identity:
    """Which printer of the group stands at our address: a job must go to the plate that somebody looked at.

    By its network name, `ultimakersystem-<mac>` in both interfaces; the only printer of a group of one is ours.

    Raises
    ------
    DeviceError : none of several printers is recognised, or they cannot be read.
    """
    entries = _list(client, interface.printers, "the printers of its group")
    found = [Identity(text(e.get("unique_name")), text(e.get("uuid"))) for e in entries]
    found = [identity for identity in found if identity.unique_name]
    if len(found) > 1:
        host = client.get_json("/system/hostname")
        found = [identity for identity in found if identity.unique_name == host]
    if len(found) != 1:
        raise DeviceError(
            "The group of printers at this address does not say which of them it is.",
            next_step='Print through the printer\'s own interface (interface = "direct"), or configure the address '
            "of the printer itself.",
            code="printer.which",
        )
    return found[0]


class PrinterQueue:
    """The queue of one printer; of an interface without one it is empty, and nothing is asked for."""

    def __init__(self, client: PrinterClient, interface: Interface) -> None:
        self._client, self._interface = client, interface
        self._own: Identity | None = None

    def identity(self) -> Identity:
        """Asked for anew. Raises DeviceError."""
        self._own = own_identity(self._client, self._interface)
        return self._own

    def listed(self) -> list[Listed]:
        """All jobs that wait or have begun, in the order of the queue. Raises DeviceError."""
        if not self._interface.has_queue:
            return []
        own = self._own or self.identity()
        entries = _list(self._client, self._interface.jobs, "its queue")
        return [Listed(_job(entry, self._interface), _elsewhere(entry, own)) for entry in entries]

    def completed(self) -> list[PrinterJob]:
        """The jobs that ended lately; how far back it goes is not known. Raises DeviceError.

        One that was taken out before it began is left out: it is not there any more, and was never printed.
        """
        if not self._interface.has_queue:
            return []
        entries = _list(self._client, self._interface.past, "its recent jobs")
        return [_job(entry, self._interface) for entry in entries if entry.get("started") is not False]


def waiting_here(entries: Sequence[Listed]) -> tuple[PrinterJob, ...]:
    """The jobs that may begin on this printer by themselves."""
    return tuple(entry.job for entry in entries if entry.job.waits and not entry.elsewhere)


def pick(entries: Sequence[PrinterJob], name: str, uuid: str) -> PrinterJob | None:
    """The job by its identifier, else by its name: one that has begun before one that waits.

    One that waits under another identifier than the known one is a copy, and not the job.
    """
    known = [job for job in entries if uuid and job.uuid == uuid]
    named = [job for job in entries if job.is_called(name) and not (uuid and job.waits)]
    return next(iter(known or sorted(named, key=lambda job: job.waits)), None)


def same_job(job: PrinterJob, entries: Sequence[Listed]) -> PrinterJob:
    """The machine's job under the identifier that the queue knows it by, where the queue lists it."""
    for entry in entries:
        fits = entry.job.uuid == job.uuid or (job.name and entry.job.is_called(job.bare_name))
        if fits and not entry.job.waits and not entry.elsewhere:
            return replace(job, uuid=entry.job.uuid or job.uuid)
    return job


def with_queue(reading: PrinterReading, entries: Sequence[Listed], unread: str) -> PrinterReading:
    """The reading of the machine with its queue beside it.

    A machine that is idle under a queue in which something waits, or that nobody could read, is not free: what waits
    begins by itself, on whatever lies on the plate.
    """
    waiting = waiting_here(entries)
    job = reading.job
    if job is not None:
        job = same_job(job, entries)
    else:
        begun = [e.job for e in entries if not (e.job.waits or e.job.cleared or e.elsewhere)]
        job = begun[0] if begun else None
    state, detail = reading.state, reading.detail
    if state is PrinterState.IDLE and (waiting or unread or job is not None):
        state = PrinterState.BUSY
    if unread:
        detail = f"{detail} The printer's queue cannot be read: {unread}".strip()
    elif waiting:
        jobs = f"{len(waiting)} jobs wait" if len(waiting) > 1 else "A job waits"
        detail = f"{detail} {jobs} in the printer's queue, which begins by itself.".strip()
    return replace(reading, state=state, detail=detail, job=job, waiting=waiting)


def status_word(document: object, interface: Interface) -> Word:
    """Of one job; an unknown word is passed on, and counts as work under way."""
    word = text(document.get("status")) if isinstance(document, Mapping) else ""
    return interface.words.get(word, Word(word))


def _job(entry: Mapping[str, object], interface: Interface) -> PrinterJob:
    word = status_word(entry, interface)
    total, elapsed = number(entry.get("time_total")), number(entry.get("time_elapsed"))
    begun = bool(total) and elapsed is not None and word.state == "printing"
    return PrinterJob(
        uuid=text(entry.get("uuid")),
        name=text(entry.get("name")),
        state=word.state,
        result=word.result,
        progress=min(1.0, max(0.0, (elapsed or 0.0) / total)) if begun and total else None,
        time_elapsed_s=None if elapsed is None else int(elapsed),
        time_total_s=None if total is None else int(total),
        cleared=word.gone,
        remark=_remark(entry) if word.state == "queued" else "",
    )


def _remark(entry: Mapping[str, object]) -> str:
    """`configuration_changes_required` in words; empty when nothing has to be changed."""
    changes = entry.get("configuration_changes_required")
    words = []
    for change in changes if isinstance(changes, Sequence) and not isinstance(changes, str) else ():
        item = change if isinstance(change, Mapping) else {}
        kind = text(item.get("type_of_change"))
        what = _CHANGES.get(kind, f"something is to be changed ({kind or 'not said what'})")
        slot = number(item.get("index"))
        where = "" if slot is None else f" in slot {int(slot) + 1}"
        origin, target = text(item.get("origin_name")), text(item.get("target_name"))
        names = f" ({origin or 'none'} to {target})" if target else ""
        words.append(f"{what}{where}{names}")
    return f"Before it begins, {', '.join(words)}." if words else ""


def _elsewhere(entry: Mapping[str, object], own: Identity) -> bool:
    constraints = entry.get("constraints")
    wanted = text(constraints.get("require_printer_name")) if isinstance(constraints, Mapping) else ""
    if wanted:
        return wanted != own.unique_name
    begun = text(entry.get("status")) != "queued"
    printer = text(entry.get("printer_uuid"))
    # where a job that waits is assigned to may change; where one has begun does not
    return begun and bool(printer) and bool(own.uuid) and printer != own.uuid


def _list(client: PrinterClient, path: str, what: str) -> list[Mapping[str, object]]:
    try:
        document = client.get_json(path, what)
    except PrinterOddAnswerError as exc:
        raise PrinterOddAnswerError(
            f"The printer has no queue of the cluster firmware that tells {what}. {exc.message}",
            next_step='Check its firmware, or print through its own interface (interface = "direct").',
        ) from exc
    if not isinstance(document, list):
        raise PrinterOddAnswerError(f"The printer's answer about {what} is not a list.")
    entries = [entry for entry in document if isinstance(entry, Mapping)]
    if len(entries) != len(document):
        raise PrinterOddAnswerError(f"The printer's answer about {what} has an entry that is none.")
    return entries
