"""Who is there: logging in, sessions, signatures, tokens for screens."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from service.domain.people import Actor, Person, Role, Scope
from service.domain.sterilisation import Steriliser
from service.errors import ConflictError, InputRefusedError, NotAuthenticatedError, NotFoundError
from service.store import audit, people, sterile, times
from service.store.database import reading, transaction
from service.workflow.app import App

#: Checking a password is slow on purpose; a flood of logins must not take every core from the operating room.
_HASHING = threading.BoundedSemaphore(1)
_HASHER = PasswordHasher()  # argon2id with the library's current defaults
_MAX_FAILED, _LOCK_MINUTES = 10, 5
_MIN_PASSWORD = 10
#: A longer one is not a password but a load on the hash.
MAX_PASSWORD = 256


@cache
def _dummy_hash() -> str:
    """Verified against for unknown names, so that an unknown name takes as long as a wrong password.

    Made when the first one is asked for: every start of the program would pay for it otherwise.
    """
    return _HASHER.hash(secrets.token_hex(16))


def add_user(
    app: App, *, username: str, display_name: str, roles: Iterable[str], password: str, by: str
) -> Person:
    """Create a named user. Raises InputRefusedError, ConflictError."""
    faults = []
    roles = tuple(roles)
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,31}", username):
        faults.append("the user name must be 2-32 of a-z, 0-9, '.', '_', '-'")
    unknown = [r for r in roles if r not in {x.value for x in Role}]
    if unknown or not roles:
        faults.append(f"roles must be among {', '.join(r.value for r in Role)}")
    if not _MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        faults.append(f"the password needs {_MIN_PASSWORD} to {MAX_PASSWORD} characters")
    if faults:
        raise InputRefusedError(
            "The user cannot be created: " + "; ".join(faults) + ".",
            code="user.invalid",
            next_step="Correct these points and try again.",
        )
    person = Person(username, display_name.strip() or username, frozenset(Role(r) for r in roles))
    with transaction(app.engine) as connection:
        people.add_user(connection, person, _HASHER.hash(password))
        audit.append(
            connection,
            at=app.clock.now(),
            actor=by,
            subject=f"user:{username}",
            event="user_added",
            data={"roles": sorted(r.value for r in person.roles)},
        )
    return person


def change_user(
    app: App,
    username: str,
    *,
    active: bool | None = None,
    password: str | None = None,
    roles: Iterable[str] | None = None,
    by: str,
) -> None:
    """Switch an account off or on, set a password or roles. Raises NotFoundError, InputRefusedError, ConflictError."""
    wanted = frozenset(roles) if roles is not None else None
    if password is not None and not _MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise InputRefusedError(
            f"The password needs {_MIN_PASSWORD} to {MAX_PASSWORD} characters.", next_step="Choose another one.",
            code="user.invalid",
        )  # fmt: skip
    if wanted is not None and (not wanted or wanted - {r.value for r in Role}):
        raise InputRefusedError(
            f"Roles must be among {', '.join(r.value for r in Role)}.", next_step="Name at least one of them.",
            code="user.invalid",
        )  # fmt: skip
    values: dict[str, object] = {}
    if active is not None:
        values |= {"active": active, "failed_logins": 0, "locked_until": None}
    if password is not None:
        values |= {"password_hash": _HASHER.hash(password), "failed_logins": 0, "locked_until": None}
    if wanted is not None:
        values["roles"] = sorted(wanted)
    with transaction(app.engine) as connection:
        if people.find_user(connection, username) is None:
            raise NotFoundError(
                "There is no such user.", next_step="See the list of users.", code="user.not_found"
            )
        if username == by and (active is False or (wanted is not None and Role.ADMIN not in wanted)):
            raise ConflictError(
                "An administrator cannot lock themselves out.",
                code="user.self",
                next_step="Ask another administrator.",
            )
        if values:
            people.change_user(connection, username, **values)
        people.end_sessions_of(connection, username)
        audit.append(
            connection,
            at=app.clock.now(),
            actor=by,
            subject=f"user:{username}",
            event="user_changed",
            data={"changed": sorted(values), "active": active},
        )


def revoke_token(app: App, name: str, by: str) -> None:
    """Raises NotFoundError."""
    with transaction(app.engine) as connection:
        if not people.revoke_token(connection, name, app.clock.now()):
            raise NotFoundError(
                "There is no such token.", next_step="Check its name.", code="token.not_found"
            )
        audit.append(
            connection, at=app.clock.now(), actor=by, subject=f"token:{name}", event="token_revoked", data={}
        )


def log_in(app: App, username: str, password: str) -> tuple[str, Person, datetime]:
    """Check the password and open a session; returns its secret, the person and when it ends.

    Raises
    ------
    NotAuthenticatedError : unknown user, wrong password, or locked after too many tries; it does not say which.
    """
    person = _check(app, username, password)
    secret, now = secrets.token_urlsafe(32), app.clock.now()
    expires_at = now + timedelta(hours=app.config.web.session_hours)
    with transaction(app.engine) as connection:
        people.add_session(connection, secret, person.username, now, expires_at)
        audit.append(
            connection,
            at=now,
            actor=person.username,
            subject=f"user:{person.username}",
            event="login",
            data={},
        )
    return secret, person, expires_at


def sign(app: App, actor: Actor, password: str) -> bool:
    """Whether the person who is logged in gave their own password again, as a signature."""
    if actor.person is None or not password:
        return False
    try:
        return _check(app, actor.person.username, password).username == actor.name
    except NotAuthenticatedError:
        return False


def check_password(app: App, username: str, password: str) -> Person:
    """Who signs on the spot, without a session. Raises NotAuthenticatedError; counts and locks as a login does."""
    return _check(app, username, password)


def person_of_session(app: App, secret: str) -> Person | None:
    with reading(app.engine) as connection:
        row = people.session_user(connection, secret, app.clock.now())
    return row.person if row and row.active else None


def log_out(app: App, secret: str) -> None:
    with transaction(app.engine) as connection:
        people.end_session(connection, secret)


def add_token(app: App, name: str, scopes: Iterable[str], by: str, *, steriliser: str = "") -> str:
    """A token for a screen or a machine; the secret is shown once.

    `steriliser` is the device a token with the scope `steriliser` speaks for; that scope stands alone.

    Raises InputRefusedError, ConflictError; NotFoundError when there is no such steriliser.
    """
    given = set(scopes)
    if not given or given - {s.value for s in Scope} or not re.fullmatch(r"[\w. -]{1,64}", name):
        raise InputRefusedError(
            f"A token needs a name (1-64 letters, digits, '.', '-') and scopes among {', '.join(Scope)}.",
            next_step="Correct these and try again.",
            code="token.invalid",
        )
    wanted = frozenset(Scope(s) for s in given)
    if (wanted == {Scope.STERILISER}) != bool(steriliser) or (Scope.STERILISER in wanted and len(wanted) > 1):
        raise InputRefusedError(
            "The scope steriliser stands alone and names one steriliser; no other scope names one.",
            next_step="Make one token for each steriliser, with its name.",
            code="token.invalid",
        )
    secret = secrets.token_urlsafe(32)
    with transaction(app.engine) as connection:
        if steriliser:
            sterile.get(connection, Steriliser, steriliser)
        people.add_token(connection, name, secret, wanted, app.clock.now(), steriliser)
        audit.append(
            connection,
            at=app.clock.now(),
            actor=by,
            subject=f"token:{name}",
            event="token_added",
            data={"scopes": sorted(s.value for s in wanted), "steriliser": steriliser},
        )
    return secret


def token_of(app: App, secret: str) -> people.Token | None:
    with reading(app.engine) as connection:
        return people.token_of(connection, secret)


def list_tokens(app: App) -> list[people.Token]:
    """All tokens ever made, without their secrets."""
    with reading(app.engine) as connection:
        return people.list_tokens(connection)


def _check(app: App, username: str, password: str) -> Person:
    now = app.clock.now()
    with reading(app.engine) as connection:
        row = people.find_user(connection, username)
    locked = row is not None and row.locked_until is not None and row.locked_until > now
    try:
        with _HASHING:
            dummy = _dummy_hash()  # for known names too: the first login of a run must not tell them apart
            _HASHER.verify(row.password_hash if row else dummy, password)
        good = row is not None and row.active and not locked
    except (VerifyMismatchError, InvalidHashError):
        good = False
    if row is not None and not good and not locked:
        with transaction(app.engine) as connection:
            failed = people.count_failed_login(connection, username)
            if failed >= _MAX_FAILED:
                lock = times.to_text(now + timedelta(minutes=_LOCK_MINUTES))
                people.change_user(connection, username, locked_until=lock)
            audit.append(
                connection,
                at=now,
                actor=username,
                subject=f"user:{username}",
                event="login_failed",
                data={"count": failed},
            )
    if not good or row is None:
        raise NotAuthenticatedError(
            "User name or password is wrong, or the account is locked for some minutes.",
            next_step="Try again, or ask the administrator.",
            code="auth.failed",
        )
    if row.failed_logins:
        with transaction(app.engine) as connection:
            people.change_user(connection, username, failed_logins=0, locked_until=None)
    return row.person
