"""The audit chain: whatever is done to its rows afterwards is found, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, delete, insert, select, update

from service.errors import StorageError
from service.store import audit
from service.store.database import open_engine, reading, transaction
from service.store.tables import audit as rows
from service.store.tables import audit_head, metadata

AT = datetime(2026, 1, 5, 8, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path):
    url = (
        f"sqlite:///{tmp_path / 'audit.sqlite3'}"
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_url")
    )
    opened = open_engine(url)
    metadata.create_all(opened, tables=[rows, audit_head])
    yield opened
    opened.dispose()


def _append(engine: Engine, n: int = 1) -> None:
    with transaction(engine) as connection:
        for i in range(n):
            audit.append(
                connection,
                at=AT,
                actor="surgeon",
                subject=f"case:{i % 2}",
                event="approve",
                data={"n": i, "ä": "é☂"},
            )


def _first_break(engine: Engine) -> int | None:
    with reading(engine) as connection:
        return audit.verify_chain(connection)


def test_an_empty_chain_and_a_grown_one_are_whole(engine: Engine):
    assert _first_break(engine) is None
    _append(engine, 5)
    _append(engine)
    assert _first_break(engine) is None


def test_history_gives_back_what_was_written(engine: Engine):
    _append(engine, 3)
    with reading(engine) as connection:
        found = audit.history(connection, "case:0")
    assert [r.seq for r in found] == [1, 3]
    assert found[1].data == {"n": 2, "ä": "é☂"}
    assert (found[0].at, found[0].actor, found[0].event) == (AT, "surgeon", "approve")


def _changed(column: str) -> Callable[[Connection], object]:
    value = {"previous_hash": "0" * 64, "hash": "f" * 64, "at": "2026-01-05T08:00:00.123457+00:00"}.get(
        column, "{}"
    )
    return lambda c: c.execute(update(rows).where(rows.c.seq == 3).values({column: value}))


def _swapped(c: Connection) -> None:
    c.execute(update(rows).where(rows.c.seq == 3).values(seq=99))
    c.execute(update(rows).where(rows.c.seq == 4).values(seq=3))
    c.execute(update(rows).where(rows.c.seq == 99).values(seq=4))


def _renumbered(c: Connection) -> None:
    c.execute(delete(rows).where(rows.c.seq == 3))
    for seq in (4, 5, 6):
        c.execute(update(rows).where(rows.c.seq == seq).values(seq=seq - 1))
    c.execute(update(audit_head).values(seq=5))


def _rehashed(c: Connection) -> None:
    """The forger makes the row's own hash right again, but not those behind it."""
    r = c.execute(select(rows).where(rows.c.seq == 3)).one()
    digest = audit.row_hash(r.previous_hash, 3, r.at, "somebody", r.subject, r.event, r.data)
    c.execute(update(rows).where(rows.c.seq == 3).values(actor="somebody", hash=digest))


def _slipped_in(c: Connection) -> None:
    r = c.execute(select(rows).where(rows.c.seq == 6)).one()
    c.execute(insert(rows).values({**r._mapping, "seq": 7}))


@pytest.mark.parametrize(
    ("forge", "found_at"),
    [
        *((_changed(c), 3) for c in ("actor", "subject", "event", "data", "at", "hash", "previous_hash")),
        (lambda c: c.execute(delete(rows).where(rows.c.seq == 3)), 3),
        (lambda c: c.execute(delete(rows).where(rows.c.seq == 1)), 1),
        (_swapped, 3),
        (_renumbered, 3),
        (_rehashed, 4),
        (_slipped_in, 7),
        (lambda c: c.execute(delete(rows).where(rows.c.seq == 6)), 6),  # the end cut off
        (lambda c: c.execute(delete(rows)), 1),
        (lambda c: c.execute(delete(audit_head)), 1),
    ],
)
def test_every_forgery_is_found(engine: Engine, forge: Callable[[Connection], object], found_at: int):
    _append(engine, 6)
    with transaction(engine) as connection:
        forge(connection)
    assert _first_break(engine) == found_at


def test_rows_added_and_cut_off_again_are_missed_by_nobody(engine: Engine):
    _append(engine, 4)
    with reading(engine) as connection:
        before = connection.execute(select(audit_head)).one()
    _append(engine, 2)
    with transaction(engine) as connection:
        connection.execute(delete(rows).where(rows.c.seq > 4))
    assert _first_break(engine) == 5
    with reading(engine) as connection:
        assert connection.execute(select(audit_head)).one() != before


def test_no_content_imitates_a_field_boundary():
    a = audit.row_hash("0", 1, "t", "a", "b", "c", "d")
    assert a != audit.row_hash("0", 1, "t", 'a","b', "", "c", "d")
    assert a != audit.row_hash("0", 1, "ta", "", "b", "c", "d")


def test_the_hash_does_not_depend_on_the_order_of_keys():
    assert audit.canonical({"b": 1, "a": AT}) == audit.canonical({"a": AT, "b": 1})
    assert json.loads(audit.canonical({"a": AT}))


def test_a_transaction_that_fails_leaves_no_row(engine: Engine):
    _append(engine, 2)

    class BreakError(Exception):
        pass

    def spoil() -> None:
        with transaction(engine) as connection:
            audit.append(connection, at=AT, actor="x", subject="case:9", event="e", data={})
            raise BreakError

    with pytest.raises(BreakError):
        spoil()
    _append(engine)
    assert _first_break(engine) is None
    with reading(engine) as connection:
        assert audit.history(connection, "case:9") == []


def test_many_writers_make_one_chain_from_the_very_first_row(engine: Engine):
    """Also when they do not go through `transaction`: the head row alone must keep the chain from forking."""
    start, failures = threading.Barrier(4), []

    def write(worker: int) -> None:
        start.wait(10)
        try:
            for i in range(10):
                with engine.begin() as connection:
                    audit.append(
                        connection, at=AT, actor=f"w{worker}", subject="case:1", event="e", data={"i": i}
                    )
        except Exception as exc:
            failures.append(exc)

    workers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join(30)
    assert failures == []
    assert _first_break(engine) is None
    with reading(engine) as connection:
        assert len(audit.history(connection, "case:1")) == 40


def test_the_check_is_right_while_others_write(engine: Engine):
    """The rows and the head must be of one moment; else a whole chain would be called broken."""
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            _append(engine)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert [_first_break(engine) for _ in range(40)] == [None] * 40
    finally:
        stop.set()
        writer.join(10)


def test_a_time_without_zone_does_not_enter(engine: Engine):
    with pytest.raises(ValueError, match="zone"), transaction(engine) as connection:
        audit.append(connection, at=AT.replace(tzinfo=None), actor="x", subject="s", event="e", data={})


def test_a_database_that_promises_less_is_refused(tmp_path: Path):
    with pytest.raises(StorageError) as caught:
        open_engine("sqlite://")  # in memory: no WAL
    assert caught.value.code == "storage.not_durable"
    with pytest.raises(StorageError) as caught:
        open_engine(f"sqlite:///{tmp_path / 'no' / 'folder' / 'x.sqlite3'}")
    assert caught.value.code == "storage.database"


def test_a_postgresql_without_durable_commits_is_refused(postgres_url: str):
    with pytest.raises(StorageError) as caught:
        open_engine(f"{postgres_url}&options=-csynchronous_commit%3Doff")
    assert caught.value.code == "storage.not_durable"
