"""Users, their sessions, and tokens for screens. Only hashes of secrets are stored."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from service.domain.people import Person, Role, Scope
from service.errors import ConflictError
from service.store import times
from service.store.tables import sessions, tokens, users


@dataclass(frozen=True)
class UserRow:
    person: Person
    password_hash: str
    active: bool
    failed_logins: int
    locked_until: datetime | None


def secret_hash(secret: str) -> str:
    """Sessions and tokens are long random strings: a plain hash protects them; passwords use argon2."""
    return hashlib.sha256(secret.encode()).hexdigest()


def add_user(connection: Connection, person: Person, password_hash: str) -> None:
    if find_user(connection, person.username):
        raise ConflictError(
            f"There is already a user '{person.username}'.",
            next_step="Choose another name.",
            code="user.exists",
        )
    connection.execute(
        insert(users).values(
            username=person.username,
            display_name=person.display_name,
            roles=sorted(r.value for r in person.roles),
            password_hash=password_hash,
        )
    )


def find_user(connection: Connection, username: str) -> UserRow | None:
    row = connection.execute(select(users).where(users.c.username == username)).one_or_none()
    if row is None:
        return None
    person = Person(row.username, row.display_name, frozenset(Role(r) for r in row.roles))
    return UserRow(
        person, row.password_hash, bool(row.active), row.failed_logins, times.maybe(row.locked_until)
    )


def list_users(connection: Connection) -> list[UserRow]:
    names = [r.username for r in connection.execute(select(users.c.username).order_by(users.c.username))]
    return [u for n in names if (u := find_user(connection, n)) is not None]


def change_user(connection: Connection, username: str, **values: object) -> None:
    connection.execute(update(users).where(users.c.username == username).values(**values))


def count_failed_login(connection: Connection, username: str) -> int:
    """One more wrong password; the count so far. Counted by the database, so that tries side by side all count."""
    counted = (
        update(users)
        .where(users.c.username == username)
        .values(failed_logins=users.c.failed_logins + 1)
        .returning(users.c.failed_logins)
    )
    return int(connection.execute(counted).scalar_one())


def add_session(
    connection: Connection, secret: str, username: str, now: datetime, expires_at: datetime
) -> None:
    connection.execute(delete(sessions).where(sessions.c.expires_at < times.to_text(now)))
    connection.execute(
        insert(sessions).values(
            token_hash=secret_hash(secret),
            username=username,
            created_at=times.to_text(now),
            expires_at=times.to_text(expires_at),
        )
    )


def session_user(connection: Connection, secret: str, now: datetime) -> UserRow | None:
    row = connection.execute(
        select(sessions).where(sessions.c.token_hash == secret_hash(secret))
    ).one_or_none()
    if row is None or times.from_text(row.expires_at) <= now:
        return None
    return find_user(connection, row.username)


def end_session(connection: Connection, secret: str) -> None:
    connection.execute(delete(sessions).where(sessions.c.token_hash == secret_hash(secret)))


def end_sessions_of(connection: Connection, username: str) -> None:
    connection.execute(delete(sessions).where(sessions.c.username == username))


@dataclass(frozen=True)
class Token:
    """A token without its secret; `bound_to` is the steriliser a machine's token speaks for."""

    name: str
    scopes: frozenset[Scope]
    bound_to: str
    created_at: datetime
    revoked_at: datetime | None


def add_token(
    connection: Connection,
    name: str,
    secret: str,
    scopes: frozenset[Scope],
    now: datetime,
    bound_to: str = "",
) -> None:
    if connection.execute(select(tokens.c.name).where(tokens.c.name == name)).one_or_none():
        raise ConflictError(
            f"There is already a token '{name}'.", next_step="Choose another name.", code="token.exists"
        )
    connection.execute(
        insert(tokens).values(
            token_hash=secret_hash(secret),
            name=name,
            scopes=sorted(s.value for s in scopes),
            bound_to=bound_to,
            created_at=times.to_text(now),
        )
    )


def token_of(connection: Connection, secret: str) -> Token | None:
    """The token in force with this secret."""
    row = connection.execute(
        select(tokens).where(tokens.c.token_hash == secret_hash(secret), tokens.c.revoked_at.is_(None))
    ).one_or_none()
    return _token(row) if row else None


def list_tokens(connection: Connection) -> list[Token]:
    return [_token(row) for row in connection.execute(select(tokens).order_by(tokens.c.name))]


def revoke_token(connection: Connection, name: str, now: datetime) -> bool:
    statement = update(tokens).where(tokens.c.name == name).values(revoked_at=times.to_text(now))
    return connection.execute(statement).rowcount == 1


def _token(row: Any) -> Token:
    return Token(
        row.name, frozenset(Scope(s) for s in row.scopes), row.bound_to, times.from_text(row.created_at),
        times.from_text(row.revoked_at) if row.revoked_at else None,
    )  # fmt: skip
