"""An exported audit chain proves itself, and comes back whole; any change to the file is found at its row."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli import main_app
from service.errors import ConflictError, InputRefusedError
from service.store import audit
from service.store.audit_export import check_lines, export_lines, import_lines
from service.store.database import migrate, open_engine, reading, transaction
from tests.support_app import Rig, make_rig

ROWS = 6


@pytest.fixture
def lines(any_rig: Rig) -> list[str]:
    with transaction(any_rig.app.engine) as connection:
        for i in range(ROWS):
            audit.append(
                connection, at=any_rig.clock.now(), actor="sue", subject=f"load:{i}", event="release",
                data={"n": i, "ä": "é☂\u2028"},
            )  # fmt: skip
    with reading(any_rig.app.engine) as connection:
        return list(export_lines(connection))


def test_an_export_verifies_and_comes_back_the_same(lines: list[str], tmp_path: Path) -> None:
    assert check_lines(lines) == ROWS
    other = open_engine(f"sqlite:///{tmp_path / 'other.sqlite3'}")
    migrate(other)
    with transaction(other) as connection:
        assert import_lines(connection, lines) == ROWS
    with reading(other) as connection:
        assert audit.verify_chain(connection) is None
        assert list(export_lines(connection)) == lines
    with transaction(other) as connection, pytest.raises(ConflictError):
        import_lines(connection, lines)
    # the chain goes on where it ended
    with transaction(other) as connection:
        seq = audit.append(
            connection, at=datetime(2026, 1, 6, tzinfo=UTC), actor="x", subject="x", event="x", data={}
        )
        assert (seq, audit.verify_chain(connection)) == (ROWS + 1, None)
    other.dispose()


def test_an_empty_chain_is_a_chain(rig: Rig) -> None:
    with reading(rig.app.engine) as connection:
        assert check_lines(export_lines(connection)) == 0


def _edited(field: str, value: object) -> Callable[[list[str]], None]:
    def edit(lines: list[str]) -> None:
        lines[3] = json.dumps(json.loads(lines[3]) | {field: value}) + "\n"

    return edit


def _swap(lines: list[str]) -> None:
    lines[3], lines[4] = lines[4], lines[3]


@pytest.mark.parametrize(
    ("forge", "row"),
    [
        (_edited("actor", "bob"), 3),
        (_edited("at", "2030-01-01T00:00:00+00:00"), 3),
        (_edited("event", "fail"), 3),
        (_edited("subject", "load:9"), 3),
        (_edited("data", "{}"), 3),
        (_edited("data", {"n": 2}), 3),
        (_edited("hash", "0" * 64), 3),
        (_edited("previous_hash", "0" * 64), 3),
        (_edited("seq", 9), 3),
        (_edited("seq", True), 3),
        (_edited("more", 1), 3),
        (lambda lines: lines.pop(3), 3),
        (_swap, 3),
        (lambda lines: lines.insert(3, lines[3]), 4),
        (lambda lines: lines.pop(), ROWS + 1),
        (lambda lines: lines.pop(ROWS), ROWS),
        (lambda lines: lines.append(lines[-2]), ROWS),
        (lambda lines: lines.pop(0), 1),
        (lambda lines: lines.__setitem__(2, "no json\n"), 2),
    ],
)
def test_whatever_is_done_to_the_file_is_found(
    lines: list[str], forge: Callable[[list[str]], object], row: int
) -> None:
    forge(lines)
    with pytest.raises(InputRefusedError) as caught:
        check_lines(lines)
    assert (caught.value.code, caught.value.details["row"]) == ("audit.export", row)


def test_nothing_of_a_broken_file_is_kept(lines: list[str], tmp_path: Path) -> None:
    _swap(lines)
    target = make_rig(tmp_path / "other")
    with pytest.raises(InputRefusedError), transaction(target.app.engine) as connection:
        import_lines(connection, lines)
    with reading(target.app.engine) as connection:
        assert list(export_lines(connection))[-1] == f'{{"head": {{"seq": 0, "hash": "{audit.GENESIS}"}}}}\n'
    target.app.engine.dispose()


def test_the_command_checks_a_file_by_itself(lines: list[str], tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    file.write_text("".join(lines), "utf-8")
    good = CliRunner().invoke(main_app, ["audit", "check", str(file)])
    assert good.exit_code == 0, good.output
    assert f"{ROWS} rows" in good.output
    _swap(lines)
    file.write_text("".join(lines), "utf-8")
    assert CliRunner().invoke(main_app, ["audit", "check", str(file)]).exit_code != 0
