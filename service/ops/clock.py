"""The clocks: the machine's, and one that a demonstration may move forward."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from service.errors import ConflictError, InputRefusedError


class SystemClock:
    """Wall time of this machine, UTC."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class SimulationClock:
    """Wall time plus an offset that survives restarts; only with `[simulation] enabled`."""

    def __init__(self, offset_s: float, save: Callable[[float], None]) -> None:
        self._save = save
        self._lock = threading.Lock()
        self._offset = timedelta(seconds=offset_s)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._offset

    def advance(self, hours: float) -> datetime:
        """Let `hours` pass at once. Raises InputRefusedError for a step backwards or beyond 60 days."""
        if not 0 < hours <= 24 * 60:
            raise InputRefusedError(
                "The clock can be moved forward by up to 60 days at a time.",
                next_step="Give a number of hours above 0.",
                code="simulation.hours",
            )
        with self._lock:
            offset = self._offset + timedelta(hours=hours)
            self._save(offset.total_seconds())
            self._offset = offset
        return self.now()


def advance(clock: object, hours: float) -> datetime:
    """Move the clock when it is a simulated one. Raises ConflictError on a real service."""
    if not isinstance(clock, SimulationClock):
        raise ConflictError(
            "This service runs on real time.",
            code="simulation.off",
            next_step="Only a service started with [simulation] enabled can skip time.",
        )
    return clock.advance(hours)
