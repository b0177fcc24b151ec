"""Who is there: passwords, locks, sessions, signatures, tokens of screens."""

from __future__ import annotations

from datetime import timedelta

import pytest

from service.domain.people import Person, Role, Scope, acting
from service.errors import ConflictError, InputRefusedError, NotAuthenticatedError
from service.store import audit, people
from service.store.database import reading, transaction
from service.store.tables import sessions, tokens, users
from service.workflow import identity
from tests.support_app import ADMIN, PASSWORD, SURGEON, Rig, add_people

#: The service's own, read before `tests/conftest.py` makes it cheap.
OWN_HASHER = identity._HASHER


@pytest.fixture(autouse=True)
def _one_user(rig: Rig) -> None:
    add_people(rig.app, "surgeon")


def _fails(rig: Rig, username: str = "surgeon", password: str = "wrong-password") -> None:
    with pytest.raises(NotAuthenticatedError) as caught:
        identity.log_in(rig.app, username, password)
    assert caught.value.code == "auth.failed"


def test_passwords_are_stored_as_argon2id(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(identity, "_HASHER", OWN_HASHER)
    add_people(rig.app, "planner")
    with reading(rig.app.engine) as connection:
        row = connection.execute(users.select().where(users.c.username == "planner")).one()
    # the cost that the library and RFC 9106 advise: 64 MiB, three passes, four lanes
    assert row.password_hash.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert PASSWORD not in str(row)


def test_logging_in_gives_a_session_of_limited_length(rig: Rig):
    secret, person, expires_at = identity.log_in(rig.app, "surgeon", PASSWORD)
    assert person.roles == {Role.SURGEON}
    assert expires_at - rig.clock.now() == timedelta(hours=12)
    assert identity.person_of_session(rig.app, secret) == person
    with reading(rig.app.engine) as connection:
        assert secret not in str(connection.execute(sessions.select()).one())
    rig.clock.advance(hours=12, seconds=-1)
    assert identity.person_of_session(rig.app, secret) == person
    rig.clock.advance(seconds=1)
    assert identity.person_of_session(rig.app, secret) is None


def test_logging_out_ends_this_session_only(rig: Rig):
    first, second = (identity.log_in(rig.app, "surgeon", PASSWORD)[0] for _ in range(2))
    identity.log_out(rig.app, first)
    assert identity.person_of_session(rig.app, first) is None
    assert identity.person_of_session(rig.app, second) is not None
    assert identity.person_of_session(rig.app, "") is None
    assert identity.person_of_session(rig.app, "guessed") is None


def test_a_person_who_was_deactivated_is_out_at_once(rig: Rig):
    secret, _, _ = identity.log_in(rig.app, "surgeon", PASSWORD)
    with transaction(rig.app.engine) as connection:
        people.change_user(connection, "surgeon", active=False)
    assert identity.person_of_session(rig.app, secret) is None
    _fails(rig, password=PASSWORD)


def test_unknown_name_and_wrong_password_sound_the_same(rig: Rig):
    messages = set()
    for username, password in (("nobody", PASSWORD), ("surgeon", "wrong-password"), ("", "")):
        with pytest.raises(NotAuthenticatedError) as caught:
            identity.log_in(rig.app, username, password)
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_ten_wrong_passwords_lock_for_five_minutes(rig: Rig):
    for _ in range(9):
        _fails(rig)
    identity.log_in(rig.app, "surgeon", PASSWORD)  # a good one starts the count again
    for _ in range(10):
        _fails(rig)
    _fails(rig, password=PASSWORD)
    rig.clock.advance(minutes=4, seconds=59)
    _fails(rig, password=PASSWORD)
    rig.clock.advance(seconds=2)
    identity.log_in(rig.app, "surgeon", PASSWORD)
    with reading(rig.app.engine) as connection:
        row = connection.execute(users.select()).one()
    assert (row.failed_logins, row.locked_until) == (0, None)


def test_tries_are_in_the_audit_without_the_password(rig: Rig):
    _fails(rig)
    identity.log_in(rig.app, "surgeon", PASSWORD)
    with reading(rig.app.engine) as connection:
        found = audit.history(connection, "user:surgeon")
    assert [r.event for r in found] == ["user_added", "login_failed", "login"]
    assert "password" not in str([r.data for r in found])


def test_a_signature_is_the_persons_own_password(rig: Rig):
    add_people(rig.app, "planner")
    assert identity.sign(rig.app, SURGEON, PASSWORD) is True
    assert identity.sign(rig.app, SURGEON, "") is False
    assert identity.sign(rig.app, SURGEON, "wrong-password") is False
    with transaction(rig.app.engine) as connection:
        people.change_user(connection, "planner", password_hash=identity._HASHER.hash("another-password"))
    assert identity.sign(rig.app, SURGEON, "another-password") is False


def test_guessing_at_the_signature_locks_too(rig: Rig):
    for _ in range(10):
        assert identity.sign(rig.app, SURGEON, "wrong-password") is False
    assert identity.sign(rig.app, SURGEON, PASSWORD) is False


def test_the_system_cannot_sign(rig: Rig):
    from service.domain.people import system

    assert identity.sign(rig.app, system("model"), PASSWORD) is False
    assert identity.sign(rig.app, acting(Person("nobody", "", frozenset({Role.SURGEON}))), PASSWORD) is False


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"username": "A"}, "user name"),
        ({"username": "../x"}, "user name"),
        ({"username": "x" * 33}, "user name"),
        ({"roles": []}, "roles"),
        ({"roles": ["god"]}, "roles"),
        ({"password": "short"}, "password"),
        ({"password": "x" * 100_000}, "password"),
    ],
)
def test_users_that_cannot_be_made(rig: Rig, changes: dict[str, object], words: str):
    arguments = {
        "username": "new",
        "display_name": "",
        "roles": ["planner"],
        "password": PASSWORD,
        "by": "ada",
    }
    with pytest.raises(InputRefusedError, match=words):
        identity.add_user(rig.app, **(arguments | changes))  # type: ignore[arg-type]


