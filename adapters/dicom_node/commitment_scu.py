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
from pynetdicom import AE, _config, build_role, evt

from adapters.dicom_node import commitment_content as content
from adapters.dicom_node.tls import TlsFiles, client_context
from service.errors import ConfigError
from service.ports import CommitmentAnswer, CommitmentRequester, CommitmentSink, Destination

_log = logging.getLogger("spineprint.dicom")

_SYNTAXES = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
_LOST = (RuntimeError, ValueError, AttributeError, OSError)
"""What the library raises when the association goes away between two calls, or cannot encode a request."""


@dataclass(frozen=True)
class Told:
    """What became of a report. `reached` is False when there was no association to send it on."""

    reached: bool
    status: int | None
    detail: str


class _Caller:
    """Opens associations for the push model."""

    def __init__(self, ae_title: str, tls: TlsFiles | None, *, timeout_s: float = 30.0) -> None:
        self._ae_title = ae_title
        self._tls = tls
        self._timeout_s = timeout_s

    def associate(self, destination: Destination, *, as_provider: bool, handlers: Sequence[Any] = ()) -> Any:
        """Raises ConfigError when TLS is asked for and cannot be used."""
        _config.LOG_HANDLER_LEVEL = "none"
        entity = AE(ae_title=self._ae_title)
        entity.connection_timeout = min(10.0, self._timeout_s)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = self._timeout_s
        entity.add_requested_context(content.PUSH_MODEL, list(_SYNTAXES))
        # without it the peer may take us for a user of the class and expect no report (PS3.4 section J.3.3)
        roles = [build_role(content.PUSH_MODEL, scp_role=True)] if as_provider else []
        return entity.associate(
            destination.host,
            destination.port,
            ae_title=destination.ae_title,
            ext_neg=roles,
            evt_handlers=list(handlers),
            tls_args=(self._client_context(), None) if destination.tls else None,
        )

    def _client_context(self) -> Any:
        if self._tls is None:
            raise ConfigError(
                "A peer is to be called over TLS, but this node has no certificate.",
                next_step="Set [dicom] tls_certificate, tls_key and tls_ca.",
                code="config.tls",
            )
        return client_context(self._tls)


class Reporter:
    """Sends N-EVENT-REPORT in the provider's role on a new association."""

    def __init__(self, ae_title: str, tls: TlsFiles | None) -> None:
        self._caller = _Caller(ae_title, tls, timeout_s=60.0)
        self._open: Any = None

    def tell(self, destination: Destination, event_type: int, data: Dataset) -> Told:
        """Does not raise for refusals or silence."""
        try:
            association = self._caller.associate(destination, as_provider=True)
        except (ConfigError, *_LOST) as error:
            return Told(False, None, str(error))
        if not association.is_established:
            return Told(False, None, _why_not(association))
        self._open = association
        try:
            answer, _ = association.send_n_event_report(
                data, event_type, content.PUSH_MODEL, content.PUSH_MODEL_INSTANCE
            )
        except _LOST as error:
            return Told(True, None, f"the association was lost ({type(error).__name__})")
        finally:
            self._open = None
            _close(association)
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
        self._caller = _Caller(ae_title, tls, timeout_s=timeout_s)
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
            association = self._caller.associate(
                destination, as_provider=False, handlers=[(evt.EVT_N_EVENT_REPORT, on_event_report)]
            )
        except (ConfigError, *_LOST) as error:
            return no(str(error))
        if not association.is_established:
            return no(_why_not(association))
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
        except _LOST as error:
            return no(f"the association was lost ({type(error).__name__})")
        finally:
            _close(association)

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


def _why_not(association: Any) -> str:
    if association.is_rejected:
        answer = association.acceptor.primitive
        reason = getattr(answer, "reason_str", "") if answer is not None else ""
        return f"the peer rejected the association: {reason or 'no reason given'}"
    if association.rejected_contexts:
        # accepted, but not this class; the library aborts such an association by itself
        return "the peer does not offer storage commitment"
    # the library sets the same flag when the port is closed and when the peer aborts the negotiation
    return "no connection, or the peer aborted the negotiation"


def _close(association: Any) -> None:
    if association.is_established:
        association.release()
