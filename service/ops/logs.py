"""Logs: one JSON line per event on standard error. Patient data never goes in (see docs/security.md)."""

from __future__ import annotations

import logging
import sys

import structlog


def set_up(level: str) -> None:
    """Route standard logging and structlog through one JSON formatter."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in (
        "pynetdicom",
        "uvicorn.access",
        "dbos",
        "alembic",
        "PIL",
        "urllib3",
        "highdicom",
        "pydicom",
    ):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


class LogNotifier:
    """Tells people through the log; the pages show the same from the tables. Messages carry no patient data."""

    def notify(self, topic: str, message: str, *, case_code: str | None = None) -> None:
        logging.getLogger("spineprint.notify").warning(
            message, extra={"topic": topic, "case": case_code or ""}
        )
