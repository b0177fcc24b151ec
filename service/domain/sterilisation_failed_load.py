"""What follows for the items when their load is aborted or fails: none of them may be left where it stands.

The steps `fail_cycle` and parts of `fail_processing` belong to the service itself (facts sheet, section 2, role
`system`), so nobody else could take them. A pack that is in the operating room already is not moved by us: its steps
`use` and `return_unopened` ask for a released load and refuse, and the nurse sees why.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from service.domain.sterilisation_item import apply_item
from service.domain.sterilisation_model import Item, ItemState, Load, LoadState
from service.domain.sterilisation_settings import SterilisationSettings

_SYSTEM = "system"
_STEP: Mapping[ItemState, str] = {
    ItemState.LOADED: "fail_cycle",
    ItemState.EXPOSED: "fail_processing",
    ItemState.AERATING: "fail_processing",
    ItemState.QUARANTINED: "refuse_release",
    ItemState.RELEASED: "withdraw",
}


def step_after_failed_load(item: Item, load: Load) -> str:
    """The step the service takes for this item, "" when there is none."""
    failed = load.state in (LoadState.ABORTED, LoadState.FAILED) and item.load_id == load.id
    return _STEP.get(item.state, "") if failed else ""


def fail_item(
    item: Item, load: Load, why: str, now: datetime, settings: SterilisationSettings
) -> tuple[Item, str]:
    """The item after its load was aborted or failed, and the step taken ("" and the same item for none).

    An item whose load was given up while the chamber was still open has seen no gas; in every other case gas
    counts as having entered, which uses up an exposure.
    """
    step = step_after_failed_load(item, load)
    if not step:
        return item, ""
    data: dict[str, object] = {"reason": f"load {load.id}: {why}"}
    if step == "fail_cycle":
        data["gas_entered"] = any(h.event == "start" for h in load.history)
    return apply_item(item, step, data, _SYSTEM, _SYSTEM, now, settings, load=load), step
