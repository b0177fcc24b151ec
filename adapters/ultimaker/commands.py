"""Pause, go on, stop, and taking a job out of the queue: for our job alone, and watched until it shows."""

from __future__ import annotations

import time
from dataclasses import dataclass

from adapters.ultimaker.client import Answer, PrinterClient, refusal
from adapters.ultimaker.cluster_queue import PrinterQueue, pick
from adapters.ultimaker.faults import CommandUnsureError, PrinterSilentError
from adapters.ultimaker.interfaces import Interface
from adapters.ultimaker.lookup import Wanted, current_job, find_job
from service.errors import DeviceError, InputRefusedError
from service.ports import JobLookup, PrinterJob

#: Job states that show that a command has taken effect.
_EFFECT = {
    "pause": frozenset({"pausing", "paused"}),
    "print": frozenset({"resuming", "printing", "pre_print", "post_print", "wait_cleanup"}),
    "abort": frozenset({"none", "", "post_print", "wait_cleanup"}),
}
_DONE = (200, 204)


@dataclass(frozen=True)
class Commander:
    """`reader` asks without credentials, `client` with those that the interface wants."""

    reader: PrinterClient
    client: PrinterClient
    queue: PrinterQueue
    interface: Interface
    settle_s: float
    confirm_s: float

    def command(self, target: str, wanted: Wanted) -> None:
        """See `UltimakerPrinter.command`."""
        uuid = self._present(target, wanted)
        try:
            answer = self._call(target, uuid)
        except PrinterSilentError as exc:
            if exc.reached:
                raise _unsure(target, "did not answer") from exc
            raise
        if answer.status == 404:
            raise _no_job()
        # An answer of failure says nothing of what was done: only what the printer shows afterwards does.
        failed = answer.status >= 500 or answer.status == 408
        if answer.status not in _DONE and not failed:
            raise refusal(target, answer)
        unmoved = self._still(target)
        if unmoved and failed:
            raise refusal(target, answer)
        if unmoved:
            raise _unsure(target, f"took it, but the job is still {unmoved}")

    def withdraw(self, wanted: Wanted) -> JobLookup:
        """See the port: what counts is what the printer shows afterwards, not how it answered."""
        call = self.interface.withdraw
        try:
            entry = self._listed(wanted)
            if call is not None and entry is not None and entry.waits:
                self.client.call(call, entry.uuid, authenticated=self.interface.authenticated)
        except DeviceError:
            pass  # asked for below, where a printer that cannot say makes the answer UNSURE
        return find_job(self.reader, wanted, self.settle_s, queue=self.queue)

    def _call(self, target: str, uuid: str) -> Answer:
        return self.client.call(
            self.interface.calls[target], uuid, authenticated=self.interface.authenticated
        )

    def _listed(self, wanted: Wanted) -> PrinterJob | None:
        return pick([entry.job for entry in self.queue.listed()], wanted.name, wanted.uuid)

    def _present(self, target: str, wanted: Wanted) -> str:
        """The identifier to name the job by. Raises DeviceError when another job is there, or ours has not begun."""
        listed = self._listed(wanted)
        if listed is not None and listed.waits:
            raise DeviceError(
                f"The job waits in the printer's queue: there is nothing to {target} yet.",
                next_step="Read the printer's state again.",
                code="printer.job_waits",
            )
        present = current_job(self.reader)
        if present is not None and not wanted.fits(present):
            raise DeviceError(
                f"Another job is in the printer: it was not told to {target}.",
                next_step="Look at the printer; the state of this print follows by itself.",
                code="printer.other_job",
            )
        if self.interface.has_queue and listed is None:
            raise _no_job()
        return listed.uuid if listed is not None else ""

    def _still(self, target: str) -> str:
        """Empty once the job shows what was asked for, else its state after `confirm_s`. Raises CommandUnsureError."""
        ends = time.monotonic() + self.confirm_s
        while True:
            try:
                job = current_job(self.reader)
            except DeviceError as exc:
                raise _unsure(target, "took it, then did not answer") from exc
            if job is None:
                if target == "pause":
                    raise DeviceError("The job has ended.", next_step="Read the printer's state again.")
                return ""
            if job.state in _EFFECT[target]:
                return ""
            if time.monotonic() >= ends:
                return job.state or "unknown"
            time.sleep(0.2)


def check_known(target: str, interface: Interface) -> None:
    if target not in interface.calls:
        raise InputRefusedError(
            f"The printer has no command {target!r}.", next_step="Use pause, print or abort."
        )


def _no_job() -> DeviceError:
    return DeviceError("The printer has no job.", next_step="Read the printer's state again.")


def _unsure(target: str, what: str) -> CommandUnsureError:
    return CommandUnsureError(
        f"The printer was told to {target} and {what}.", next_step="Look at the printer's display."
    )
