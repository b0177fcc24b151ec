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
    """What a token may do. A screen's only reads. A machine's reads nothing: `dicom_web` stores images, `steriliser`
    posts the cycle records of the one steriliser its token is bound to.
    """

    BOARD = "board"
    OR_TERMINAL = "or_terminal"
    METRICS = "metrics"
    DICOM_WEB = "dicom_web"
    STERILISER = "steriliser"


#: Who may bring images in by a page or by STOW-RS.
IMAGE_BRINGERS = frozenset({Role.PLANNER, Role.TECHNICIAN, Role.SURGEON, Role.ADMIN})


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
