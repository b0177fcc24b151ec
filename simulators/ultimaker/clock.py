"""The machine's own clock: real time, faster, or moved by hand."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class MachineClock:
    """Unix seconds of the machine. `speed` 1 is real time, 0 stands still until `advance`."""

    def __init__(self, speed: float, start_s: float | None = None) -> None:
        self._speed = speed
        self._base_s = time.time() if start_s is None else start_s
        self._since = time.monotonic()

    @property
    def speed(self) -> float:
        return self._speed

    def now_s(self) -> float:
        return self._base_s + (time.monotonic() - self._since) * self._speed

    def advance(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError("a clock does not go back")
        self._base_s += seconds

    def set_speed(self, speed: float) -> None:
        if speed < 0:
            raise ValueError("speed must be 0 or more")
        self._base_s, self._since = self.now_s(), time.monotonic()
        self._speed = speed


def stamp(seconds: float | None) -> str | None:
    """Naive ISO 8601 in UTC without fraction, as the printer writes it (sheet section 1); None stays None."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%S")
