"""In which order cases are printed, and when each part can be ready.

By the time of the operation. A case without one counts as if it were operated on `UNDATED_DAYS` after it came: its
place is then fixed too, and cases that come later with later dates never pass it for ever. A case whose operation
should have been is last, and starts only when a person names it: its part may not be wanted any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

#: Proposal (P): time between CT and operation that a site plans with when no date is entered.
UNDATED_DAYS = 7.0
#: Proposal (P): taking the part off, clearing the plate, starting the next.
TURNOVER_MIN = 30.0


@dataclass(frozen=True)
class Waiting:
    """A sliced case. `since` is when it came; times are UTC."""

    case_id: str
    code: str
    since: datetime
    surgery_at: datetime | None
    print_s: float

    gcode_sha256: str = ""
    """Of the file that would be printed."""
    weight_g: float | None = None
    cost: Mapping[str, Any] | None = None
    """As `costs.estimate` at the time of slicing; None where nothing has a price."""

    @property
    def wanted_by(self) -> datetime:
        return self.surgery_at or self.since + timedelta(days=UNDATED_DAYS)

    def overdue(self, now: datetime) -> bool:
        """The time of its operation has passed. A case without one is never overdue."""
        return self.surgery_at is not None and self.surgery_at <= now


@dataclass(frozen=True)
class Forecast:
    """`ready_by` is after clean-up, packing and sterilisation, when nothing goes wrong and nobody sleeps."""

    waiting: Waiting
    printer: str
    print_start: datetime
    print_end: datetime
    ready_by: datetime
    late_h: float | None
    """How much later than the operation; None without a date, 0 when in time."""


def in_order(waiting: Sequence[Waiting], now: datetime) -> list[Waiting]:
    """The next to print first; the overdue last."""
    return sorted(waiting, key=lambda w: (w.overdue(now), w.wanted_by, w.since, w.code))


def forecast(
    waiting: Sequence[Waiting], free_at: Mapping[str, datetime], after_print: timedelta, now: datetime
) -> list[Forecast]:
    """Each case but the overdue, in order, on the printer that is free first. Empty when there is no printer.

    `free_at` is when each printer that can be counted on can begin; `after_print` from the end of a print to the
    pack in theatre.
    """
    free = dict(free_at)
    found: list[Forecast] = []
    for case in in_order(waiting, now) if free else []:
        if case.overdue(now):
            continue
        printer = min(free, key=lambda name: (free[name], name))
        start = free[printer]
        end = start + timedelta(seconds=case.print_s)
        ready = end + after_print
        late = None
        if case.surgery_at is not None:
            late = round(max(0.0, (ready - case.surgery_at).total_seconds() / 3600.0), 2)
        found.append(Forecast(case, printer, start, end, ready, late))
        free[printer] = end + timedelta(minutes=TURNOVER_MIN)
    return found
