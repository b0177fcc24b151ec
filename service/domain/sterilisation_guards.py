"""Guards of the item: print quality, pack, loading, theatre. Names are those of the facts sheet, section 2.

Each answers None (holds) or one plain sentence. Missing data always refuses.
"""

from __future__ import annotations

from datetime import timedelta

from service.domain.sterilisation_model import LoadState, SteriliserState
from service.domain.sterilisation_print_guards import gas_path_faults, said
from service.domain.sterilisation_table import Facts, guard

# --- quality of the print --------------------------------------------------------------------------------


@guard("params_match_plan", "data")
def params_match_plan(facts: Facts) -> str | None:
    if facts.item is None:
        return "The item is not known."
    plan, limit = facts.item.design.printing, facts.settings.print_tolerance_c
    wrong = []
    if facts.text("stl_sha256") != facts.item.design.stl_sha256:
        wrong.append("the printed mesh is not the approved one (hash differs)")
    if facts.text("material").lower() != plan.material.lower():
        wrong.append(f"material is not {plan.material}")
    for name, planned, allowance in (
        ("layer_mm", plan.layer_mm, 1e-6),
        ("nozzle_c", plan.nozzle_c, limit),
        ("bed_c", plan.bed_c, limit),
        ("speed_mm_s", plan.speed_mm_s, 1e-6),
    ):
        value = facts.number(name)
        if value is None or not abs(value - planned) <= allowance:
            wrong.append(f"{name} is {said(value)}, planned {planned:g}")
    return f"Print parameters: {'; '.join(wrong)}." if wrong else None


@guard("dims_ok", "data")
def dims_ok(facts: Facts) -> str | None:
    if facts.item is None:
        return "The item is not known."
    limit = facts.settings.dimension_tolerance_mm
    wrong = []
    for axis, planned in zip("xyz", facts.item.design.size_mm, strict=True):
        value = facts.number(f"measured_{axis}_mm")
        if value is None or not abs(value - planned) <= limit:
            wrong.append(f"{axis} is {said(value)} mm, designed {planned:.2f} mm")
    return f"Size differs by more than {limit:g} mm: {'; '.join(wrong)}." if wrong else None


@guard(
    "weight_ok", "data", "Weigh the part without supports and brim; a part that is really off is rejected."
)
def weight_ok(facts: Facts) -> str | None:
    """Plastic that is missing inside a wall shows nowhere else."""
    planned = facts.item.design.part_weight_g if facts.item else None
    if planned is None:
        return "The weight to expect is not known: no audit is stored for the G-code that was printed."
    weighed, share = facts.number("weight_g"), facts.settings.weight_tolerance_pct
    if weighed is None or not abs(weighed - planned) <= planned * share / 100.0:
        return (
            f"The part weighs {said(weighed)} g; {planned:.1f} g are expected, {share:g} % off are allowed."
        )
    return None


@guard("gauges_ok", "data", "Clear the channel of strings and drops and try again; else reject the part.")
def gauges_ok(facts: Facts) -> str | None:
    go, no_go = facts.settings.gauge_go_mm, facts.settings.gauge_no_go_mm
    wrong = []
    if not facts.flag("gauge_go"):
        wrong.append(f"the go gauge of {go:g} mm does not reach the end of every channel")
    if not facts.flag("gauge_no_go"):
        wrong.append(f"the no-go gauge of {no_go:g} mm enters a channel, or was not tried")
    return f"Channels: {'; '.join(wrong)}." if wrong else None


@guard("photographed", "data", "Add a photograph to the print job on the page of the case; then sign again.")
def photographed(facts: Facts) -> str | None:
    return None if facts.data.get("photos") else "There is no photograph of the part."


@guard("no_sealed_cavity", "data")
def no_sealed_cavity(facts: Facts) -> str | None:
    if facts.item is None or facts.item.design.sealed_cavities is None:
        return "It is not proven on the mesh that no cavity is sealed."
    count = facts.item.design.sealed_cavities
    return f"The mesh has {count} sealed cavity(ies); gas cannot reach inside." if count != 0 else None


@guard("vents_ok", "data")
def vents_ok(facts: Facts) -> str | None:
    if facts.item is None:
        return "The item is not known."
    wrong = gas_path_faults(facts.item.design, facts.settings)
    if not facts.flag("vents_clear"):
        wrong.append("the vents were not seen to be clear")
    return f"Gas path: {'; '.join(wrong)}." if wrong else None


@guard("identity_ok", "data")
def identity_ok(facts: Facts) -> str | None:
    if facts.item is None or not facts.item.design.engraved_id:
        return "The item carries no designed identity."
    if facts.text("engraved_id") != facts.item.design.engraved_id:
        return "The identity read on the part is not that of this case."
    return None


@guard("reviewer_ne_printer", "person")
def reviewer_ne_printer(facts: Facts) -> str | None:
    if facts.item is None or not facts.item.printed_by:
        return "It is not recorded who printed the part."
    return "Who printed the part may not review it." if facts.actor == facts.item.printed_by else None


