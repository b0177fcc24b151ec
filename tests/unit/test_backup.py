"""Backup and restore: the database that is configured, whole, and nothing else overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.config import Config
from service.domain.case import CaseState
from service.errors import ConflictError, InputRefusedError
from service.ops.backup import make_backup, restore_backup
from service.store import audit, cases
from service.store.database import open_engine, reading
from tests.support_app import Rig, bring


def _with(rig: Rig, **changes: object) -> Config:
    return Config.model_validate(rig.app.config.model_dump() | changes)


def test_what_was_backed_up_comes_back(rig: Rig, tmp_path: Path):
    case = bring(rig, CaseState.PLAN_READY)
    make_backup(rig.app.config, tmp_path / "b.tar")
    target = _with(rig, data_dir=tmp_path / "new")
    restore_backup(target, tmp_path / "b.tar")
    engine = open_engine(target.resolved_database_url)
    with reading(engine) as connection:
        assert cases.get(connection, case.id) == case
        assert audit.verify_chain(connection) is None
    engine.dispose()
    assert list((tmp_path / "new" / "cases" / case.id).glob("mesh-*"))
    assert list((tmp_path / "new" / "dicom").iterdir())
    with pytest.raises(ConflictError):
        restore_backup(target, tmp_path / "b.tar")


def test_the_configured_database_is_the_one_backed_up(rig: Rig, tmp_path: Path):
    """Not an empty file where the default would be."""
    case = bring(rig, CaseState.RECEIVED)
    rig.app.engine.dispose()
    elsewhere = tmp_path / "elsewhere.sqlite3"
    (rig.app.config.data_dir / "spineprint.sqlite3").rename(elsewhere)
    make_backup(_with(rig, database_url=f"sqlite:///{elsewhere}"), tmp_path / "b.tar")
    assert not (rig.app.config.data_dir / "spineprint.sqlite3").exists()
    target = _with(rig, data_dir=tmp_path / "new", database_url=f"sqlite:///{tmp_path / 'other.sqlite3'}")
    restore_backup(target, tmp_path / "b.tar")
    engine = open_engine(target.resolved_database_url)
    with reading(engine) as connection:
        assert cases.get(connection, case.id).state is CaseState.RECEIVED
    engine.dispose()


def test_backups_that_cannot_be(rig: Rig, tmp_path: Path):
    with pytest.raises(InputRefusedError) as caught:
        make_backup(_with(rig, data_dir=tmp_path / "nowhere"), tmp_path / "b.tar")
    assert caught.value.code == "backup.no_database"
    with pytest.raises(InputRefusedError) as caught:
        make_backup(_with(rig, database_url="postgresql+psycopg://u@h/d"), tmp_path / "b.tar")
    assert caught.value.code == "backup.server"
    (tmp_path / "there.tar").write_bytes(b"")
    with pytest.raises(InputRefusedError) as caught:
        make_backup(rig.app.config, tmp_path / "there.tar")
    assert caught.value.code == "backup.exists"
    (tmp_path / "bad.tar").write_bytes(b"no archive at all")
    with pytest.raises(InputRefusedError) as caught:
        restore_backup(_with(rig, data_dir=tmp_path / "new"), tmp_path / "bad.tar")
    assert caught.value.code == "restore.damaged"
