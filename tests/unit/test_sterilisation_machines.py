"""Item, load, indicator and steriliser: every (state, event) pair, the guards, the recall, the documents."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from service.domain.sterilisation import (
    BI_TRANSITIONS,
    ITEM_TRANSITIONS,
    LOAD_TRANSITIONS,
    STERILISER_TRANSITIONS,
    BiologicalIndicator,
    BiState,
    GcodeProof,
    Item,
    ItemDesign,
    ItemState,
    Load,
    LoadState,
    PrintParameters,
    SterilisationSettings,
    Steriliser,
    SteriliserState,
    apply_bi,
    apply_item,
    apply_load,
    apply_recall,
    apply_steriliser,
    describe,
    events_of,
    from_document,
    open_recalls,
    recall_set,
    replay_item,
    to_document,
)
from service.domain.sterilisation_table import GUARDS
from service.errors import ConflictError, InputRefusedError, NotAllowedError, SpineprintError

T0 = datetime(2026, 3, 2, 8, tzinfo=UTC)
SETTINGS = SterilisationSettings()
FAMILY = "hollow-vertebra"
H = timedelta(hours=1)


def at(hours: float) -> datetime:
    return T0 + hours * H


def new_item(item_id: str = "i1") -> Item:
    design = ItemDesign(
        case_id="C-1",
        patient_reference="P-9",
        level="L1",
        engraved_id="C1-L1",
        stl_sha256="ab" * 32,
        size_mm=(45.0, 70.0, 40.0),
        printing=PrintParameters("PLA", 0.2, 210, 60, 50),
        family=FAMILY,
        sealed_cavities=0,
        openings_per_cavity=3,
        narrowest_opening_mm=3.0,
        longest_path_mm=80.0,
        channels_mm=(2.79, 2.8),
        gcode=GcodeProof("cd" * 32, True, 1.02, (2.3, 2.4), 0.02),
        ct_acquired_at=at(-48),
        part_weight_g=30.0,
    )
    return Item(item_id, design, printed_by="printer-person")


def new_load(n: int = 7, load_id: str = "") -> Load:
    return Load(load_id or f"load-{n}", "Z", n, "GS5_COOL", 38.0)


def new_bi(n: int = 7, load_id: str = "") -> BiologicalIndicator:
    return BiologicalIndicator(f"bi-{n}", "EZTEST", "LOT1", at(5000), load_id or f"load-{n}", "Z", n)


DEVICE = Steriliser("Z", "GS5", (("GS5_COOL", FAMILY), ("GS5_WARM", FAMILY)))

QA = {
    "stl_sha256": "ab" * 32,
    "material": "PLA",
    "layer_mm": 0.2,
    "nozzle_c": 210,
    "bed_c": 60,
    "speed_mm_s": 50,
    "measured_x_mm": 45.1,
    "measured_y_mm": 70.2,
    "measured_z_mm": 39.8,
    "weight_g": 29.5,
    "gauge_go": True,
    "gauge_no_go": True,
    "vents_clear": True,
    "engraved_id": "C1-L1",
    "photos": ["ab" * 32],
}
PACK = {
    "clean": True,
    "dry": True,
    "pack_id": "K-1",
    "pouch_material": "Tyvek",
    "pouch_lot": "P7",
    "pouch_expires_at": at(9000),
    "expires_at": at(4000),
    "label_case_id": "C-1",
    "label_level": "L1",
    "external_ci_present": True,
}
CYCLE = {
    "started_at": at(4),
    "ended_at": at(10),
    "exposure_min": 275,
    "min_c": 36.5,
    "max_c": 39.0,
    "min_humidity_pct": 45,
    "max_humidity_pct": 70,
    "eto_mg_l": 730,
    "alarms": [],
}
AERATE = {"aerator_id": "A1", "set_c": 38, "started_at": at(10.5)}
AERATED = {"ended_at": at(47), "min_c": 37.2, "max_c": 39.5}
READ = {
    "growth": False,
    "control_growth": True,
    "read_at": at(60),
    "incubator_min_c": 31,
    "incubator_max_c": 34,
}
ISSUE = {
    "scanned_pack_id": "K-1",
    "scanned_case_id": "C-1",
    "scanned_patient_reference": "P-9",
    "scanned_level": "L1",
    "pack_intact": True,
    "pack_dry": True,
}


class Story:
    """One item in one load; each step goes through the public functions."""

    def __init__(self, n: int = 7) -> None:
        self.item, self.load, self.bi, self.device = new_item(), new_load(n), new_bi(n), DEVICE

    def do_item(self, event, data, actor="tech", role="cssd_technician", hours=61.0, **extra):
        known = {"load": self.load, "bi": self.bi, "steriliser": self.device, "recalls": ()}
        known.update(extra)
        self.item = apply_item(self.item, event, data, actor, role, at(hours), SETTINGS, **known)

    def do_load(self, event, data, actor="tech", role="cssd_technician", hours=61.0, **extra):
        known = {"bi": self.bi, "steriliser": self.device, "recalls": ()}
        known.update(extra)
        self.load = apply_load(self.load, event, data, actor, role, at(hours), SETTINGS, **known)

    def do_bi(self, event, data, hours=61.0):
        self.bi = apply_bi(self.bi, event, data, "tech", "cssd_technician", at(hours), SETTINGS)

    def to_packed(self) -> Story:
        self.do_item("pass_qa", QA, "reviewer", "technician", 1)
        self.do_item("pack", PACK, hours=2)
        return self

    def to_loaded(self) -> Story:
        self.to_packed()
        self.do_load("add_item", {"item_id": "i1"}, hours=3)
        self.do_load("place_bi", {"pcd_id": "pcd", "bi_id": self.bi.id}, hours=3)
        self.do_item("load", {"load_id": self.load.id}, hours=3)
        return self

    def to_exposed(self) -> Story:
        self.to_loaded()
        self.do_load("start", {}, hours=4)
        self.do_load("finish_cycle", CYCLE, hours=10)
        self.do_item("expose", {}, hours=10)
        return self

    def to_quarantined(self) -> Story:
        self.to_exposed()
        self.do_bi(
            "start_incubation", {"incubator_id": "I1", "started_at": at(11), "control_lot": "LOT1"}, 11
        )
        self.do_load("start_aeration", AERATE, hours=11)
        self.do_item("start_aeration", {}, hours=11)
        self.do_load("finish_aeration", AERATED, hours=48)
        self.do_item("finish_aeration", {}, hours=48)
        return self

    def to_released(self) -> Story:
        self.to_quarantined()
        self.do_bi("read", READ)
        self.do_load("release", {"pcd_ci_pass": True}, "boss", "cssd_supervisor")
        self.do_item("release", {"external_ci_pass": True}, "boss", "cssd_supervisor")
        return self

    def to_issued(self) -> Story:
        self.to_released()
        self.do_item("issue", ISSUE, "nurse", "theatre_nurse", 70)
        return self

    def to_used(self) -> Story:
        self.to_issued()
        data = {"internal_ci_pass": True, "surgeon": "dr", "confirmed_level": "L1"}
        self.do_item("use", data, "nurse", "theatre_nurse", 71)
        return self


def refused(error: pytest.ExceptionInfo[SpineprintError]) -> set[str]:
    found = error.value.details["refused"]
    assert isinstance(found, dict)
    return set(found)


# --- the papers' route -----------------------------------------------------------------------------------


def test_the_whole_route_ends_in_discard_and_replays_to_the_same_item() -> None:
    story = Story().to_used()
    story.do_item("discard", {"reason": "after surgery"}, "nurse", "theatre_nurse", 75)
    assert story.item.state is ItemState.DISCARDED
    states = [h.to_state for h in story.item.history]
    assert states == [
        "QA_PASSED",
        "PACKED",
        "LOADED",
        "EXPOSED",
        "AERATING",
        "QUARANTINED",
        "RELEASED",
        "ISSUED",
        "USED",
        "DISCARDED",
    ]
    assert all(h.actor and h.at.tzinfo for h in story.item.history)
    assert story.item.version == len(story.item.history)
    assert replay_item(new_item(), story.item.history) == story.item


def test_replay_refuses_a_removed_line() -> None:
    history = Story().to_released().item.history
    with pytest.raises(InputRefusedError, match="breaks at"):
        replay_item(new_item(), history[:3] + history[4:])


@pytest.mark.parametrize("reach", ["to_loaded", "to_quarantined", "to_used"])
def test_documents_keep_every_value(reach: str) -> None:
    story = getattr(Story(), reach)()
    for value in (story.item, story.load, story.bi, story.device):
        document = json.loads(json.dumps(to_document(value)))
        assert from_document(type(value), document) == value


def test_documents_with_a_foreign_or_missing_field_are_refused() -> None:
    document = to_document(new_item())
    for broken in ({**document, "extra": 1}, {k: v for k, v in document.items() if k != "state"}):
        with pytest.raises(InputRefusedError, match="fields differ"):
            from_document(Item, broken)
    with pytest.raises(InputRefusedError):
        from_document(Item, {**document, "exposures": "0"})


# --- every (state, event) pair ---------------------------------------------------------------------------

EXPECTED_ITEM = {
    ("PRINTED", "pass_qa"): "QA_PASSED",
    ("PRINTED", "reject"): "REJECTED",
    ("QA_PASSED", "pack"): "PACKED",
    ("PACKED", "load"): "LOADED",
    ("LOADED", "expose"): "EXPOSED",
    ("LOADED", "fail_cycle"): "NONSTERILE",
    ("EXPOSED", "start_aeration"): "AERATING",
    ("AERATING", "finish_aeration"): "QUARANTINED",
    ("EXPOSED", "fail_processing"): "NONSTERILE",
    ("AERATING", "fail_processing"): "NONSTERILE",
    ("QUARANTINED", "release"): "RELEASED",
    ("QUARANTINED", "refuse_release"): "NONSTERILE",
    ("RELEASED", "issue"): "ISSUED",
    ("RELEASED", "withdraw"): "NONSTERILE",
    ("ISSUED", "return_unopened"): "RELEASED",
    ("ISSUED", "use"): "USED",
    ("ISSUED", "fail_in_theatre"): "NONSTERILE",
    ("RECALLED", "retrieve"): "NONSTERILE",
    ("NONSTERILE", "requalify"): "QA_PASSED",
    ("USED", "recall"): "USED",
    ("DISCARDED", "recall"): "DISCARDED",
    **{
        (s, "recall"): "RECALLED"
        for s in ("LOADED", "EXPOSED", "AERATING", "QUARANTINED", "RELEASED", "ISSUED")
    },
    **{
        (s, "discard"): "DISCARDED"
        for s in ("QA_PASSED", "PACKED", "USED", "REJECTED", "NONSTERILE", "RECALLED", "RELEASED")
    },
}
EXPECTED_LOAD = {
    ("OPEN", "add_item"): "OPEN",
    ("OPEN", "remove_item"): "OPEN",
    ("OPEN", "place_bi"): "OPEN",
    ("OPEN", "start"): "RUNNING",
    ("OPEN", "abort"): "ABORTED",
    ("RUNNING", "abort"): "ABORTED",
    ("RUNNING", "finish_cycle"): "EXPOSED",
    ("EXPOSED", "start_aeration"): "AERATING",
    ("AERATING", "finish_aeration"): "AERATED",
    ("AERATED", "release"): "RELEASED",
    **{(s, "fail"): "FAILED" for s in ("EXPOSED", "AERATING", "AERATED", "RELEASED")},
}
EXPECTED_BI = {
    ("PENDING", "start_incubation"): "PENDING",
    ("PENDING", "read"): "",
    ("PENDING", "mark_invalid"): "INVALID",
    ("NEGATIVE", "late_positive"): "POSITIVE",
    ("INVALID", "late_positive"): "POSITIVE",
}
EXPECTED_DEVICE = {
    ("IN_SERVICE", "take_out_of_service"): "OUT_OF_SERVICE",
    ("OUT_OF_SERVICE", "return_to_service"): "IN_SERVICE",
}
MACHINES = [
    (ITEM_TRANSITIONS, ItemState, EXPECTED_ITEM, lambda s: replace(new_item(), state=s), apply_item),
    (LOAD_TRANSITIONS, LoadState, EXPECTED_LOAD, lambda s: replace(new_load(), state=s), apply_load),
    (BI_TRANSITIONS, BiState, EXPECTED_BI, lambda s: replace(new_bi(), state=s), apply_bi),
    (
        STERILISER_TRANSITIONS,
        SteriliserState,
        EXPECTED_DEVICE,
        lambda s: replace(DEVICE, state=s),
        apply_steriliser,
    ),
]


@pytest.mark.parametrize(("table", "states", "expected", "make", "apply"), MACHINES)
def test_every_state_event_pair(table, states, expected, make, apply) -> None:
    assert {(s, t.event): t.target for t in table for s in t.sources} == expected
    for state in states:
        for event in events_of(table):
            thing = make(state)
            if (state, event) in expected:
                # The pair is legal: an unknown role gets as far as the role check, and no further.
                with pytest.raises(NotAllowedError, match="belongs to"):
                    apply(thing, event, {}, "x", "admin", T0, SETTINGS)
            else:
                with pytest.raises(ConflictError, match="not possible in state"):
                    apply(thing, event, {}, "x", "admin", T0, SETTINGS)


@pytest.mark.parametrize(("table", "states", "expected", "make", "apply"), MACHINES)
def test_tables_name_known_guards_and_describe_themselves(table, states, expected, make, apply) -> None:
    assert {g for t in table for g in t.guards} <= set(GUARDS)
    pairs = [(s, t.event) for t in table for s in t.sources]
    assert len(pairs) == len(set(pairs))
    assert json.loads(json.dumps(describe(table)))[0]["event"] == table[0].event
    with pytest.raises(InputRefusedError, match="no step called"):
        apply(make(next(iter(states))), "bless", {}, "x", "admin", T0, SETTINGS)


def test_released_is_reached_from_quarantine_and_unopened_return_only() -> None:
    ways = {(s, t.event) for t in ITEM_TRANSITIONS if t.target == "RELEASED" for s in t.sources}
    assert ways == {("QUARANTINED", "release"), ("ISSUED", "return_unopened")}


# --- guards ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "guard"),
    [
        ({"stl_sha256": "cd" * 32}, "params_match_plan"),
        ({"nozzle_c": 220}, "params_match_plan"),
        ({"material": "ABS"}, "params_match_plan"),
        ({"measured_z_mm": 40.6}, "dims_ok"),
        ({"weight_g": 28.4}, "weight_ok"),
        ({"weight_g": 31.6}, "weight_ok"),
        ({"gauge_go": False}, "gauges_ok"),
        ({"gauge_no_go": False}, "gauges_ok"),
        ({"photos": []}, "photographed"),
        ({"vents_clear": False}, "vents_ok"),
        ({"engraved_id": "C2-L1"}, "identity_ok"),
    ],
)
def test_qa_refuses(change, guard) -> None:
    story = Story()
    with pytest.raises(InputRefusedError) as error:
        story.do_item("pass_qa", {**QA, **change}, "reviewer", "technician", 1)
    assert refused(error) == {guard}


def test_a_part_whose_weight_is_not_known_is_refused() -> None:
    story = Story()
    story.item = replace(story.item, design=replace(story.item.design, part_weight_g=None))
    with pytest.raises(InputRefusedError, match="weight to expect is not known") as error:
        story.do_item("pass_qa", QA, "reviewer", "technician", 1)
    assert refused(error) == {"weight_ok"}


def test_the_inspection_keeps_weight_and_photographs_also_for_a_second_run() -> None:
    story = Story()
    story.do_item("pass_qa", QA, "reviewer", "technician", 1)
    assert story.item.qa is not None
    assert (story.item.qa.weight_g, story.item.qa.photos) == (29.5, ("ab" * 32,))


def test_the_printer_may_not_review_and_all_refusals_are_listed() -> None:
    story = Story()
    story.item = replace(story.item, design=replace(story.item.design, sealed_cavities=None))
    with pytest.raises(NotAllowedError) as error:
        story.do_item("pass_qa", {**QA, "measured_x_mm": 50}, "printer-person", "technician", 1)
    assert refused(error) == {"reviewer_ne_printer", "dims_ok", "no_sealed_cavity"}


def test_missing_and_malformed_data_are_listed_together() -> None:
    story = Story()
    data = {k: v for k, v in QA.items() if k != "bed_c"} | {"layer_mm": float("nan"), "colour": "red"}
    with pytest.raises(InputRefusedError) as error:
        story.do_item("pass_qa", data, "reviewer", "technician", 1)
    faults = " ".join(error.value.details["faults"])  # type: ignore[arg-type]
    assert all(word in faults for word in ("bed_c", "layer_mm", "colour"))


@pytest.mark.parametrize("who", [("", T0), ("anna", datetime(2026, 3, 2, 8))])  # noqa: DTZ001
def test_unsigned_steps_are_refused(who) -> None:
    with pytest.raises(InputRefusedError, match="named person"):
        apply_item(new_item(), "reject", {"reason": "warped"}, who[0], "technician", who[1], SETTINGS)


@pytest.mark.parametrize(
    ("change", "guard"),
    [
        ({"dry": False}, "clean_dry"),
        ({"pouch_material": "nylon"}, "pouch_eto_compatible"),
        ({"pouch_expires_at": at(1)}, "pouch_in_date"),
        ({"label_level": "L2"}, "label_matches_case"),
        ({"external_ci_present": False}, "external_ci_present"),
    ],
)
def test_packing_refuses(change, guard) -> None:
    story = Story()
    story.do_item("pass_qa", QA, "reviewer", "technician", 1)
    with pytest.raises(InputRefusedError) as error:
        story.do_item("pack", {**PACK, **change}, hours=2)
    assert refused(error) == {guard}


@pytest.mark.parametrize("cycle", ["GS5_WARM", "GS8_WARM", "EOGAS4_3H", "EOGAS4_6H", "AN75_12H", "UNKNOWN"])
def test_hot_unlisted_and_unvalidated_cycles_are_refused_for_pla(cycle: str) -> None:
    story = Story().to_packed()
    story.load = replace(new_load(), cycle_name=cycle, pcd_id="pcd", bi_id=story.bi.id)
    with pytest.raises(SpineprintError) as error:
        story.do_item("load", {"load_id": story.load.id}, hours=3)
    hot = cycle not in ("AN75_12H", "UNKNOWN")
    assert ("exposure_temp_ok" in refused(error)) is (hot or cycle == "UNKNOWN")
    assert cycle == "GS5_WARM" or "cycle_validated_for_family" in refused(error)


@pytest.mark.parametrize("planned", [50.0, 60.0, 45.1, 19.0])
def test_hot_or_cold_aeration_is_refused_before_loading(planned: float) -> None:
    story = Story().to_packed()
    story.load = replace(new_load(), planned_aeration_c=planned, pcd_id="pcd", bi_id=story.bi.id)
    with pytest.raises(InputRefusedError) as error:
        story.do_item("load", {"load_id": story.load.id}, hours=3)
    assert refused(error) == {"aeration_temp_ok"}


def test_loading_needs_indicator_device_and_first_exposure() -> None:
    story = Story().to_packed()
    story.device = replace(DEVICE, state=SteriliserState.OUT_OF_SERVICE)
    story.item = replace(story.item, exposures=1)
    with pytest.raises(ConflictError) as error:
        story.do_item("load", {"load_id": story.load.id}, hours=3, bi=None)
    assert refused(error) == {
        "steriliser_in_service",
        "resterilisation_ok",
        "pcd_and_bi_present",
        "bi_in_date",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"max_c": 41.5},
        {"min_c": 34.0},
        {"exposure_min": 269},
        {"min_humidity_pct": 39},
        {"max_humidity_pct": 81},
        {"eto_mg_l": 600},
        {"eto_mg_l": None},
        {"alarms": ["door"]},
        {"ended_at": at(4)},
        {"exposure_min": 400},
    ],
)
def test_cycles_out_of_window_are_refused_then_aborted(change) -> None:
    story = Story().to_loaded()
    story.do_load("start", {}, hours=4)
    with pytest.raises(InputRefusedError):
        story.do_load("finish_cycle", {**CYCLE, **change}, hours=10)
    with pytest.raises(ConflictError):
        story.do_item("expose", {}, hours=10)
    story.do_load("abort", {"reason": "out of window"}, hours=10)
    story.do_item("fail_cycle", {"reason": "out of window"}, "system", "system", 10)
    assert story.item.state is ItemState.NONSTERILE
    assert story.item.exposures == 1
    data = {"measured_x_mm": 45, "measured_y_mm": 70, "measured_z_mm": 40, "old_pack_removed": True}
    with pytest.raises(InputRefusedError) as error:
        story.do_item("requalify", data, "reviewer", "technician", 11)
    assert refused(error) == {"resterilisation_ok"}


@pytest.mark.parametrize(
    "change",
    [{"ended_at": at(46.4)}, {"min_c": 36.9}, {"max_c": 45.1}, {"min_c": 19.0}, {"min_c": 40, "max_c": 39}],
)
def test_short_cold_or_hot_aeration_is_refused(change) -> None:
    story = Story().to_exposed()
    story.do_load("start_aeration", AERATE, hours=11)
    with pytest.raises(InputRefusedError):
        story.do_load("finish_aeration", {**AERATED, **change}, hours=48)
    with pytest.raises(ConflictError):
        story.do_item("start_aeration", {}, hours=11, load=replace(story.load, state=LoadState.EXPOSED))


def test_hot_aeration_leads_to_nonsterile() -> None:
    story = Story().to_exposed()
    story.do_load("start_aeration", AERATE, hours=11)
    story.do_item("start_aeration", {}, hours=11)
    story.do_load("fail", {"reason": "52 °C in the aerator"}, "boss", "cssd_supervisor", 20)
    story.do_item("fail_processing", {"reason": "hot aeration"}, "boss", "cssd_supervisor", 20)
    assert story.item.state is ItemState.NONSTERILE


@pytest.mark.parametrize(
    ("coldest", "hours"),
    [(65, 8), (60, 8), (59.9, 12), (50, 12), (49.9, 36), (37, 36), (36.9, 168), (20, 168), (19.9, None)],
)
def test_aeration_takes_the_colder_row(coldest: float, hours: float | None) -> None:
    assert SETTINGS.aeration_hours(coldest) == hours


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, "NEGATIVE"),
        ({"control_growth": False}, "INVALID"),
        ({"growth": True}, "POSITIVE"),
        ({"growth": True, "read_at": at(20)}, "POSITIVE"),
        ({"incubator_max_c": 36}, "INVALID"),
        ({"incubator_min_c": None}, "INVALID"),
    ],
)
def test_reading_the_indicator(change, state: str) -> None:
    story = Story().to_quarantined()
    story.do_bi("read", {**READ, **change})
    assert story.bi.state == state
    if state != "NEGATIVE":
        with pytest.raises(SpineprintError) as error:
            story.do_load("release", {"pcd_ci_pass": True}, "boss", "cssd_supervisor")
        assert "bi_negative" in refused(error)
        with pytest.raises(ConflictError):  # a second reading never releases
            story.do_bi("read", READ)


def test_no_growth_before_the_readout_time_says_when_to_come_back() -> None:
    story = Story().to_quarantined()
    with pytest.raises(InputRefusedError, match="2026-03-04 19:00 UTC"):
        story.do_bi("read", {**READ, "read_at": at(58.9)})


def test_a_control_of_another_lot_makes_the_reading_invalid() -> None:
    bi = new_bi()
    start = {"incubator_id": "I1", "started_at": at(11), "control_lot": "LOT2"}
    bi = apply_bi(bi, "start_incubation", start, "t", "cssd_technician", at(11), SETTINGS)
    assert apply_bi(bi, "read", READ, "t", "cssd_technician", at(61), SETTINGS).state is BiState.INVALID


def test_rapid_reader_needs_its_reader_and_four_hours() -> None:
    for incubator, expected in (("390G-2", BiState.NEGATIVE), ("I1", BiState.INVALID)):
        bi = replace(new_bi(), product="ATTEST_1294")
        start = {"incubator_id": incubator, "started_at": at(11), "control_lot": "LOT1"}
        bi = apply_bi(bi, "start_incubation", start, "t", "cssd_technician", at(11), SETTINGS)
        data = {"growth": False, "control_growth": True, "read_at": at(15)}
        assert apply_bi(bi, "read", data, "t", "cssd_technician", at(15), SETTINGS).state is expected


def test_operator_may_not_release_even_as_supervisor_and_pcd_must_pass() -> None:
    story = Story().to_quarantined()
    story.do_bi("read", READ)
    with pytest.raises(NotAllowedError) as error:
        story.do_load("release", {"pcd_ci_pass": False}, "tech", "cssd_supervisor")
    assert refused(error) == {"releaser_ne_operator", "pcd_ci_pass"}
    with pytest.raises(ConflictError) as conflict:
        story.do_load("release", {"pcd_ci_pass": True}, "boss", "cssd_supervisor", recalls=None)
    assert refused(conflict) == {"no_open_recall"}
    with pytest.raises(NotAllowedError, match="belongs to"):
        story.do_load("release", {"pcd_ci_pass": True}, "root", "admin")


def test_item_is_not_released_before_its_load_nor_with_failed_pack_indicator() -> None:
    story = Story().to_quarantined()
    with pytest.raises(ConflictError) as error:
        story.do_item("release", {"external_ci_pass": False}, "boss", "cssd_supervisor")
    assert refused(error) == {"load_released", "pack_external_ci_pass"}


@pytest.mark.parametrize(
    ("change", "hours", "guard"),
    [
        ({"scanned_patient_reference": "P-8"}, 70, "patient_case_level_match"),
        ({"scanned_level": "L2"}, 70, "patient_case_level_match"),
        ({"pack_dry": False}, 70, "pack_intact_dry"),
        ({}, 4001, "not_expired"),
        ({}, 24 * 28, "ct_age_ok"),
    ],
)
def test_issue_refuses_at_the_door(change, hours, guard) -> None:
    story = Story().to_released()
    with pytest.raises(InputRefusedError) as error:
        story.do_item("issue", {**ISSUE, **change}, "nurse", "theatre_nurse", hours)
    assert guard in refused(error)


def test_theatre_guards() -> None:
    story = Story().to_issued()
    with pytest.raises(NotAllowedError) as error:
        data = {"internal_ci_pass": False, "surgeon": "nurse", "confirmed_level": "L1"}
        story.do_item("use", data, "nurse", "theatre_nurse", 71)
    assert refused(error) == {"internal_ci_pass", "surgeon_confirms_level"}
    back = {"unopened": True, "pack_intact": True, "pack_dry": True}
    with pytest.raises(InputRefusedError) as opened:
        story.do_item("return_unopened", {**back, "unopened": False}, "nurse", "theatre_nurse", 71)
    assert refused(opened) == {"unopened"}
    story.do_item("return_unopened", back, "nurse", "theatre_nurse", 71)
    with pytest.raises(InputRefusedError, match="neither expired"):
        story.do_item("withdraw", {"reason": "tidy"}, "system", "system", 80)
    story.do_item("withdraw", {"reason": "expired"}, "system", "system", 4000)
    assert story.item.state is ItemState.NONSTERILE


# --- recall ----------------------------------------------------------------------------------------------


def _cycles(results: dict[int, BiState | None]) -> tuple[list[Load], list[BiologicalIndicator]]:
    loads = [replace(new_load(n), item_ids=(f"i{n}",), state=LoadState.RELEASED) for n in results]
    bis = [replace(new_bi(n), state=state) for n, state in results.items() if state is not None]
    return loads, bis


N, P, X, W = BiState.NEGATIVE, BiState.POSITIVE, BiState.INVALID, BiState.PENDING


@pytest.mark.parametrize(
    ("results", "cycles"),
    [
        ({1: N, 2: P, 3: N}, [2]),
        ({1: N, 2: None, 3: P, 4: X, 5: N, 6: N}, [2, 3, 4]),
        ({1: X, 2: P}, [1, 2]),
        ({1: N, 2: P, 3: W, 4: W}, [2, 3, 4]),
        ({1: N, 2: N, 3: P, 4: P, 5: N}, [3, 4]),
    ],
)
def test_recall_set_between_the_satisfactory_cycles(results, cycles) -> None:
    loads, bis = _cycles(results)
    positive = min(n for n, s in results.items() if s is P)
    other = replace(new_load(2, "other"), steriliser_id="Y", item_ids=("foreign",))
    found = recall_set("Z", positive, [*loads, other], bis)
    assert found.load_ids == tuple(f"load-{n}" for n in cycles)
    assert found.item_ids == tuple(f"i{n}" for n in cycles)
    assert found.growing is (max(cycles) == max(results))
    assert "foreign" not in found.item_ids


def test_positive_after_release_recalls_flags_and_is_idempotent() -> None:
    used, issued = Story(7).to_used(), Story(7).to_issued()
    spare = replace(issued.item, id="i2")
    load = replace(used.load, item_ids=("i1", "i2"))
    bi = apply_bi(
        used.bi,
        "late_positive",
        {"reason": "growth on day 7"},
        "tech",
        "cssd_technician",
        at(170),
        SETTINGS,
    )
    first = apply_recall(bi, DEVICE, [load], [bi], [used.item, spare], at(171), SETTINGS)
    assert [i.state for i in first.items] == [ItemState.USED, ItemState.RECALLED]
    assert first.items[0].recalled_after_use
    assert not first.items[1].recalled_after_use
    assert [i.item_id for i in first.incidents] == ["i1"]
    assert first.loads[0].state is LoadState.FAILED
    assert first.steriliser.state is SteriliserState.OUT_OF_SERVICE
    again = apply_recall(bi, first.steriliser, first.loads, [bi], first.items, at(172), SETTINGS)
    assert (again.steriliser, again.loads, again.items, again.incidents) == (
        first.steriliser,
        first.loads,
        first.items,
        (),
    )
    assert open_recalls([load], [bi]) == (first.recall,)
    with pytest.raises(ConflictError):
        apply_item(
            again.items[1],
            "release",
            {"external_ci_pass": True},
            "boss",
            "cssd_supervisor",
            at(173),
            SETTINGS,
        )


def test_return_to_service_needs_three_consecutive_negative_empty_cycles() -> None:
    out = apply_steriliser(
        DEVICE,
        "take_out_of_service",
        {"reason": "positive", "last_cycle": 7},
        "boss",
        "cssd_supervisor",
        at(0),
        SETTINGS,
    )
    bis = tuple(replace(new_bi(n), state=N, incubation_started_at=at(n)) for n in (8, 9, 10, 12))
    for ids, fine in (
        (["bi-8", "bi-9"], False),
        (["bi-8", "bi-9", "bi-12"], False),
        (["bi-8", "bi-9", "bi-99"], False),
        (["bi-8", "bi-9", "bi-10"], True),
    ):
        data = {"repair_reference": "R1", "bi_ids": ids}
        if fine:
            back = apply_steriliser(
                out, "return_to_service", data, "boss", "cssd_supervisor", at(99), SETTINGS, bis=bis
            )
            assert back.state is SteriliserState.IN_SERVICE
        else:
            with pytest.raises(InputRefusedError, match="consecutive"):
                apply_steriliser(
                    out, "return_to_service", data, "boss", "cssd_supervisor", at(99), SETTINGS, bis=bis
                )