def test_roles_may_come_from_any_iterable(rig: Rig):
    person = identity.add_user(
        rig.app,
        username="new",
        display_name="",
        roles=(r for r in ("planner", "surgeon")),
        password=PASSWORD,
        by="a",
    )
    assert person.roles == {Role.PLANNER, Role.SURGEON}


def test_a_name_is_given_once(rig: Rig):
    with pytest.raises(ConflictError) as caught:
        add_people(rig.app, "surgeon")
    assert caught.value.code == "user.exists"


def test_a_token_reads_its_scopes_until_it_is_revoked(rig: Rig):
    secret = identity.add_token(rig.app, "board 1", ["board", "metrics"], ADMIN.name)
    found = identity.token_of(rig.app, secret)
    assert found is not None
    assert (found.name, found.scopes, found.bound_to) == ("board 1", {Scope.BOARD, Scope.METRICS}, "")
    assert identity.person_of_session(rig.app, secret) is None
    with reading(rig.app.engine) as connection:
        assert secret not in str(connection.execute(tokens.select()).one())
    with transaction(rig.app.engine) as connection:
        assert people.revoke_token(connection, "board 1", rig.clock.now())
        assert not people.revoke_token(connection, "other", rig.clock.now())
    assert identity.token_of(rig.app, secret) is None


@pytest.mark.parametrize(
    ("name", "scopes"),
    [("t", ["write"]), ("t", []), ("", ["board"]), ("x" * 65, ["board"]), ("a\x00", ["board"])],
)
def test_tokens_that_cannot_be_made(rig: Rig, name: str, scopes: list[str]):
    with pytest.raises(InputRefusedError) as caught:
        identity.add_token(rig.app, name, scopes, ADMIN.name)
    assert caught.value.code == "token.invalid"


def test_a_tokens_name_is_given_once(rig: Rig):
    identity.add_token(rig.app, "t", ["board"], ADMIN.name)
    with pytest.raises(ConflictError):
        identity.add_token(rig.app, "t", ["board"], ADMIN.name)
