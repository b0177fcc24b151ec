"""Guards on what was printed, judged before an item goes into a load: gas path, solid walls, channels.

Ethylene oxide must reach every hollow and must find no second one inside a wall. Both are proven before printing, on
the mesh and on the G-code; here the stored proofs are held against the ranges the site has validated.
"""

from __future__ import annotations

from service.domain.sterilisation_model import GcodeProof, Item, ItemDesign
from service.domain.sterilisation_settings import SterilisationSettings
from service.domain.sterilisation_table import Facts, guard

_PRINT_ANEW = "Discard this part; have the model built, approved and sliced again, and print a new one."
_VALIDATE = (
    "Set the model's channel diameter into the validated range, or have sterile services validate this size and "
    "state the evidence under [sterilisation] in the configuration; then print a new part."
)


def gas_path_faults(design: ItemDesign, site: SterilisationSettings) -> list[str]:
    """What the mesh's gas path lacks; one phrase a fault."""
    wrong = []
    if design.openings_per_cavity is None or design.openings_per_cavity < site.min_openings_per_cavity:
        wrong.append(f"openings {said(design.openings_per_cavity)}, at least {site.min_openings_per_cavity}")
    if design.narrowest_opening_mm is None or not design.narrowest_opening_mm >= site.min_opening_mm:
        wrong.append(
            f"narrowest opening {said(design.narrowest_opening_mm)} mm, at least {site.min_opening_mm:g}"
        )
    if design.longest_path_mm is None or not design.longest_path_mm <= site.max_path_mm:
        wrong.append(f"gas path {said(design.longest_path_mm)} mm, at most {site.max_path_mm:g}")
    return wrong


@guard("gas_path_proven", "data", _PRINT_ANEW)
def gas_path_proven(facts: Facts) -> str | None:
    """The proofs of the mesh once more, against the limits in force now: they may be stricter than at inspection."""
    if facts.item is None:
        return "The item is not known."
    design = facts.item.design
    wrong = gas_path_faults(design, facts.settings)
    if design.sealed_cavities != 0:
        wrong.insert(0, f"sealed cavities {said(design.sealed_cavities)}, none allowed")
    return f"Gas path of the mesh of {_named(facts.item)}: {'; '.join(wrong)}." if wrong else None


@guard("solid_walls", "data", _PRINT_ANEW)
def solid_walls(facts: Facts) -> str | None:
    """Walls without hollow filling: the plastic extruded is that of the solid mesh, in the whole and in each layer."""
    if facts.item is None:
        return "The item is not known."
    proof, low, high = facts.item.design.gcode, *facts.settings.walls_solid_ratio
    where = f"G-code of {_named(facts.item)}"
    if proof is None:
        return f"{where}: no audit is stored for the file that was printed, so solid walls are not proven."
    if not proof.passed:
        return f"{where}: the audit did not pass."
    if proof.part_over_mesh is None or not low <= proof.part_over_mesh <= high:
        return (
            f"{where}: {said(proof.part_over_mesh)} times the plastic of a solid part, {low:g} to {high:g} allowed; "
            "the walls are not proven to be solid."
        )
    most = facts.settings.walls_layer_off_max
    if proof.layer_off_most is None or not proof.layer_off_most <= most:
        return (
            f"{where}: the layer farthest off is {said(proof.layer_off_most)} (share of its cross-section) from solid, "
            f"{most:g} allowed; the walls are not proven to be solid."
        )
    return None


@guard("channels_validated", "data", _VALIDATE)
def channels_validated(facts: Facts) -> str | None:
    """Every needle channel within the validated range on the mesh, and open in the printed lines."""
    if facts.item is None:
        return "The item is not known."
    design, low, high = facts.item.design, *facts.settings.channel_mm
    wrong = []
    if not design.channels_mm:
        wrong.append("no channel was measured on the mesh")
    for number, width in enumerate(design.channels_mm or (), 1):
        if not low <= width <= high:
            wrong.append(
                f"channel {number} is {width:g} mm wide on the mesh, validated {low:g} to {high:g} mm"
            )
    wrong += _printed_faults(design.channels_mm or (), design.gcode, facts.settings.channel_free_min_mm)
    return f"Channels of {_named(facts.item)}: {'; '.join(wrong)}." if wrong else None


@guard(
    "lumens_ok",
    "data",
    "Put this item into another load; the steriliser is cleared for no more lumens at a time.",
)
def lumens_ok(facts: Facts) -> str | None:
    """Channels in the load against the limit of the device's clearance. Vents are holes in a wall, no lumens."""
    cycle = facts.settings.cycle(facts.load.cycle_name) if facts.load else None
    if facts.item is None or facts.load is None or cycle is None:
        return "Item, load and cycle must be known."
    each = len(facts.item.design.channels_mm or ())
    # Items of a family are alike: those listed so far count with as many channels as this one.
    total = each * len({*facts.load.item_ids, facts.item.id})
    if cycle.max_lumens is not None and total > cycle.max_lumens:
        return f"Load {facts.load.id} would hold {total} channels; {cycle.name} allows {cycle.max_lumens}."
    return None


def _printed_faults(planned: tuple[float, ...], proof: GcodeProof | None, least_mm: float) -> list[str]:
    free = proof.channels_free_mm if proof else ()
    if len(free) != len(planned):
        return [f"{len(free)} of {len(planned)} channels were measured in the G-code"]
    return [
        f"channel {number} is {said(width)} mm free between the printed lines, at least {least_mm:g} mm"
        for number, width in enumerate(free, 1)
        if width is None or not width >= least_mm
    ]


def _named(item: Item) -> str:
    return f"item {item.id} ({item.design.level})"


def said(value: float | None) -> str:
    return "not recorded" if value is None else f"{value:g}"
