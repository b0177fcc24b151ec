"""Opening the database so that what it confirms is really on the disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from service.errors import StorageError

MIGRATIONS = Path(__file__).parent / "migrations"


def open_engine(url: str) -> Engine:
    """An engine with durable settings, checked by reading them back.

    SQLite: WAL, synchronous=FULL, foreign keys, BEGIN IMMEDIATE. PostgreSQL: `synchronous_commit` on.

    Raises
    ------
    StorageError : the database cannot be opened or does not give these guarantees.
    """
    engine = (
        sqlite_engine(url)
        if url.startswith("sqlite")
        else create_engine(url, pool_pre_ping=True, pool_size=10)
    )
    try:
        with engine.connect() as connection:
            _check_durable(connection)
    except (SQLAlchemyError, OSError) as exc:
        raise StorageError(
            f"The database cannot be opened: {type(exc).__name__}: {exc.__cause__ or exc}",
            next_step="Check database_url, that the server runs, and that the data folder is writable.",
            code="storage.database",
        ) from exc
    return engine


def sqlite_engine(url: str) -> Engine:
    engine = create_engine(url, connect_args={"timeout": 30.0, "check_same_thread": False})

    def on_connect(dbapi_connection: object, _record: ConnectionPoolEntry) -> None:
        # The driver's own transaction handling is switched off: SQLAlchemy's BEGIN below is the only one.
        dbapi_connection.isolation_level = None  # type: ignore[attr-defined]
        cursor = dbapi_connection.cursor()  # type: ignore[attr-defined]
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def on_begin(connection: Connection) -> None:
        # Taking the write lock first turns "database is locked" half-way through into waiting at the start.
        # Readers need no lock: WAL gives them a snapshot.
        reading_only = connection.get_execution_options().get("reading_only", False)
        connection.exec_driver_sql("BEGIN" if reading_only else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    return engine


def _check_durable(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        journal = connection.execute(text("PRAGMA journal_mode")).scalar_one()
        synchronous = connection.execute(text("PRAGMA synchronous")).scalar_one()
        if str(journal).lower() != "wal" or int(synchronous) < 2:  # 2 = FULL
            raise StorageError(
                f"SQLite runs with journal_mode={journal}, synchronous={synchronous}; WAL and FULL are needed.",
                next_step="Put the data folder on a local disk (not a network share).",
                code="storage.not_durable",
            )
    else:
        commit = connection.execute(text("SHOW synchronous_commit")).scalar_one()
        fsync = connection.execute(text("SHOW fsync")).scalar_one()
        if commit == "off" or fsync != "on":
            raise StorageError(
                f"PostgreSQL runs with synchronous_commit={commit}, fsync={fsync}.",
                next_step="Switch both on for this database.",
                code="storage.not_durable",
            )


def migrate(engine: Engine) -> None:
    """Bring the schema to the newest revision (Alembic); safe to call at every start."""
    from alembic import command
    from alembic.config import Config as AlembicConfig

    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def is_full(exc: SQLAlchemyError) -> bool:
    """Whether the database failed because its disk is full (SQLITE_FULL; PostgreSQL class 53100)."""
    cause = getattr(exc, "orig", None)
    return (
        getattr(cause, "sqlite_errorname", "") == "SQLITE_FULL" or getattr(cause, "sqlstate", "") == "53100"
    )


#: Any number, the same in every process of this service.
_ONE_WRITER = 0x5350494E45


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """One transaction: everything in it happens, or nothing does. One at a time, over all processes.

    SQLite has one writer anyway (BEGIN IMMEDIATE). On PostgreSQL a lock taken first gives the same: what a use
    case reads stays true until it commits, and two of them cannot wait for each other's rows. Nothing is lost by
    it, since every step ends at the head of the one audit chain.
    """
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ONE_WRITER})
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One consistent view for reading; takes no write lock."""
    with engine.connect() as plain:
        if plain.dialect.name == "postgresql":
            # PostgreSQL's default shows every statement another moment.
            connection = plain.execution_options(isolation_level="REPEATABLE READ")
        else:
            connection = plain.execution_options(reading_only=True)
        yield connection
        connection.rollback()
