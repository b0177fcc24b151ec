"""Migration 0009 on a database that was in use: approvals in force are bound to the G-code made from them."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, inspect, text

from service.store.database import MIGRATIONS, open_engine
from service.store.tables import metadata

_STATES = {"c1": "SLICED", "c2": "APPROVED", "c3": "NEEDS_ATTENTION", "c4": "SLICED"}


def _fill(connection: Connection) -> None:
    """Cases in several states, each with an approval and a current G-code; `c4` has a voided approval."""
    known = {c["name"]: c for c in inspect(connection).get_columns("cases")}
    for case_id, state in _STATES.items():
        row = {
            name: 0 if "INT" in str(c["type"]) or "BOOL" in str(c["type"]) else f"{case_id}{name}"
            for name, c in known.items()
            if not c["nullable"]
        }
        row |= {"id": case_id, "state": state, "inputs": "{}"}
        names = ", ".join(row)
        connection.execute(text(f"INSERT INTO cases ({names}) VALUES (:{', :'.join(row)})"), row)
        connection.execute(
            text(
                "INSERT INTO artifacts (id, case_id, kind, path, sha256, size, current, created_at) "
                "VALUES (:old, :case, 'gcode', 'p', 'before', 1, 0, 'x'), (:new, :case, 'gcode', 'p', :sha, 1, 1, 'x')"
            ),
            {"old": f"o{case_id}", "new": f"n{case_id}", "case": case_id, "sha": f"sha-{case_id}"},
        )
        connection.execute(
            text(
                "INSERT INTO approvals (id, case_id, plan_sha256, mesh_sha256, approved_by, approved_at, voided_at) "
                "VALUES (:id, :case, 'p', 'm', 'lin', 'x', :voided)"
            ),
            {"id": f"a{case_id}", "case": case_id, "voided": "x" if case_id == "c4" else None},
        )


def test_approvals_in_force_are_bound_and_the_schema_is_that_of_the_tables(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'old.sqlite3'}")
    settings = Config()
    settings.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, "0008")
        connection.execute(text("PRAGMA defer_foreign_keys = ON"))
        _fill(connection)
        command.upgrade(settings, "head")
        bound = {
            r.id: r.gcode_sha256 for r in connection.execute(text("SELECT id, gcode_sha256 FROM approvals"))
        }
        assert bound == {"ac1": "sha-c1", "ac2": "", "ac3": "sha-c3", "ac4": ""}
        for table in ("approvals", "printer_notes"):
            columns = {c["name"] for c in inspect(connection).get_columns(table)}
            assert columns == set(metadata.tables[table].columns.keys())
        command.downgrade(settings, "0008")
        assert "printer_notes" not in inspect(connection).get_table_names()
        assert "gcode_sha256" not in {c["name"] for c in inspect(connection).get_columns("approvals")}
        for table in ("approvals", "artifacts", "cases"):
            connection.execute(text(f"DELETE FROM {table}"))
    engine.dispose()
