"""Fixtures that every test may ask for by name."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support_app import Rig, make_rig
from tests.support_postgres import postgres, postgres_url

__all__ = ["any_rig", "postgres", "postgres_url", "rig"]

# an activated virtual environment would put pynetdicom's programs before those of DCMTK that have the same names
_OWN_PROGRAMS = str(Path(sys.prefix) / "bin")
os.environ["PATH"] = os.pathsep.join(
    p for p in os.environ.get("PATH", os.defpath).split(os.pathsep) if p != _OWN_PROGRAMS
)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """The service on a fresh SQLite database; see `tests.support_app`."""
    made = make_rig(tmp_path)
    yield made
    made.app.engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def any_rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """The same on SQLite and on a real PostgreSQL."""
    url = "" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    made = make_rig(tmp_path, database_url=url)
    yield made
    made.app.engine.dispose()
