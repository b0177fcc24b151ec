"""Who may do what: the roles of the hospital's people."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Role(enum.StrEnum):
    TECHNICIAN = "technician"
    PLANNER = "planner"
    SURGEON = "surgeon"
    CSSD_TECHNICIAN = "cssd_technician"
    CSSD_SUPERVISOR = "cssd_supervisor"
    THEATRE_NURSE = "theatre_nurse"
    ADMIN = "admin"


PEOPLE = frozenset(Role)


class Scope(enum.StrEnum):
    """What a token for a screen may read; tokens never write."""

    BOARD = "board"
    OR_TERMINAL = "or_terminal"
    METRICS = "metrics"


@dataclass(frozen=True)
class Person:
    """A named user as the rules see them."""

    username: str
    display_name: str
    roles: frozenset[Role]


@dataclass(frozen=True)
class Actor:
    """Who caused something: a person, or the system (then `person` is None and `name` says which part)."""

    name: str
    person: Person | None = None

    @property
    def roles(self) -> frozenset[Role] | None:
        return self.person.roles if self.person else None


def system(part: str) -> Actor:
    return Actor(f"system:{part}")


def acting(person: Person) -> Actor:
    return Actor(person.username, person)
