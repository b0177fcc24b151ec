"""Backup of a running service, and restore into an empty folder."""

from __future__ import annotations

import shutil
import sqlite3
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path

from sqlalchemy.engine import make_url

from service.config import Config
from service.errors import ConflictError, InputRefusedError

#: Folders with what cannot be made again. `work` and `uploads` are scratch; the queue is rebuilt from the cases.
_FOLDERS = ("dicom", "dicom-web", "cases", "sterile")
_DATABASE = "spineprint.sqlite3"


def make_backup(config: Config, to: Path) -> str:
    """Write one tar file. The database is copied first, so every file it names is in the archive.

    Raises
    ------
    InputRefusedError : the database is not SQLite (use the database server's own backup), or the target exists.
    """
    if config.database_url and not config.database_url.startswith("sqlite"):
        raise InputRefusedError(
            "The database is a server.", code="backup.server",
            next_step="Back it up with the server's own tool, then copy the folders dicom, dicom-web, cases, sterile.",
        )  # fmt: skip
    source_path = _database_path(config)
    if not source_path.is_file():
        raise InputRefusedError(
            "There is no database to back up.",
            next_step="Check data_dir and database_url of the configuration.",
            code="backup.no_database",
        )
    if to.exists():
        raise InputRefusedError(
            f"{to.name} exists already.", next_step="Choose another name.", code="backup.exists"
        )
    partial = to.with_name(f".{to.name}.part")
    with tempfile.TemporaryDirectory(dir=to.parent) as scratch:
        copy = Path(scratch) / _DATABASE
        with closing(sqlite3.connect(source_path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        with tarfile.open(partial, "w") as archive:
            archive.add(copy, _DATABASE)
            for name in _FOLDERS:
                if (config.data_dir / name).is_dir():
                    archive.add(config.data_dir / name, name)
    partial.replace(to)
    return f"Backup written: {to} ({to.stat().st_size >> 20} MB)"


def restore_backup(config: Config, source: Path) -> str:
    """Unpack a backup into the configured, empty data folder. Raises ConflictError when it is not empty."""
    if config.data_dir.exists() and any(config.data_dir.iterdir()):
        raise ConflictError(
            "The data folder is not empty.", code="restore.not_empty",
            next_step="Stop the service, move the old folder away, then restore.",
        )  # fmt: skip
    database = _database_path(config)
    if database.exists():
        raise ConflictError(
            "There is a database already.",
            next_step="Stop the service, move the old database away, then restore.",
            code="restore.not_empty",
        )
    config.data_dir.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(source) as archive:
            archive.extractall(config.data_dir, filter="data")
    except tarfile.TarError as exc:
        raise InputRefusedError(
            f"{source.name} is not a whole backup.", next_step="Choose another file.", code="restore.damaged"
        ) from exc
    unpacked = config.data_dir / _DATABASE
    if unpacked.is_file() and unpacked.resolve() != database:
        shutil.move(unpacked, database)
    return f"Restored into {config.data_dir}. Start the service; it brings the schema up to date."


def _database_path(config: Config) -> Path:
    """The SQLite file, wherever database_url puts it."""
    return Path(make_url(config.resolved_database_url).database or "").resolve()
