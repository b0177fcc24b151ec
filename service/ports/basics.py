"""Time and telling people."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time, UTC-aware. Durations are measured with `time.monotonic`, never with this."""

    def now(self) -> datetime: ...


class Notifier(Protocol):
    """Tells people that something needs them. Must not raise; must not carry patient data."""

    def notify(self, topic: str, message: str, *, case_code: str | None = None) -> None: ...
