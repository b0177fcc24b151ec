"""Storage commitment associations that we open: to ask an archive, and to report to who asked us."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pynetdicom import build_role, evt

from adapters.dicom_node import commitment_content as content
from adapters.dicom_node.outgoing import (
    LOST,
    Caller,
    close,
    nothing_accepted,
    why_not_established,
)
from adapters.dicom_node.tls import TlsFiles
from service.errors import ConfigError
from service.ports import CommitmentAnswer, CommitmentRequester, CommitmentSink, Destination

_log = logging.getLogger("spineprint.dicom")

_SYNTAXES = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")


@dataclass(frozen=True)
class Told:
    """What became of a report. `reached` is False when there was no association to send it on."""

    reached: bool
    status: int | None
    detail: str


def _associate(caller: Caller, destination: Destination, **options: Any) -> Any:
    """Raises ConfigError when TLS is asked for and cannot be used."""
    entity = caller.entity()
    entity.add_requested_context(content.PUSH_MODEL, list(_SYNTAXES))
    return caller.associate(entity, destination, **options)


class Reporter:
    """Sends N-EVENT-REPORT in the provider's role on a new association."""

    def __init__(self, ae_title: str, tls: TlsFiles | None) -> None:
        self._caller = Caller(ae_title, tls)
        self._open: Any = None

    def tell(self, destination: Destination, event_type: int, data: Dataset) -> Told:
        """Does not raise for refusals or silence."""
        try:
            # without the role the peer may take us for a user of the class and expect no report (PS3.4 J.3.3)
            association = _associate(
                self._caller, destination, ext_neg=[build_role(content.PUSH_MODEL, scp_role=True)]
            )
        except (ConfigError, *LOST) as error:
            return Told(False, None, str(error))
        if not association.is_established:
            return Told(False, None, _why_not(association, destination))
        self._open = association
        try:
            answer, _ = association.send_n_event_report(
                data, event_type, content.PUSH_MODEL, content.PUSH_MODEL_INSTANCE
            )
        except LOST as error:
            return Told(True, None, f"the association was lost ({type(error).__name__})")
        finally:
            self._open = None
            close(association)
        return _told(answer)

    def cut_off(self) -> None:
        """End the report under way from another thread, so that the node can stop."""
        association = self._open
        if association is not None:
            # the library's own abort does not wake the thread that waits for the answer; a closed line does
            with contextlib.suppress(OSError, AttributeError):
                association.dul.socket.socket.shutdown(socket.SHUT_RDWR)


class CommitmentScu(CommitmentRequester):
    """Asks an archive to answer for what it was sent.

    The report normally comes later to our node on an association of the archive's own. Archives that report on
    the association of the request are heard there for `linger_s`.
    """

    def __init__(
        self,
        ae_title: str = "SPINEPRINT",
        *,
        tls: TlsFiles | None = None,
        on_report: CommitmentSink | None = None,
        timeout_s: float = 30.0,
        linger_s: float = 2.0,
    ) -> None:
        self._caller = Caller(ae_title, tls, min(10.0, timeout_s), timeout_s, timeout_s)
        self._on_report = on_report
        self._linger_s = linger_s

    def ask(
        self, instances: Sequence[tuple[str, str]], destination: Destination, transaction_uid: str
    ) -> CommitmentAnswer:
        """Ask for (SOP class UID, SOP instance UID) pairs. Does not raise for refusals or silence."""
        heard = threading.Event()

        def on_event_report(event: Any) -> tuple[int, None]:
            status = self._hear(event)
            heard.set()
            return status, None

        def no(detail: str) -> CommitmentAnswer:
            _log.warning("no storage commitment from %s: %s", destination.ae_title, detail)
            return CommitmentAnswer(transaction_uid, False, detail)

        try:
            association = _associate(
                self._caller, destination, handlers=[(evt.EVT_N_EVENT_REPORT, on_event_report)]
            )
        except (ConfigError, *LOST) as error:
            return no(str(error))
        if not association.is_established:
            return no(_why_not(association, destination))
        try:
            answer, _ = association.send_n_action(
                content.request_content(transaction_uid, instances),
                content.REQUEST_COMMITMENT,
                content.PUSH_MODEL,
                content.PUSH_MODEL_INSTANCE,
            )
            told = _told(answer)
            if told.status != content.SUCCESS:
                return no(told.detail)
            self._linger(association, heard)
            return CommitmentAnswer(transaction_uid, True)
        except LOST as error:
            return no(f"the association was lost ({type(error).__name__})")
        finally:
            close(association)

    def _linger(self, association: Any, heard: threading.Event) -> None:
        """Hold the association open for a report on it; not when there is nobody to give it to."""
        end = time.monotonic() + (self._linger_s if self._on_report is not None else 0.0)
        while association.is_established and time.monotonic() < end:
            if heard.wait(0.05):
                # the handler has returned, its response still has to go out
                time.sleep(0.1)
                return

    def _hear(self, event: Any) -> int:
        request = event.request
        told = content.take_report(
            self._on_report,
            str(request.AffectedSOPClassUID),
            str(request.AffectedSOPInstanceUID),
            int(request.EventTypeID),
            lambda: event.event_information,
        )
        return told.status if isinstance(told, content.Refusal) else content.SUCCESS


def _told(answer: Dataset) -> Told:
    if "Status" not in answer:
        return Told(True, None, "no answer: time-out, abort or an invalid response")
    status = int(answer.Status)
    comment = str(answer.get("ErrorComment", "") or "").strip()
    return Told(True, status, f"answered {status:04X}" + (f" ({comment})" if comment else ""))


def _why_not(association: Any, destination: Destination) -> str:
    if nothing_accepted(association):
        return "the peer does not offer storage commitment"
    return why_not_established(association, destination)
