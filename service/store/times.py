"""Times in the database: UTC, ISO 8601 with microseconds, as text that sorts."""

from __future__ import annotations

from datetime import UTC, datetime


def to_text(at: datetime) -> str:
    if at.tzinfo is None:
        raise ValueError("a time without zone must not enter the database")
    return at.astimezone(UTC).isoformat(timespec="microseconds")


def from_text(text: str) -> datetime:
    return datetime.fromisoformat(text)


def maybe(text: str | None) -> datetime | None:
    return from_text(text) if text else None