@guard("reason", "data")
def reason(facts: Facts) -> str | None:
    return None if facts.text("reason") else "A reason is needed."


# --- pack ------------------------------------------------------------------------------------------------


@guard("clean_dry", "data")
def clean_dry(facts: Facts) -> str | None:
    return None if facts.flag("clean") and facts.flag("dry") else "The item must be clean and dry."


@guard("pouch_eto_compatible", "data")
def pouch_eto_compatible(facts: Facts) -> str | None:
    if facts.text("pouch_material").lower() in facts.settings.pouch_materials:
        return None
    return f"The pouch must be of {' or '.join(facts.settings.pouch_materials)} to let EtO through."


@guard("pouch_in_date", "data")
def pouch_in_date(facts: Facts) -> str | None:
    pouch, pack = facts.time("pouch_expires_at"), facts.time("expires_at")
    if pouch is None or pouch <= facts.now:
        return "The pouch is out of date, or its date is missing."
    if pack is None or pack <= facts.now:
        return "The pack needs a use-by time in the future."
    return None


@guard("label_matches_case", "data")
def label_matches_case(facts: Facts) -> str | None:
    if facts.item is None:
        return "The item is not known."
    design = facts.item.design
    if facts.text("label_case_id") != design.case_id or facts.text("label_level") != design.level:
        return "The label is not that of this case and level."
    if not facts.text("pack_id") or facts.text("pack_id") in facts.item.spent_pack_ids:
        return "The pack number was used before; take a new pouch and label."
    return None


@guard("external_ci_present", "data")
def external_ci_present(facts: Facts) -> str | None:
    return None if facts.flag("external_ci_present") else "The outside chemical indicator is missing."


# --- loading ---------------------------------------------------------------------------------------------


@guard("load_open", "state")
def load_open(facts: Facts) -> str | None:
    if facts.load is None or facts.load.id != facts.text("load_id"):
        return "The load named was not found."
    if facts.load.state is not LoadState.OPEN:
        return f"The load is {facts.load.state}, not open."
    return None if facts.load.purpose == "routine" else "A qualification load stays empty."


@guard("steriliser_in_service", "state")
def steriliser_in_service(facts: Facts) -> str | None:
    if facts.steriliser is None or facts.load is None or facts.steriliser.id != facts.load.steriliser_id:
        return "The steriliser of the load is not known."
    if facts.steriliser.state is SteriliserState.IN_SERVICE:
        return None
    if facts.load.purpose == "qualification" and not facts.load.item_ids:
        return None  # the empty-chamber cycles that return to service rests on
    return "The steriliser is out of service."


@guard(
    "cycle_validated_for_family",
    "data",
    "Choose a load whose cycle is validated on its steriliser for this family of items.",
)
def cycle_validated_for_family(facts: Facts) -> str | None:
    if facts.item is None or facts.load is None or facts.steriliser is None:
        return "Item, load and steriliser must be known."
    pair = (facts.load.cycle_name, facts.item.design.family)
    if facts.settings.cycle(facts.load.cycle_name) is None:
        return f"The cycle {facts.load.cycle_name!r} is not in the catalogue."
    if pair not in facts.steriliser.validated:
        return f"Cycle {pair[0]} is not validated on this steriliser for the item family {pair[1]!r}."
    return None


_COOLER = (
    "Open a load with a cooler cycle or aeration. Only the site's own dimensional validation can raise the limit of a "
    "material, under [sterilisation] in the configuration."
)


def material_limit_c(facts: Facts) -> float | None:
    """Limit of the item's material, or the strictest known one for a load seen without its items."""
    if facts.item is not None:
        found = facts.settings.material(facts.item.design.printing.material)
        return found.max_process_c if found else None
    return min((m.max_process_c for m in facts.settings.materials), default=None)


@guard("exposure_temp_ok", "data", _COOLER)
def exposure_temp_ok(facts: Facts) -> str | None:
    cycle = facts.settings.cycle(facts.load.cycle_name) if facts.load else None
    limit = material_limit_c(facts)
    if cycle is None or cycle.hottest_c is None or limit is None:
        return "The highest temperature of the cycle, or the limit of the material, is not known."
    if not cycle.hottest_c <= limit:
        return f"Cycle {cycle.name} may reach {cycle.hottest_c:g} °C; the material allows {limit:g} °C."
    return None


@guard("aeration_temp_ok", "data", _COOLER)
def aeration_temp_ok(facts: Facts) -> str | None:
    limit = material_limit_c(facts)
    if facts.load is None or limit is None:
        return "The planned aeration, or the limit of the material, is not known."
    planned = facts.load.planned_aeration_c
    if not planned <= limit:
        return f"Aeration at {planned:g} °C is hotter than the material allows ({limit:g} °C)."
    if facts.settings.aeration_hours(planned) is None:
        return f"Aeration at {planned:g} °C is never complete; the table starts at a warmer row."
    return None


