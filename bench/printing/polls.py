"""What the service had stored after each of its polls of a printer, seen from the wire.

A poll is one look of the service at the printer (GET /print_job, then GET /printer answered with 200) and all that
follows from it. It counts when it began after `begin`, and when the service lived to finish it: the proof of both is
that the next look is asked for by the same process. At that instant, before the request goes on, the record is read:
nothing later can be in it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from bench.printing.wire import ASKED, PASSED, Seen
from service.store.prints import PrintJob

_JOB, _PRINTER = "/api/v1/print_job", "/api/v1/printer"


class Polls:
    """Feed it everything seen on the wire; `records` are the records after 0, 1, 2 ... whole polls.

    Only while nothing is being sent: the sending looks at the printer too.
    """

    def __init__(self, stored: Callable[[], PrintJob], process_id: Callable[[], int]) -> None:
        self._stored, self._process_id = stored, process_id
        self._lock = threading.Lock()
        self._counting = False
        self._job_asked = False
        self._open_by: int | None = None
        self._answered = False
        self._records: list[PrintJob] = []

    @property
    def records(self) -> list[PrintJob]:
        with self._lock:
            return list(self._records)

    def begin(self) -> None:
        """From now on the printer tells the truth, and the truth does not move."""
        with self._lock:
            self._counting, self._job_asked = True, False
            self._open_by, self._answered = None, False
            self._records = [self._stored()]

    def end(self) -> None:
        with self._lock:
            self._counting = False

    def see(self, seen: Seen) -> None:
        path = seen.path.partition("?")[0]
        if seen.method != "GET" or path not in (_JOB, _PRINTER):
            return
        with self._lock:
            if not self._counting:
                return
            if seen.what == ASKED and path == _JOB:
                self._job_asked = True
            elif seen.what == ASKED:
                self._next_look()
            elif seen.what == PASSED and path == _PRINTER and self._open_by is not None:
                self._answered = seen.count == 200

    def _next_look(self) -> None:
        process_id = self._process_id()
        if self._answered and self._open_by == process_id:
            self._records.append(self._stored())
        # a look whose first half was asked before `begin` proves nothing
        self._open_by = process_id if self._job_asked else None
        self._answered = False
