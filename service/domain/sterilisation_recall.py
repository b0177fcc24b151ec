"""What a positive biological indicator calls back (facts sheet, section 2; CDC rule for non-steam cycles).

One positive result makes everything from that steriliser suspect, from the last negative indicator to the next
satisfactory one. The set is recomputed on each reading: it grows while no satisfactory indicator exists.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from service.domain.sterilisation_bi import apply_steriliser
from service.domain.sterilisation_item import apply_item
from service.domain.sterilisation_item_table import IN_PROCESS
from service.domain.sterilisation_load import apply_load
from service.domain.sterilisation_model import (
    BiologicalIndicator,
    BiState,
    Incident,
    Item,
    ItemState,
    Load,
    LoadState,
    RecallSet,
    Steriliser,
    SteriliserState,
)
from service.domain.sterilisation_settings import SterilisationSettings
from service.errors import InputRefusedError

_SYSTEM = "system"
_FAILABLE = (LoadState.EXPOSED, LoadState.AERATING, LoadState.AERATED, LoadState.RELEASED)


@dataclass(frozen=True)
class RecallOutcome:
    """Everything after a recall; things that did not change are the same objects."""

    recall: RecallSet
    steriliser: Steriliser
    loads: tuple[Load, ...]
    items: tuple[Item, ...]
    incidents: tuple[Incident, ...]


def recall_set(
    steriliser_id: str,
    positive_cycle: int,
    loads: Iterable[Load],
    indicators: Iterable[BiologicalIndicator],
) -> RecallSet:
    """Loads and items of the steriliser between the satisfactory cycles around `positive_cycle`.

    A cycle is satisfactory when it has an indicator and all its indicators are NEGATIVE; pending, invalid and
    missing indicators do not close the set. The positive cycle itself always belongs to it.
    """
    own = [load for load in loads if load.steriliser_id == steriliser_id]
    results: dict[int, list[BiState]] = {}
    for bi in indicators:
        if bi.steriliser_id == steriliser_id:
            results.setdefault(bi.cycle_number, []).append(bi.state)
    satisfactory = {
        n
        for n, states in results.items()
        if n != positive_cycle and all(s is BiState.NEGATIVE for s in states)
    }
    after = max((n for n in satisfactory if n < positive_cycle), default=None)
    before = min((n for n in satisfactory if n > positive_cycle), default=None)
    hit = sorted(
        (
            load
            for load in own
            if (after is None or load.cycle_number > after) and (before is None or load.cycle_number < before)
        ),
        key=lambda load: (load.cycle_number, load.id),
    )
    items = dict.fromkeys(i for load in hit for i in load.item_ids)
    return RecallSet(steriliser_id, positive_cycle, after, before, tuple(x.id for x in hit), tuple(items))


def open_recalls(
    loads: Collection[Load], indicators: Collection[BiologicalIndicator]
) -> tuple[RecallSet, ...]:
    """The recall sets of all positive indicators, in order of steriliser and cycle."""
    positive = sorted({(b.steriliser_id, b.cycle_number) for b in indicators if b.state is BiState.POSITIVE})
    return tuple(recall_set(device, cycle, loads, indicators) for device, cycle in positive)


def apply_recall(
    positive: BiologicalIndicator,
    steriliser: Steriliser,
    loads: Collection[Load],
    indicators: Collection[BiologicalIndicator],
    items: Collection[Item],
    now: datetime,
    settings: SterilisationSettings,
) -> RecallOutcome:
    """All consequences of a positive indicator. Applying it again changes nothing and opens no new incident.

    The load of the indicator fails, the steriliser goes out of service, items in process are recalled, used items
    keep their state with a flag and an incident (facts sheet, section 2).

    Raises
    ------
    InputRefusedError : the indicator is not positive, or belongs to another steriliser.
    """
    if positive.state is not BiState.POSITIVE or positive.steriliser_id != steriliser.id:
        raise InputRefusedError(
            "A recall starts from a positive indicator of this steriliser.",
            next_step="Read the indicator first.",
            code="sterilisation.recall",
        )
    found = recall_set(steriliser.id, positive.cycle_number, loads, indicators)
    why = f"positive biological indicator {positive.id} in cycle {positive.cycle_number}"
    last_cycle = max((x.cycle_number for x in loads if x.steriliser_id == steriliser.id), default=None)
    # Once per indicator: after a documented return to service the same result does not stop the device again.
    stopped = any(h.event == "take_out_of_service" and h.reason == why for h in steriliser.history)
    if steriliser.state is SteriliserState.IN_SERVICE and not stopped:
        data: dict[str, object] = {"reason": why}
        if last_cycle is not None:
            data["last_cycle"] = last_cycle
        steriliser = apply_steriliser(
            steriliser, "take_out_of_service", data, _SYSTEM, _SYSTEM, now, settings
        )
    after_loads = tuple(_fail(x, positive, why, now, settings) for x in loads)
    after_items, incidents = [], []
    for item in items:
        changed = _recall(item, found, why, now, settings)
        after_items.append(changed)
        if changed.recalled_after_use and not item.recalled_after_use:
            incidents.append(Incident(item.id, item.design.case_id, item.load_id, positive.cycle_number, now))
    return RecallOutcome(found, steriliser, after_loads, tuple(after_items), tuple(incidents))


def _fail(
    load: Load, positive: BiologicalIndicator, why: str, now: datetime, settings: SterilisationSettings
) -> Load:
    if load.id != positive.load_id or load.state not in _FAILABLE:
        return load
    return apply_load(load, "fail", {"reason": why}, _SYSTEM, _SYSTEM, now, settings)


def _recall(item: Item, found: RecallSet, why: str, now: datetime, settings: SterilisationSettings) -> Item:
    # An item sterilised anew since carries the id of its later load and is not called back for the earlier one.
    if item.id not in found.item_ids or item.load_id not in found.load_ids:
        return item
    used = item.use is not None and item.state in (ItemState.USED, ItemState.DISCARDED)
    if item.state not in IN_PROCESS and (not used or item.recalled_after_use):
        return item
    return apply_item(item, "recall", {"reason": why}, _SYSTEM, _SYSTEM, now, settings, recalls=(found,))