@guard("resterilisation_ok", "data")
def resterilisation_ok(facts: Facts) -> str | None:
    if facts.item is None:
        return "The item is not known."
    if not 0 <= facts.item.exposures <= facts.settings.resterilisation_limit:
        return (
            f"The item was exposed {facts.item.exposures} time(s) already; "
            f"at most {facts.settings.resterilisation_limit} before another run. Print a new one."
        )
    return None


@guard("pcd_and_bi_present", "data")
def pcd_and_bi_present(facts: Facts) -> str | None:
    if facts.load is None or not facts.load.pcd_id or not facts.load.bi_id:
        return "The load has no process challenge device with a biological indicator yet."
    if facts.bi is None or facts.bi.id != facts.load.bi_id or facts.bi.load_id != facts.load.id:
        return "The biological indicator is not the one registered for this load."
    same_run = (
        facts.bi.steriliser_id == facts.load.steriliser_id
        and facts.bi.cycle_number == facts.load.cycle_number
    )
    return None if same_run else "The biological indicator belongs to another cycle."


@guard("bi_in_date", "data")
def bi_in_date(facts: Facts) -> str | None:
    if facts.bi is None or facts.bi.expires_at <= facts.now:
        return "The biological indicator is out of date or unknown."
    if facts.settings.indicator(facts.bi.product) is None:
        return f"The indicator product {facts.bi.product!r} is not in the catalogue."
    return None


# --- theatre ---------------------------------------------------------------------------------------------


@guard("patient_case_level_match", "data")
def patient_case_level_match(facts: Facts) -> str | None:
    if facts.item is None or facts.item.pack is None:
        return "The pack is not known."
    design = facts.item.design
    wrong = [
        words
        for words, scanned, expected in (
            ("pack", facts.text("scanned_pack_id"), facts.item.pack.pack_id),
            ("case", facts.text("scanned_case_id"), design.case_id),
            ("patient", facts.text("scanned_patient_reference"), design.patient_reference),
            ("level", facts.text("scanned_level"), design.level),
        )
        if not expected or scanned != expected
    ]
    return f"STOP: not what this pack was made for: wrong {', wrong '.join(wrong)}." if wrong else None


@guard("pack_intact_dry", "data")
def pack_intact_dry(facts: Facts) -> str | None:
    good = facts.flag("pack_intact") and facts.flag("pack_dry")
    return None if good else "The pack must be intact and dry."


@guard("not_expired", "data")
def not_expired(facts: Facts) -> str | None:
    if facts.item is None or facts.item.pack is None:
        return "The use-by time of the pack is not known."
    return None if facts.now < facts.item.pack.expires_at else "The pack has expired."


@guard("ct_age_ok", "data")
def ct_age_ok(facts: Facts) -> str | None:
    acquired = facts.item.design.ct_acquired_at if facts.item else None
    limit = facts.settings.ct_max_age_days
    if acquired is None or acquired > facts.now:
        return "The date of the planning CT is not known."
    if facts.now - acquired > timedelta(days=limit):
        return f"The planning CT is older than {limit:g} days; the fracture may have changed."
    return None


@guard("unopened", "data")
def unopened(facts: Facts) -> str | None:
    return None if facts.flag("unopened") else "An opened pack cannot go back."


@guard("internal_ci_pass", "data")
def internal_ci_pass(facts: Facts) -> str | None:
    if facts.flag("internal_ci_pass"):
        return None
    return "The chemical indicator inside the pack did not pass; the item is not sterile."


@guard("surgeon_confirms_level", "person")
def surgeon_confirms_level(facts: Facts) -> str | None:
    if facts.item is None or facts.text("confirmed_level") != facts.item.design.level:
        return "The surgeon has not confirmed the level of this item."
    surgeon = facts.text("surgeon")
    return None if surgeon and surgeon != facts.actor else "The surgeon must be a second person."


@guard("expired_or_damaged", "data")
def expired_or_damaged(facts: Facts) -> str | None:
    if not_expired.check(facts) is not None or facts.flag("damaged"):
        return None
    if facts.load is not None and facts.load.state is LoadState.FAILED:
        return None
    return "The pack is neither expired nor reported as damaged, wet or dropped, and its load has not failed."


@guard("retrieved", "data")
def retrieved(facts: Facts) -> str | None:
    return None if facts.flag("retrieved") else "The item must be back in sterile services first."


@guard("new_pack", "data")
def new_pack(facts: Facts) -> str | None:
    return None if facts.flag("old_pack_removed") else "The old pack must be removed; a new one is needed."


@guard("in_recall_set", "state")
def in_recall_set(facts: Facts) -> str | None:
    if facts.item is None or not facts.recalls:
        return "No recall is open."
    if any(facts.item.load_id in r.load_ids and facts.item.id in r.item_ids for r in facts.recalls):
        return None
    return "The item is not in the recall set."
