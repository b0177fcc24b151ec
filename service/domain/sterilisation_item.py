"""The item machine: judge an event, return the item after it, replay a history. The table stands beside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from service.domain import sterilisation_guards, sterilisation_load_guards
from service.domain.sterilisation_item_table import ITEM_TRANSITIONS
from service.domain.sterilisation_model import (
    BiologicalIndicator,
    HistoryEntry,
    IssueRecord,
    Item,
    ItemState,
    Load,
    LoadState,
    PackRecord,
    QaRecord,
    RecallSet,
    ReleaseRecord,
    Steriliser,
    UseRecord,
)
from service.domain.sterilisation_settings import SterilisationSettings
from service.domain.sterilisation_table import (
    Facts,
    Transition,
    Value,
    admit,
    check_guards,
    entry,
    guard,
    parse_data,
)
from service.errors import InputRefusedError

# Importing the guard modules registers their guards under the names used below.
GUARD_MODULES = (sterilisation_guards, sterilisation_load_guards)


def _load_state_guard(name: str, states: tuple[LoadState, ...]) -> None:
    @guard(name, "state")
    def check(facts: Facts) -> str | None:
        if facts.load is None:
            return "The load of the item is not known."
        fits = facts.load.state in states
        return None if fits else f"The load is {facts.load.state}, not {' or '.join(states)}."


_load_state_guard("load_is_exposed", (LoadState.EXPOSED, LoadState.AERATING, LoadState.AERATED))
_load_state_guard("load_is_aerating", (LoadState.AERATING, LoadState.AERATED))
_load_state_guard("load_is_aerated", (LoadState.AERATED, LoadState.RELEASED))


@guard("was_used", "state")
def was_used(facts: Facts) -> str | None:
    return None if facts.item is not None and facts.item.use is not None else "The item was never used."


def apply_item(
    item: Item,
    event: str,
    data: Mapping[str, object],
    actor: str,
    role: str,
    now: datetime,
    settings: SterilisationSettings,
    *,
    load: Load | None = None,
    bi: BiologicalIndicator | None = None,
    steriliser: Steriliser | None = None,
    recalls: tuple[RecallSet, ...] | None = None,
) -> Item:
    """The item after one signed event; the given item is not changed.

    Parameters
    ----------
    data : values of the event's declared fields (`ITEM_TRANSITIONS`).
    actor, role : the person's unique name and the login role they act in; `system` for the service itself.
    now : UTC-aware time of the signature.
    load, bi, steriliser, recalls : the things the guards need; `recalls` are the open recall sets, () for none.
        What is left out counts as missing, and the guards refuse.

    Raises
    ------
    NotAllowedError : wrong role, or maker and checker are one person.
    ConflictError : wrong state of the item, its load or the steriliser.
    InputRefusedError : data missing or outside the limits. All failed guards are listed in every case.
    """
    transition, values = admit(ITEM_TRANSITIONS, item.state, event, data, actor, role, now, settings)
    facts = Facts(event, values, actor, role, now, settings, item, load, bi, steriliser, recalls)
    check_guards(transition, facts)
    return _after(item, transition, values, actor, role, now)


def replay_item(initial: Item, history: Iterable[HistoryEntry]) -> Item:
    """Fold a recorded history over the item as first registered; gives the same item as the live run did.

    The guards are not judged again (they looked at other things as they were then), the table is.

    Raises
    ------
    InputRefusedError : with code `sterilisation.history` when an entry does not follow from the one before.
    """
    item = replace(initial, history=(), version=0)
    for line in history:
        found = next((t for t in ITEM_TRANSITIONS if t.event == line.event and item.state in t.sources), None)
        if found is None or line.from_state != item.state or line.to_state != found.target:
            raise InputRefusedError(
                f"The history breaks at {line.event!r}: {line.from_state} to {line.to_state}.",
                next_step="Verify the audit chain; restore from backup if it is broken.",
                code="sterilisation.history",
            )
        item = _after(item, found, parse_data(found, line.data), line.actor, line.role, line.at)
    return item


def _after(
    item: Item, transition: Transition, data: Mapping[str, Value], actor: str, role: str, at: datetime
) -> Item:
    line = entry(transition.event, item.state, transition.target, actor, role, at, data)
    effect = _EFFECTS.get(transition.event)
    changed = effect(item, Facts(transition.event, data, actor, role, at, _NO_SETTINGS)) if effect else item
    return replace(
        changed,
        state=ItemState(transition.target),
        history=(*item.history, line),
        version=item.version + 1,
    )


_NO_SETTINGS = SterilisationSettings()  # effects read the event's data only, never a limit


def _need(value: float | None) -> float:
    # The field is required by the table, so it was parsed; this only tells the type checker.
    assert value is not None
    return value


def _size(facts: Facts) -> tuple[float, float, float]:
    x, y, z = (_need(facts.number(f"measured_{axis}_mm")) for axis in "xyz")
    return (x, y, z)


def _qa(item: Item, facts: Facts) -> Item:
    photos = facts.data.get("photos")
    record = QaRecord(
        facts.actor,
        facts.now,
        facts.text("stl_sha256"),
        _size(facts),
        facts.text("engraved_id"),
        facts.number("weight_g"),
        tuple(str(p) for p in photos) if isinstance(photos, tuple | list) else (),
    )
    return replace(item, qa=record)


def _pack(item: Item, facts: Facts) -> Item:
    pouch, pack = facts.time("pouch_expires_at"), facts.time("expires_at")
    assert pouch is not None and pack is not None
    record = PackRecord(
        facts.text("pack_id"),
        facts.text("pouch_material"),
        facts.text("pouch_lot"),
        pouch,
        pack,
        facts.actor,
        facts.now,
    )
    return replace(item, pack=record, spent_pack_ids=(*item.spent_pack_ids, record.pack_id))


def _fail_cycle(item: Item, facts: Facts) -> Item:
    clean = facts.data.get("gas_entered") is False
    return item if clean else replace(item, exposures=item.exposures + 1)


def _requalify(item: Item, facts: Facts) -> Item:
    before = item.qa
    record = QaRecord(
        facts.actor,
        facts.now,
        before.stl_sha256 if before else item.design.stl_sha256,
        _size(facts),
        before.engraved_id if before else item.design.engraved_id,
        before.weight_g if before else None,
        before.photos if before else (),
    )
    return replace(item, qa=record, pack=None, load_id="", release=None, issue=None)


_EFFECTS: Mapping[str, Callable[[Item, Facts], Item]] = {
    "pass_qa": _qa,
    "pack": _pack,
    "load": lambda item, facts: replace(item, load_id=facts.text("load_id")),
    "expose": lambda item, facts: replace(item, exposures=item.exposures + 1),
    "fail_cycle": _fail_cycle,
    "release": lambda item, facts: replace(item, release=ReleaseRecord(facts.actor, facts.now)),
    "issue": lambda item, facts: replace(item, issue=IssueRecord(facts.actor, facts.now)),
    "return_unopened": lambda item, facts: replace(item, issue=None),
    "use": lambda item, facts: replace(item, use=UseRecord(facts.actor, facts.text("surgeon"), facts.now)),
    "recall": lambda item, facts: replace(item, recalled_after_use=item.use is not None),
}
