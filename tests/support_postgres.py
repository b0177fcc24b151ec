"""A throw-away PostgreSQL cluster for tests: started once, on a socket of its own, gone at the end.

`postgres_url` is a fresh, empty database per test, on SQLAlchemy's terms, `migrated_postgres_url` one with the present
schema; the fixtures are known to every test through `tests/conftest.py`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from service.store.database import migrate, open_engine
from tests.support_dicom import free_port

_MIGRATED = "migrated"
_MEMORY, _ROOM_BYTES = Path("/dev/shm"), 1 << 30


@dataclass(frozen=True)
class Cluster:
    socket: Path
    port: int

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@/{database}?host={self.socket}&port={self.port}"

    def new_database(self, template: str = "template1") -> str:
        """A fresh copy of the template (empty by default); returns its SQLAlchemy URL."""
        name = f"t{secrets.token_hex(6)}"
        self._create(name, template)
        return self.url(name)

    def migrated_database(self) -> str:
        """A fresh database with the present schema; its SQLAlchemy URL.

        The migrations run once in a cluster and are copied from then on: one run of them takes longer than most tests.
        """
        with self._connected() as connection:
            known = connection.execute(
                "SELECT 1 FROM pg_database WHERE datname = %s", (_MIGRATED,)
            ).fetchone()
        if known is None:
            self._create(_MIGRATED, "template1")
            engine = open_engine(self.url(_MIGRATED))
            migrate(engine)
            engine.dispose()  # a template that somebody is connected to cannot be copied
        return self.new_database(_MIGRATED)

    def _create(self, name: str, template: str) -> None:
        with self._connected() as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')

    def _connected(self) -> psycopg.Connection:
        return psycopg.connect(
            host=str(self.socket), port=self.port, user="postgres", dbname="postgres", autocommit=True
        )


class NoPostgresError(RuntimeError):
    """There is no PostgreSQL here that can be started."""


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if not found:
        raise NoPostgresError("PostgreSQL is not installed (package postgresql)")
    return found[-1].parent


def _as_server_user(command: Sequence[str]) -> list[str]:
    """PostgreSQL refuses to run as root: then its own account runs it."""
    if os.geteuid() != 0:
        return list(command)
    if shutil.which("runuser"):
        return ["runuser", "-u", "postgres", "--", *command]
    raise NoPostgresError("running as root, and there is no runuser to start PostgreSQL as its own account")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    with ExitStack() as stack:
        try:
            cluster = stack.enter_context(running_cluster())
        except NoPostgresError as exc:
            pytest.skip(str(exc))
        yield cluster


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A cluster of its own, started and gone at the end. Raises NoPostgresError."""
    programs = _programs()
    # Short, because a socket's path is limited to some 100 characters.
    folder = Path(tempfile.mkdtemp(prefix="sppg-", dir=_quick_folder()))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        folder.chmod(0o755)
        data, port = folder / "data", free_port()
        _run(
            [
                str(programs / "initdb"),
                "-D",
                str(data),
                "-A",
                "trust",
                "-U",
                "postgres",
                "--no-sync",
                "-E",
                "UTF8",
            ]
        )
        options = (
            f"-c listen_addresses='' -c unix_socket_directories='{folder}' -p {port} -c max_connections=60"
        )
        start = [str(programs / "pg_ctl"), "-D", str(data), "-w", "-t", "30", "-l", str(folder / "log")]
        _run([*start, "-o", options, "start"])
        try:
            yield Cluster(folder, port)
        finally:
            _run([str(programs / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres: Cluster) -> str:
    return postgres.new_database()


@pytest.fixture
def migrated_postgres_url(postgres: Cluster) -> str:
    return postgres.migrated_database()


def _quick_folder() -> Path | None:
    """Memory for the cluster's files, if there is room: fsync stays on, as the service demands, and is free."""
    usable = os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES
    return _MEMORY if usable else None


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(
        _as_server_user(command), check=False, capture_output=True, text=True, timeout=60, cwd="/"
    )
    if done.returncode != 0:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stdout[-500:]} {done.stderr[-500:]}")
