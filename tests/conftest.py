"""Fixtures that every test may ask for by name."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from service.workflow import identity
from tests.support_app import Rig, make_rig
from tests.support_postgres import migrated_postgres_url, postgres, postgres_url

__all__ = ["any_rig", "migrated_postgres_url", "postgres", "postgres_url", "rig"]

# an activated virtual environment would put pynetdicom's programs before those of DCMTK that have the same names
_OWN_PROGRAMS = str(Path(sys.prefix) / "bin")
os.environ["PATH"] = os.pathsep.join(
    p for p in os.environ.get("PATH", os.defpath).split(os.pathsep) if p != _OWN_PROGRAMS
)

# The tests' folders in memory where there is room: what a database or the DICOM node confirms is on the disk (fsync) is
# waited for many thousand times. A kill -9 loses nothing there either; the power is never cut in a test.
_MEMORY, _ROOM_BYTES = Path("/dev/shm"), 6 << 30
if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))

#: Files that take longest, in this order at the start: one begun last would be left running alone.
_LONGEST = ("test_kill.py", "test_journey.py", "test_wrong_input.py", "test_print_campaign.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole journeys first, then files that compute among files that wait, so that no processor stands idle."""
    files = {path: list(tests) for path, tests in groupby(items, lambda item: item.path)}
    long = sorted((p for p in files if p.name in _LONGEST), key=lambda p: _LONGEST.index(p.name))
    rest = [p for p in files if p not in long]
    folders = {p.parent for p in rest}
    place = {p: (n + 0.5) / len(mine) for mine in ([p for p in rest if p.parent == f] for f in folders)
             for n, p in enumerate(mine)}  # fmt: skip
    rest.sort(key=lambda p: (p.parent.name != "e2e", place[p], p.name))
    items[:] = [test for path in (*long, *rest) for test in files[path]]


@pytest.fixture(scope="session", autouse=True)
def quick_passwords() -> Iterator[None]:
    """Argon2id at its least cost: at its own it takes a quarter of a second, and the tests log in a thousand times.

    Services in processes of their own keep theirs, and `test_identity` looks at what it is.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "_HASHER", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        yield


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """The service on a fresh SQLite database; see `tests.support_app`."""
    made = make_rig(tmp_path)
    yield made
    made.app.engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def any_rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """The same on SQLite and on a real PostgreSQL."""
    url = "" if request.param == "sqlite" else request.getfixturevalue("migrated_postgres_url")
    made = make_rig(tmp_path, database_url=url)
    yield made
    made.app.engine.dispose()
