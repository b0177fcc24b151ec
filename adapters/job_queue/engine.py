"""The queue's own database: disposable, but durable while it lasts."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, create_engine, event

_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000")


def queue_engine(url: str) -> Engine:
    """An engine as DBOS wants it: the SQLite driver begins IMMEDIATE transactions itself; ours only adds WAL + FULL."""
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True, pool_size=10)
    engine = create_engine(url, connect_args={"timeout": 30.0, "check_same_thread": False})

    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        connection.isolation_level = "IMMEDIATE"

    event.listen(engine, "connect", on_connect)
    return engine
