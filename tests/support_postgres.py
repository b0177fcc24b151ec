"""A throw-away PostgreSQL cluster for tests: started once, on a socket of its own, gone at the end.

`postgres_url` is a fresh, empty database per test, on SQLAlchemy's terms; the fixtures are known to every test
through `tests/conftest.py`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from tests.support_dicom import free_port


@dataclass(frozen=True)
class Cluster:
    socket: Path
    port: int

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@/{database}?host={self.socket}&port={self.port}"

    def new_database(self) -> str:
        """A fresh database; returns its SQLAlchemy URL."""
        name = f"t{secrets.token_hex(6)}"
        with psycopg.connect(
            host=str(self.socket), port=self.port, user="postgres", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if not found:
        pytest.skip("PostgreSQL is not installed (package postgresql)")
    return found[-1].parent


def _as_server_user(command: Sequence[str]) -> list[str]:
    """PostgreSQL refuses to run as root: then its own account runs it."""
    if os.geteuid() != 0:
        return list(command)
    if shutil.which("runuser"):
        return ["runuser", "-u", "postgres", "--", *command]
    pytest.skip("running as root, and there is no runuser to start PostgreSQL as its own account")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    programs = _programs()
    # Short, because a socket's path is limited to some 100 characters.
    folder = Path(tempfile.mkdtemp(prefix="sppg-"))
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


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(
        _as_server_user(command), check=False, capture_output=True, text=True, timeout=60, cwd="/"
    )
    if done.returncode != 0:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stdout[-500:]} {done.stderr[-500:]}")
