"""Storage commitment reports on their way out: one worker that checks, calls, and repeats until it is heard.

A report goes out on an association of our own, in the provider's role, to the address configured for the
requestor. What waits is on the disk; a restart takes it up again.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from adapters.dicom_node import commitment_content as content
from adapters.dicom_node.callers import known_peer, printable
from adapters.dicom_node.commitment_files import Transaction, TransactionFiles
from adapters.dicom_node.commitment_scu import Reporter, Told
from adapters.dicom_node.contexts import STORAGE_CLASSES
from adapters.dicom_node.holdings import Holding, Holdings
from service.ports import Destination, Peer

_log = logging.getLogger("spineprint.dicom")

_FIRST_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 600.0
_KEPT = timedelta(hours=24)
_SETTLE_S = 30.0
_VERDICT_S = 3600.0
"""A report that could not be delivered for longer is made anew: it vouches for files as they are now."""
_BEFORE_FIRST_S = 0.3
"""Single-threaded requestors release the association of the request before they can take its report."""
_REASONS = {
    Holding.ABSENT: content.FAILED_ABSENT,
    Holding.CLASS_CONFLICT: content.FAILED_CLASS_CONFLICT,
    Holding.DAMAGED: content.FAILED_PROCESSING,
    Holding.AMBIGUOUS: content.FAILED_PROCESSING,
}

Teller = Callable[[str, Transaction, str, str], None]
"""kind, transaction, what happened, next step."""


@dataclass
class _Job:
    transaction: Transaction
    due: float
    attempt: int = 0
    failed: dict[str, int] | None = None
    """The verdict; a restart looks at the store again."""
    judged_at: float = 0.0

    @property
    def stale(self) -> bool:
        return self.failed is None or time.monotonic() - self.judged_at > _VERDICT_S


@dataclass
class _Line:
    """A caller that cannot be reached holds up its own reports only, and is not called for each of them."""

    attempt: int = 0
    not_before: float = 0.0


@dataclass
class _Waiting:
    jobs: dict[str, _Job] = field(default_factory=dict)
    lines: dict[str, _Line] = field(default_factory=dict)

    def line(self, job: _Job) -> _Line:
        return self.lines.setdefault(job.transaction.calling_ae, _Line())

    def due(self, job: _Job) -> float:
        return max(job.due, self.line(job).not_before)


def pause_s(attempt: int) -> float:
    """5, 10, 20 ... 600 s."""
    return float(min(_FIRST_PAUSE_S * 2.0 ** min(attempt, 20), _LONGEST_PAUSE_S))


class ReportQueue:
    """`tell` is called for what an administrator wants to know, `count` for every report by its outcome."""

    def __init__(
        self,
        holdings: Holdings,
        files: TransactionFiles,
        reporter: Reporter,
        peers: Sequence[Peer],
        *,
        now: Callable[[], datetime],
        tell: Teller,
        count: Callable[[str, int], None],
    ) -> None:
        self._holdings = holdings
        self._files = files
        self._reporter = reporter
        self._peers = tuple(peers)
        self._now = now
        self._tell = tell
        self._count = count
        self._changed = threading.Condition()
        self._waiting = _Waiting()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Raises OSError when the folder of the transactions cannot be used."""
        self._files.open()
        self._stopping = False
        for transaction in self._files.waiting():
            self._waiting.jobs[transaction.key] = _Job(transaction, time.monotonic())
        if self._waiting.jobs:
            _log.info("storage commitment: %d report(s) left from before", len(self._waiting.jobs))
        self._thread = threading.Thread(target=self._run, name="dicom-commitment", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is None:
            return
        # a report under way is normally taken within this time
        self._thread.join(1.0)
        if self._thread.is_alive():
            self._reporter.cut_off()
            self._thread.join(3.0)
        self._thread = None

    def add(self, transaction: Transaction) -> None:
        """A transaction whose file is durable."""
        with self._changed:
            self._waiting.jobs[transaction.key] = _Job(transaction, time.monotonic() + _BEFORE_FIRST_S)
            self._changed.notify_all()

    def waiting(self) -> list[Transaction]:
        with self._changed:
            return [job.transaction for job in self._waiting.jobs.values()]

    def find(self, key: str) -> Transaction | None:
        with self._changed:
            job = self._waiting.jobs.get(key)
            return None if job is None else job.transaction

    # --- worker -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._work(job)
            except Exception as error:  # noqa: BLE001 - the transaction is on the disk and is tried again
                _log.exception("storage commitment report failed (%s)", type(error).__name__)
                self._postpone(job)

    def _next(self) -> _Job | None:
        with self._changed:
            while not self._stopping:
                job = min(self._waiting.jobs.values(), key=self._waiting.due, default=None)
                wait_s = None if job is None else self._waiting.due(job) - time.monotonic()
                if job is not None and wait_s is not None and wait_s <= 0:
                    return job
                self._changed.wait(wait_s)
        return None

    def _work(self, job: _Job) -> None:
        transaction = job.transaction
        if self._now() - transaction.accepted_at > _KEPT:
            what = f"a storage commitment report for {transaction.count} instance(s) could not be delivered in 24 h"
            step = "Check address, port, AE title and TLS of this peer; then let it ask again."
            self._tell("commitment_given_up", transaction, what, step)
            self._count("commitment_given_up", 1)
            self._forget(job)
            return
        peer, step = callable_peer(self._peers, transaction.calling_ae, transaction.address)
        if peer is None:
            self._unreachable(job, "its address is no longer configured", step)
            return
        references = self._files.references(transaction)
        if job.stale and not self._judge(job, references):
            self._postpone(job)
            return
        where = Destination(
            peer.ae_title.strip(), report_host(peer, transaction.address), peer.port, peer.tls
        )
        report = content.report_content(transaction.transaction_uid, references, job.failed or {})
        self._conclude(job, self._reporter.tell(where, *report))

    def _judge(self, job: _Job, references: Sequence[content.Reference]) -> bool:
        """Find what we do not answer for; False when the store is not settled or we are stopping."""
        if not self._holdings.settle(_SETTLE_S):
            _log.warning("storage commitment waits: received instances are still being put in place")
            return False
        failed: dict[str, int] = {}
        found: Counter[str] = Counter()
        for sop_class_uid, uid in references:
            if self._stopping:
                return False
            holding = self._holdings.holding(sop_class_uid, uid)
            if holding is not Holding.SAFE:
                found[holding.value] += 1
                unsupported = holding is Holding.ABSENT and sop_class_uid not in STORAGE_CLASSES
                failed[uid] = content.FAILED_CLASS_UNSUPPORTED if unsupported else _REASONS[holding]
        if failed and failed != job.failed:
            kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(found.items()))
            what = f"not committed to {len(failed)} of {len(references)} instance(s): {kinds}"
            step = (
                "Let the sender send these again; it keeps its copies. For damaged files check the data disk."
            )
            self._tell("commitment_unsafe", job.transaction, what, step)
            self._count("commitment_unsafe", len(failed))
        job.failed, job.judged_at = failed, time.monotonic()
        return True

    def _conclude(self, job: _Job, told: Told) -> None:
        if self._stopping and told.status != content.SUCCESS:
            # cut off by us; it waits for the next start
            return
        if not told.reached:
            step = "Check address, port, AE title and TLS of this peer; the report is repeated for 24 h."
            self._unreachable(job, told.detail, step)
            return
        with self._changed:
            self._waiting.lines.pop(job.transaction.calling_ae, None)
        if told.status == content.SUCCESS:
            self._count("commitment_reported", 1)
            self._forget(job)
            return
        if not job.attempt:
            what = f"it did not take its storage commitment report: {told.detail}"
            step = "See the log of this peer; the report is repeated for 24 h."
            self._tell("commitment_not_taken", job.transaction, what, step)
        self._postpone(job)

    def _unreachable(self, job: _Job, why: str, step: str) -> None:
        with self._changed:
            line = self._waiting.line(job)
            line.not_before = time.monotonic() + pause_s(line.attempt)
            line.attempt += 1
        if line.attempt == 1:
            self._tell(
                "commitment_unreachable", job.transaction, f"storage commitment report not sent: {why}", step
            )

    def _postpone(self, job: _Job) -> None:
        with self._changed:
            job.due = time.monotonic() + pause_s(job.attempt)
            job.attempt += 1

    def _forget(self, job: _Job) -> None:
        self._files.remove(job.transaction)
        with self._changed:
            self._waiting.jobs.pop(job.transaction.key, None)


def callable_peer(peers: Sequence[Peer], caller: str, address: str) -> tuple[Peer | None, str]:
    """Who gets the report, or None and what to configure."""
    peer, _ = known_peer(peers, caller, address)
    title = printable(caller)
    if peer is None:
        return None, f"List {title} under [[dicom.peers]] with this address and the port it listens on."
    if not peer.port:
        return None, f"Give the peer {title} the port on which it takes storage commitment reports."
    return peer, ""


def report_host(peer: Peer, address: str) -> str:
    """Where to call a peer: its configured host; when that is a rule for many addresses, where it called from."""
    rule = peer.host.strip()
    if rule in ("", "*"):
        return address
    try:
        network = ipaddress.ip_network(rule, strict=False)
    except ValueError:
        return rule
    return str(network.network_address) if network.num_addresses == 1 else address
