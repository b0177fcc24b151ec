"""The table of the item machine: from the printed part to its discard (facts sheet, section 2).

The rows are the sheet's, with additions that only lead away from the patient: a released load is asked for again
at the door and on opening (it may have failed since); the service itself refuses quarantined items of a failed
load; `fail_processing` (an item exposed or aerating in a load that failed would otherwise have no way out);
discarding before loading (clinical report, section 1: "USED/any -> DISCARDED"); and flagging a used item as
recalled without changing its state.
"""

from __future__ import annotations

from service.domain.sterilisation_model import ItemState
from service.domain.sterilisation_table import FieldSpec, Transition

S = ItemState
_REASON = FieldSpec("reason", "text", "why, in words")
_NOTE = FieldSpec("reason", "text", "remark", required=False)
_PACK_STATE = (
    FieldSpec("pack_intact", "flag", "the pack is undamaged"),
    FieldSpec("pack_dry", "flag", "the pack is dry"),
)

IN_PROCESS = (S.LOADED, S.EXPOSED, S.AERATING, S.QUARANTINED, S.RELEASED, S.ISSUED)

ITEM_TRANSITIONS: tuple[Transition, ...] = (
    Transition(
        (S.PRINTED,),
        "pass_qa",
        S.QA_PASSED,
        ("qa_reviewer",),
        (
            "params_match_plan",
            "dims_ok",
            "no_sealed_cavity",
            "vents_ok",
            "identity_ok",
            "reviewer_ne_printer",
        ),
        (
            FieldSpec("stl_sha256", "text", "hash of the mesh that was printed"),
            FieldSpec("material", "text", "material printed"),
            FieldSpec("layer_mm", "number", "layer height, mm"),
            FieldSpec("nozzle_c", "number", "nozzle temperature, °C"),
            FieldSpec("bed_c", "number", "bed temperature, °C"),
            FieldSpec("speed_mm_s", "number", "print speed, mm/s"),
            FieldSpec("measured_x_mm", "number", "measured width, mm"),
            FieldSpec("measured_y_mm", "number", "measured depth, mm"),
            FieldSpec("measured_z_mm", "number", "measured height, mm"),
            FieldSpec("vents_clear", "flag", "all vents and channels are open to the eye"),
            FieldSpec("engraved_id", "text", "identity read on the part or its tag"),
            FieldSpec("photos", "texts", "hashes of the photographs taken", required=False),
            _NOTE,
        ),
        "A second person compares the print with the approved plan.",
        signed=True,
    ),
    Transition((S.PRINTED,), "reject", S.REJECTED, ("qa_reviewer",), ("reason",), (_REASON,)),
    Transition(
        (S.QA_PASSED,),
        "pack",
        S.PACKED,
        ("cssd_tech",),
        ("clean_dry", "pouch_eto_compatible", "pouch_in_date", "label_matches_case", "external_ci_present"),
        (
            FieldSpec("clean", "flag", "cleaned"),
            FieldSpec("dry", "flag", "dry"),
            FieldSpec("pack_id", "text", "number on the pack's label"),
            FieldSpec("pouch_material", "text", "pouch material, e.g. tyvek"),
            FieldSpec("pouch_lot", "text", "lot of the pouch"),
            FieldSpec("pouch_expires_at", "time", "use-by of the unused pouch"),
            FieldSpec("expires_at", "time", "use-by of the sterile pack"),
            FieldSpec("label_case_id", "text", "case on the label"),
            FieldSpec("label_level", "text", "level on the label"),
            FieldSpec("external_ci_present", "flag", "chemical indicator outside the pack"),
            _NOTE,
        ),
        "Clean, dry, in an EtO pouch with label and outside indicator.",
    ),
    Transition(
        (S.PACKED,),
        "load",
        S.LOADED,
        ("cssd_tech",),
        (
            "steriliser_in_service",
            "load_open",
            "cycle_validated_for_family",
            "exposure_temp_ok",
            "aeration_temp_ok",
            "gas_path_proven",
            "solid_walls",
            "channels_validated",
            "lumens_ok",
            "resterilisation_ok",
            "not_expired",
            "pcd_and_bi_present",
            "bi_in_date",
        ),
        (
            FieldSpec("load_id", "text", "the open load"),
            FieldSpec("position", "text", "place in the chamber", False),
            _NOTE,
        ),
        "Into an open load of a steriliser in service.",
    ),
    Transition(
        (S.LOADED,),
        "expose",
        S.EXPOSED,
        ("cssd_tech",),
        (
            "load_matches",
            "load_is_exposed",
            "cycle_record_complete",
            "all_parameters_in_window",
            "no_alarm",
            "max_temp_ok",
        ),
        (_NOTE,),
        "The load's cycle ran within its window.",
        signed=True,
    ),
    Transition(
        (S.LOADED,),
        "fail_cycle",
        S.NONSTERILE,
        ("system",),
        ("load_matches", "cycle_aborted_or_out_of_window"),
        (
            _REASON,
            FieldSpec("gas_entered", "flag", "did gas reach the chamber (unknown counts as yes)", False),
        ),
    ),
    Transition(
        (S.EXPOSED,),
        "start_aeration",
        S.AERATING,
        ("cssd_tech",),
        ("load_matches", "load_is_aerating", "aerator_id", "temp_ok"),
        (_NOTE,),
    ),
    Transition(
        (S.AERATING,),
        "finish_aeration",
        S.QUARANTINED,
        ("cssd_tech",),
        ("load_matches", "load_is_aerated", "aeration_hours_ok", "max_temp_ok"),
        (_NOTE,),
    ),
    Transition(
        (S.EXPOSED, S.AERATING),
        "fail_processing",
        S.NONSTERILE,
        ("cssd_supervisor", "system"),
        ("load_matches", "cycle_aborted_or_out_of_window", "reason"),
        (_REASON,),
        "The load failed after exposure.",
    ),
    Transition(
        (S.QUARANTINED,),
        "release",
        S.RELEASED,
        ("cssd_supervisor",),
        ("load_released", "pack_external_ci_pass", "no_open_recall", "releaser_ne_operator", "not_expired"),
        (FieldSpec("external_ci_pass", "flag", "chemical indicator outside this pack passed"), _NOTE),
        "The supervisor releases this pack of a released load.",
        signed=True,
    ),
    Transition(
        (S.QUARANTINED,),
        "refuse_release",
        S.NONSTERILE,
        ("cssd_supervisor", "system"),
        ("reason",),
        (_REASON,),
        "Not released; the service itself takes this step when the load fails.",
    ),
    Transition(
        (S.RELEASED,),
        "issue",
        S.ISSUED,
        ("theatre_nurse",),
        ("patient_case_level_match", "pack_intact_dry", "not_expired", "ct_age_ok", "load_released"),
        (
            FieldSpec("scanned_pack_id", "text", "scanned from the pack"),
            FieldSpec("scanned_case_id", "text", "scanned from the pack"),
            FieldSpec("scanned_patient_reference", "text", "scanned from the wristband"),
            FieldSpec("scanned_level", "text", "scanned from the pack"),
            *_PACK_STATE,
            _NOTE,
        ),
        "Pack and wristband are scanned at the door.",
    ),
    Transition(
        (S.ISSUED,),
        "return_unopened",
        S.RELEASED,
        ("theatre_nurse",),
        ("unopened", "pack_intact_dry", "not_expired", "load_released"),
        (FieldSpec("unopened", "flag", "the pack was not opened"), *_PACK_STATE, _NOTE),
    ),
    Transition(
        (S.ISSUED,),
        "use",
        S.USED,
        ("theatre_nurse",),
        ("internal_ci_pass", "surgeon_confirms_level", "not_expired", "load_released"),
        (
            FieldSpec("internal_ci_pass", "flag", "chemical indicator inside the pack passed"),
            FieldSpec("surgeon", "text", "who confirmed the level"),
            FieldSpec("confirmed_level", "text", "the level the surgeon named"),
            _NOTE,
        ),
    ),
    Transition((S.ISSUED,), "fail_in_theatre", S.NONSTERILE, ("theatre_nurse",), ("reason",), (_REASON,)),
    Transition(
        (S.RELEASED,),
        "withdraw",
        S.NONSTERILE,
        ("system", "cssd_tech", "cssd_supervisor", "theatre_nurse", "qa_reviewer"),
        ("expired_or_damaged",),
        (_REASON, FieldSpec("damaged", "flag", "damaged, wet or dropped", required=False)),
        "Expired (automatic), damaged, wet or dropped.",
    ),
    Transition(
        IN_PROCESS,
        "recall",
        S.RECALLED,
        ("system",),
        ("in_recall_set",),
        (_REASON,),
        "A positive indicator calls the item back.",
    ),
    Transition(
        (S.USED,), "recall", S.USED, ("system",), ("in_recall_set",), (_REASON,), "Flag and incident only."
    ),
    Transition(
        (S.DISCARDED,),
        "recall",
        S.DISCARDED,
        ("system",),
        ("in_recall_set", "was_used"),
        (_REASON,),
        "Flag and incident for an item that was used and then discarded.",
    ),
    Transition(
        (S.RECALLED,),
        "retrieve",
        S.NONSTERILE,
        ("cssd_supervisor",),
        ("retrieved",),
        (FieldSpec("retrieved", "flag", "the item is back in sterile services"), _NOTE),
    ),
    Transition(
        (S.NONSTERILE,),
        "requalify",
        S.QA_PASSED,
        ("qa_reviewer",),
        ("resterilisation_ok", "dims_ok", "new_pack"),
        (
            FieldSpec("measured_x_mm", "number", "measured width, mm"),
            FieldSpec("measured_y_mm", "number", "measured depth, mm"),
            FieldSpec("measured_z_mm", "number", "measured height, mm"),
            FieldSpec("old_pack_removed", "flag", "the old pack was removed"),
            _NOTE,
        ),
        "Only where the resterilisation limit allows.",
        signed=True,
    ),
    Transition((S.USED,), "discard", S.DISCARDED, ("theatre_nurse",), ("reason",), (_REASON,)),
    Transition(
        (S.QA_PASSED, S.PACKED, S.REJECTED, S.NONSTERILE, S.RECALLED, S.RELEASED),
        "discard",
        S.DISCARDED,
        ("cssd_tech",),
        ("reason",),
        (_REASON,),
    ),
)
