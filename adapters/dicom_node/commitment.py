"""Storage commitment at the door of the node (PS3.4 annex J): requests are taken durably, outcomes handed over.

The reports about what was asked of us go out in `commitment_reports`.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from pydicom.dataset import Dataset

from adapters.dicom_node import commitment_content as content
from adapters.dicom_node.callers import known_peer, printable
from adapters.dicom_node.commitment_files import Transaction, TransactionFiles, digest_of
from adapters.dicom_node.commitment_reports import ReportQueue, callable_peer
from adapters.dicom_node.commitment_scu import Reporter
from adapters.dicom_node.holdings import Holding, Holdings
from adapters.dicom_node.tls import TlsFiles
from service.ports import CommitmentReport, CommitmentSink, NodeEvent, Peer

__all__ = ["CommitmentDesk", "Holding", "Holdings"]

_log = logging.getLogger("spineprint.dicom")

_MOST_PENDING = 1000
_MOST_PENDING_REFERENCES = 500_000
"""Of one caller; beyond them a request is refused with `resource limitation`."""


class CommitmentDesk:
    """One per node. `action` and `report` are called on the threads of associations.

    Parameters
    ----------
    holdings : what the store can answer for.
    folder : where accepted transactions wait; made when missing.
    peers : who may ask and report; the host and port of one is where its reports go.
    on_event : refusals, reports that do not get through, instances we cannot answer for.
    on_report : gets the outcome of our own requests; without it reports are refused.
    """

    def __init__(
        self,
        holdings: Holdings,
        folder: Path,
        *,
        ae_title: str,
        peers: Sequence[Peer],
        tls: TlsFiles | None,
        now: Callable[[], datetime],
        on_event: Callable[[NodeEvent], None],
        on_report: CommitmentSink | None = None,
    ) -> None:
        self._files = TransactionFiles(folder)
        self._ae_title = ae_title
        self._peers = tuple(peers)
        self._now = now
        self._on_event = on_event
        self._on_report = on_report
        self._accepting = threading.Lock()
        self._counting = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._reports = ReportQueue(
            holdings,
            self._files,
            Reporter(ae_title, tls),
            self._peers,
            now=now,
            tell=lambda kind, about, what, step: self._tell(
                kind, about.calling_ae, about.address, what, step
            ),
            count=self._count,
        )

    def start(self) -> None:
        """Take up what was accepted and not reported before. Raises OSError when the folder cannot be used."""
        self._reports.start()

    def stop(self) -> None:
        """What is not reported yet waits on the disk for the next start."""
        self._reports.stop()

    def counters(self) -> Mapping[str, int]:
        """commitment_requests, _refused, _reported, _unsafe, _given_up, _outcomes since start; _waiting now."""
        with self._counting:
            return {**self._counts, "commitment_waiting": len(self._reports.waiting())}

    def action(
        self,
        *,
        calling_ae: str,
        address: str,
        sop_class_uid: str,
        sop_instance_uid: str,
        action_type: int,
        dataset: Dataset | None,
    ) -> tuple[int, str]:
        """Status and error comment of one N-ACTION request; success only when it is on stable storage."""
        caller = calling_ae.strip()
        step = "Check the storage commitment settings of the sender."
        refusal = content.addressed_wrongly(sop_class_uid, sop_instance_uid)
        if refusal is None and action_type != content.REQUEST_COMMITMENT:
            why = f"action type {action_type} is not one of this class"
            refusal = content.Refusal(content.NO_SUCH_ACTION, why)
        if refusal is None:
            peer, step = callable_peer(self._peers, caller, address)
            if peer is None:
                refusal = content.Refusal(content.NOT_AUTHORISED, "no address to report to is configured")
        if refusal is None:
            step = "The request is malformed or too large; tell the maker of the sender."
            request = content.read_request(dataset)
            if not isinstance(request, content.Refusal):
                return self._accept(caller, address, request)
            refusal = request
        return self._refuse(caller, address, refusal, step)

    def report(
        self,
        *,
        calling_ae: str,
        address: str,
        sop_class_uid: str,
        sop_instance_uid: str,
        event_type: int,
        dataset: Dataset | None,
    ) -> tuple[int, str]:
        """Status and error comment of one N-EVENT-REPORT request; success only when the sink took the outcome."""
        step = "List the archive under [[dicom.peers]] with the AE title and address it reports from."
        told: CommitmentReport | content.Refusal
        peer, why = known_peer(self._peers, calling_ae, address)
        if peer is None:
            told = content.Refusal(content.NOT_AUTHORISED, why)
        else:
            step = "See the service's log, and the log of the archive."
            told = content.take_report(
                self._on_report, sop_class_uid, sop_instance_uid, event_type, lambda: dataset
            )
        if isinstance(told, content.Refusal):
            return self._refuse(calling_ae, address, told, step)
        self._count("commitment_outcomes", 1)
        return content.SUCCESS, ""

    # --- steps --------------------------------------------------------------------------------------------

    def _accept(self, caller: str, address: str, request: content.CommitmentRequest) -> tuple[int, str]:
        references = request.references
        asked = Transaction(
            caller, address, request.transaction_uid, self._now(), digest_of(references), len(references)
        )
        with self._accepting:
            known = self._reports.find(asked.key)
            if known is not None and known.digest == asked.digest:
                return content.SUCCESS, ""
            if known is not None:
                why = "Transaction UID is in use for another request"
                refusal: content.Refusal | None = content.Refusal(content.INVALID_ARGUMENT, why)
            else:
                refusal = self._too_much(asked) or self._save(asked, references)
            if refusal is None:
                self._reports.add(asked)
        if refusal is not None:
            return self._refuse(caller, address, refusal, "Let the sender ask again later.")
        self._count("commitment_requests", 1)
        return content.SUCCESS, ""

    def _too_much(self, asked: Transaction) -> content.Refusal | None:
        waiting = [t for t in self._reports.waiting() if t.calling_ae == asked.calling_ae]
        total = asked.count + sum(transaction.count for transaction in waiting)
        if len(waiting) < _MOST_PENDING and total <= _MOST_PENDING_REFERENCES:
            return None
        return content.Refusal(
            content.RESOURCE_LIMITATION, f"{len(waiting)} requests wait for their report already"
        )

    def _save(self, asked: Transaction, references: tuple[content.Reference, ...]) -> content.Refusal | None:
        try:
            self._files.save(asked, references)
        except OSError as error:
            _log.error("storage commitment request cannot be kept: %s", error.strerror)
            return content.Refusal(content.RESOURCE_LIMITATION, "the request cannot be kept on the disk")
        return None

    def _refuse(self, caller: str, address: str, refusal: content.Refusal, step: str) -> tuple[int, str]:
        what = f"storage commitment message refused with {refusal.status:04X}: {refusal.comment}"
        self._count("commitment_refused", 1)
        self._tell("commitment_refused", caller, address, what, step)
        return refusal.status, refusal.comment[:64]

    def _tell(self, kind: str, caller: str, address: str, what: str, step: str) -> None:
        self._on_event(NodeEvent(self._now(), kind, printable(caller), self._ae_title, address, what, step))

    def _count(self, what: str, number: int) -> None:
        with self._counting:
            self._counts[what] += number
