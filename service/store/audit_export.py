"""The audit chain as a file of JSON lines: anyone can check it without the database, and read it back in.

One line a row, with the row's own hash and that of the row before; the last line is the head, so that an end cut
off is noticed. Checking needs this file alone: the hashes are computed again from the content.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Connection, insert, select

from service.errors import ConflictError, InputRefusedError
from service.store.audit import GENESIS, row_hash
from service.store.tables import audit, audit_head

SCHEMA = "spineprint.audit/1"
_FIELDS = ("seq", "at", "actor", "subject", "event", "data", "previous_hash", "hash")
_BATCH = 500


def export_lines(connection: Connection) -> Iterator[str]:
    """The whole chain, oldest row first, then the head; each line ends in a line feed."""
    yield json.dumps({"schema": SCHEMA}) + "\n"
    for row in connection.execute(select(audit).order_by(audit.c.seq)):
        yield json.dumps({name: getattr(row, name) for name in _FIELDS}, ensure_ascii=False) + "\n"
    head = connection.execute(select(audit_head).where(audit_head.c.id == 1)).one_or_none()
    yield (
        json.dumps({"head": {"seq": head.seq if head else 0, "hash": head.hash if head else GENESIS}}) + "\n"
    )


def check_lines(lines: Iterable[str]) -> int:
    """Recompute every hash of an exported chain; the number of its rows.

    Raises
    ------
    InputRefusedError : with code `audit.export` and the number of the first row that does not fit.
    """
    return sum(1 for _ in _checked(lines))


def import_lines(connection: Connection, lines: Iterable[str]) -> int:
    """Write an exported chain into a database that has none; the number of rows written.

    Every row is checked before it is written; the caller's transaction keeps all of them or none.

    Raises
    ------
    ConflictError : the database has an audit chain of its own.
    InputRefusedError : as `check_lines`.
    """
    if connection.execute(select(audit.c.seq).limit(1)).one_or_none():
        raise ConflictError(
            "The database has an audit chain already; two chains cannot become one.",
            next_step="Import into a new, empty database.",
            code="audit.not_empty",
        )
    batch: list[dict[str, Any]] = []
    last, count = GENESIS, 0
    for row in _checked(lines):
        batch.append(row)
        last, count = row["hash"], count + 1
        if len(batch) == _BATCH:
            connection.execute(insert(audit), batch)
            batch = []
    if batch:
        connection.execute(insert(audit), batch)
    if count:
        connection.execute(insert(audit_head).values(id=1, seq=count, hash=last))
    return count


def _checked(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Rows of the file, each proven to follow from the one before; at the end the head must fit as well."""
    previous, count, head = GENESIS, 0, None
    for number, line in enumerate(lines):
        value = _parsed(line, count + 1)
        if number == 0:
            if value != {"schema": SCHEMA}:
                raise _broken(1, f"the first line does not say {SCHEMA}")
        elif head is not None:
            raise _broken(count, "there is something behind the head")
        elif set(value) == {"head"}:
            head = value["head"]
        else:
            _check_row(value, previous, count + 1)
            previous, count = value["hash"], count + 1
            yield value
    if head != {"seq": count, "hash": previous}:
        raise _broken(count + 1, "the head does not fit the last row, or is missing: the end was cut off")


def _check_row(row: dict[str, Any], previous: str, expected: int) -> None:
    if set(row) != set(_FIELDS) or type(row["seq"]) is not int:
        raise _broken(expected, "its fields are not those of an audit row")
    texts = [row[name] for name in ("at", "actor", "subject", "event", "data")]
    if not all(isinstance(text, str) for text in texts):
        raise _broken(expected, "its fields are not those of an audit row")
    if row["seq"] != expected or row["previous_hash"] != previous:
        raise _broken(expected, "it does not follow the row before")
    if row["hash"] != row_hash(previous, row["seq"], *texts):
        raise _broken(expected, "its content is not what was hashed")


def _parsed(line: str, row: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise _broken(row, "it is not a JSON object")
    return value


def _broken(row: int, why: str) -> InputRefusedError:
    return InputRefusedError(
        f"The exported audit chain breaks at row {row}: {why}.",
        next_step="Export it again from the database; if that breaks too, compare with the last backup.",
        code="audit.export",
        details={"row": row},
    )
