"""When a printer is counted on for the next print, and when it is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from service.domain.print_job import PrintState
from service.domain.printer_free import Running, free_at
from service.ports import PrinterState

NOW = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
_TURNOVER_MIN = 30
_HALF = Running(7200.0, 3600.0, PrintState.PRINTING)


@pytest.mark.parametrize(
    ("state", "job", "minutes"),
    [
        ("idle", None, 0),
        ("idle", Running(7200.0, 0.0, PrintState.INTENT), 120 + _TURNOVER_MIN),
        ("busy", _HALF, 60 + _TURNOVER_MIN),
        ("busy", Running(7200.0, 3600.0), 60 + _TURNOVER_MIN),
        ("busy", Running(7200.0, 7210.0, PrintState.PRINTING), _TURNOVER_MIN),
        ("awaiting_removal", None, _TURNOVER_MIN),
        ("awaiting_removal", Running(7200.0, 7200.0), _TURNOVER_MIN),
        ("idle", Running(7200.0, 7200.0, PrintState.AWAITING_REMOVAL), _TURNOVER_MIN),
        ("busy", None, None),
        ("busy", Running(None, 60.0), None),
        ("busy", Running(7200.0, 9000.0), None),
        ("busy", Running(7200.0, 60.0, paused=True), None),
        ("busy", Running(7200.0, 60.0, PrintState.PAUSED), None),
        ("idle", Running(7200.0, 60.0, PrintState.UNKNOWN), None),
        ("silent", None, None),
        ("silent", _HALF, None),
        ("error", None, None),
        ("booting", None, None),
        ("needs_person", _HALF, None),
        (None, None, None),
    ],
)
def test_free_when(state: str | None, job: Running | None, minutes: int | None):
    assert state is None or state in set(PrinterState)
    found = free_at(state, NOW, job, NOW)
    assert found.at == (None if minutes is None else NOW + timedelta(minutes=minutes))
    assert bool(found.reason) == (minutes is None)


def test_an_old_reading_says_nothing_of_now():
    assert free_at("idle", NOW - timedelta(minutes=10), None, NOW).at is None
