"""The small engine under the four sterilisation machines: transitions as data, guards with plain reasons.

A guard returns None when it holds, else one sentence saying why not. Guards are total: what is missing is a
reason to refuse. The engine collects every failed guard before it refuses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from service.domain.sterilisation_model import (
    BiologicalIndicator,
    HistoryEntry,
    Item,
    Load,
    RecallSet,
    Steriliser,
)
from service.domain.sterilisation_settings import SterilisationSettings
from service.errors import ConflictError, InputRefusedError, NotAllowedError

FieldKind = Literal["text", "number", "integer", "flag", "time", "texts"]
GuardKind = Literal["person", "state", "data"]
Value = str | float | int | bool | datetime | tuple[str, ...]


@dataclass(frozen=True)
class FieldSpec:
    """One datum an event asks for; forms and API documents are generated from it."""

    name: str
    kind: FieldKind
    description: str
    required: bool = True


@dataclass(frozen=True)
class Transition:
    """From any of `sources`, `event` leads to `target` ('' = the machine decides, e.g. an indicator's result).

    `signed`: the person gives their password again, as an electronic signature.
    """

    sources: tuple[str, ...]
    event: str
    target: str
    roles: tuple[str, ...]
    guards: tuple[str, ...]
    fields: tuple[FieldSpec, ...] = ()
    description: str = ""
    signed: bool = False


@dataclass(frozen=True)
class Facts:
    """What a guard may look at. Things the caller did not supply are None, and count as missing."""

    event: str
    data: Mapping[str, Value]
    actor: str
    role: str
    now: datetime
    settings: SterilisationSettings
    item: Item | None = None
    load: Load | None = None
    bi: BiologicalIndicator | None = None
    steriliser: Steriliser | None = None
    recalls: tuple[RecallSet, ...] | None = None
    bis: tuple[BiologicalIndicator, ...] = ()

    def text(self, name: str) -> str:
        value = self.data.get(name)
        return value if isinstance(value, str) else ""

    def number(self, name: str) -> float | None:
        value = self.data.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return float(value) if math.isfinite(value) else None

    def flag(self, name: str) -> bool:
        """True only for an explicit yes."""
        return self.data.get(name) is True

    def time(self, name: str) -> datetime | None:
        value = self.data.get(name)
        return value if isinstance(value, datetime) else None

    def texts(self, name: str) -> tuple[str, ...] | None:
        value = self.data.get(name)
        return value if isinstance(value, tuple) else None


@dataclass(frozen=True)
class Guard:
    """`next_step` is what a person does about a refusal, when it is more than putting the named point right."""

    name: str
    kind: GuardKind
    check: Callable[[Facts], str | None]
    next_step: str = ""


GUARDS: dict[str, Guard] = {}


def guard(
    name: str, kind: GuardKind, next_step: str = ""
) -> Callable[[Callable[[Facts], str | None]], Guard]:
    """Register a guard function under the name used in the transition tables."""

    def register(check: Callable[[Facts], str | None]) -> Guard:
        GUARDS[name] = Guard(name, kind, check, next_step)
        return GUARDS[name]

    return register


def events_of(table: Iterable[Transition]) -> tuple[str, ...]:
    """Names of all events of a machine, in table order."""
    return tuple(dict.fromkeys(t.event for t in table))


def allowed(
    table: Iterable[Transition], state: str, role: str, settings: SterilisationSettings
) -> tuple[Transition, ...]:
    """Transitions this role may try from this state (guards are judged when the event is applied)."""
    return tuple(t for t in table if state in t.sources and settings.holds(role, t.roles))


def describe(table: Iterable[Transition]) -> list[dict[str, object]]:
    """The table as JSON-able rows, for forms and API documents."""
    return [
        {
            "event": t.event,
            "from": list(t.sources),
            "to": t.target,
            "roles": list(t.roles),
            "guards": list(t.guards),
            "description": t.description,
            "signed": t.signed,
            "fields": [
                {"name": f.name, "type": f.kind, "description": f.description, "required": f.required}
                for f in t.fields
            ],
        }
        for t in table
    ]


def admit(
    table: tuple[Transition, ...],
    state: str,
    event: str,
    data: Mapping[str, object],
    actor: str,
    role: str,
    now: datetime,
    settings: SterilisationSettings,
) -> tuple[Transition, dict[str, Value]]:
    """Find the transition, check role and data; the guards come next (`check_guards`).

    Raises
    ------
    InputRefusedError : unknown event, unsigned event, missing or malformed data (all faults listed).
    ConflictError : the event does not fit the state.
    NotAllowedError : the role may not do this.
    """
    if event not in events_of(table):
        raise InputRefusedError(
            f"There is no step called {event!r} here.",
            next_step=f"Use one of: {', '.join(events_of(table))}.",
            code="sterilisation.unknown_event",
        )
    if not actor.strip() or now.tzinfo is None:
        raise InputRefusedError(
            "Every step needs a named person and a time with a time zone.",
            next_step="Log in again and repeat the step.",
            code="sterilisation.unsigned",
        )
    found = next((t for t in table if t.event == event and state in t.sources), None)
    if found is None:
        possible = sorted({t.event for t in table if state in t.sources})
        raise ConflictError(
            f"The step {event!r} is not possible in state {state}.",
            next_step=f"Possible now: {', '.join(possible) or 'nothing; this state is final'}.",
            code="sterilisation.state",
            details={"state": state, "event": event, "possible": possible},
        )
    if not settings.holds(role, found.roles):
        raise NotAllowedError(
            f"The step {event!r} belongs to {' or '.join(found.roles)}; the role {role!r} may not do it.",
            next_step="Ask a person with that role to sign the step.",
            code="sterilisation.role",
            details={"roles": list(found.roles), "role": role},
        )
    return found, parse_data(found, data)


_PUT_RIGHT = "Put right each point named, then sign the step again."


def check_guards(transition: Transition, facts: Facts) -> None:
    """Judge all guards; raise one error that lists every refusal.

    Raises NotAllowedError when a guard about persons failed, else ConflictError when one about the state of
    other things failed, else InputRefusedError.
    """
    failed = [
        (g, reason) for g in (GUARDS[n] for n in transition.guards) if (reason := g.check(facts)) is not None
    ]
    if not failed:
        return
    kinds = {g.kind for g, _ in failed}
    error: type[NotAllowedError | ConflictError | InputRefusedError] = InputRefusedError
    if "person" in kinds:
        error = NotAllowedError
    elif "state" in kinds:
        error = ConflictError
    steps = dict.fromkeys(g.next_step or _PUT_RIGHT for g, _ in failed)
    raise error(
        f"The step {transition.event!r} was refused: " + " ".join(reason for _, reason in failed),
        next_step=f"{' '.join(steps)} No role can skip a check.",
        code="sterilisation.guard",
        details={"refused": {g.name: reason for g, reason in failed}, "event": transition.event},
    )


def parse_data(transition: Transition, data: Mapping[str, object]) -> dict[str, Value]:
    """Typed values of the declared fields. Raises InputRefusedError that lists every fault at once."""
    known = {f.name: f for f in transition.fields}
    faults = [f"{name}: not a field of this step" for name in data if name not in known]
    parsed: dict[str, Value] = {}
    for spec in transition.fields:
        raw = data.get(spec.name)
        if raw is None or raw == "":
            if spec.required:
                faults.append(f"{spec.name}: missing ({spec.description})")
            continue
        value = _convert(spec.kind, raw)
        if value is None:
            faults.append(f"{spec.name}: expected {_WORDS[spec.kind]}")
        else:
            parsed[spec.name] = value
    if faults:
        raise InputRefusedError(
            f"The data of the step {transition.event!r} are not complete: " + "; ".join(faults) + ".",
            next_step="Fill in the fields named and send the step again.",
            code="sterilisation.data",
            details={"faults": faults, "event": transition.event},
        )
    return parsed


_WORDS: Mapping[FieldKind, str] = {
    "text": "a text",
    "number": "a finite number",
    "integer": "a whole number",
    "flag": "yes or no (true/false)",
    "time": "a time with a time zone (ISO 8601)",
    "texts": "a list of texts",
}


def _convert(kind: FieldKind, raw: object) -> Value | None:
    if kind == "flag":
        return raw if isinstance(raw, bool) else None
    if kind == "time":
        return _time(raw)
    if kind in ("text", "texts"):
        return _text(raw) if kind == "text" else _texts(raw)
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw):
        return None
    if kind == "integer":
        return int(raw) if float(raw).is_integer() else None
    return float(raw)


def _text(raw: object) -> str | None:
    return raw.strip() or None if isinstance(raw, str) else None


def _texts(raw: object) -> tuple[str, ...] | None:
    if not isinstance(raw, list | tuple):
        return None
    words = [_text(v) for v in raw]
    return tuple(w for w in words if w) if all(words) else None


def _time(raw: object) -> datetime | None:
    if isinstance(raw, str):
        try:
            raw = datetime.fromisoformat(raw)
        except ValueError:
            return None
    return raw if isinstance(raw, datetime) and raw.tzinfo is not None else None


def entry(
    event: str, from_state: str, to_state: str, actor: str, role: str, at: datetime, data: Mapping[str, Value]
) -> HistoryEntry:
    """The signed history line of an accepted event."""
    plain: dict[str, object] = {
        k: v.isoformat() if isinstance(v, datetime) else list(v) if isinstance(v, tuple) else v
        for k, v in data.items()
    }
    return HistoryEntry(event, from_state, to_state, actor, role, at, str(data.get("reason", "")), plain)
