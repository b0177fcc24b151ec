"""What was printed, judged before loading: solid walls, channels in the validated range, gas path, lumens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.sterilisation import (
    GcodeProof,
    ItemState,
    SterilisationSettings,
    apply_item,
)
from service.domain.sterilisation_settings import MaterialLimit
from service.errors import InputRefusedError, SpineprintError
from tests.unit.test_sterilisation_machines import SETTINGS, Story, at, refused

GOOD = GcodeProof("cd" * 32, True, 1.02, (2.3, 2.4), 0.02)


def ready(site: SterilisationSettings = SETTINGS, **design: Any):
    """A packed item with a changed design, and the load it is to go into."""
    story = Story().to_packed()
    story.do_load("add_item", {"item_id": "i1"}, hours=3)
    story.do_load("place_bi", {"pcd_id": "pcd", "bi_id": story.bi.id}, hours=3)
    story.item = replace(story.item, design=replace(story.item.design, **design))

    def load(role: str = "cssd_technician"):
        return apply_item(
            story.item, "load", {"load_id": story.load.id}, "tech", role, at(3), site,
            load=story.load, bi=story.bi, steriliser=story.device, recalls=(),
        )  # fmt: skip

    return load


@pytest.mark.parametrize(
    ("design", "guard", "said"),
    [
        ({"gcode": None}, "solid_walls", "no audit is stored"),
        ({"gcode": replace(GOOD, passed=False)}, "solid_walls", "did not pass"),
        ({"gcode": replace(GOOD, part_over_mesh=None)}, "solid_walls", "not recorded times the plastic"),
        ({"gcode": replace(GOOD, part_over_mesh=0.62)}, "solid_walls", "0.62 times the plastic of a solid part"),
        ({"gcode": replace(GOOD, part_over_mesh=1.2)}, "solid_walls", "0.92 to 1.08 allowed"),
        ({"gcode": replace(GOOD, layer_off_most=None)}, "solid_walls", "farthest off is not recorded"),
        ({"gcode": replace(GOOD, layer_off_most=0.2)}, "solid_walls", "farthest off is 0.2 (share of its"),
        ({"channels_mm": None}, "channels_validated", "no channel was measured"),
        ({"channels_mm": (2.8, 2.4)}, "channels_validated", "channel 2 is 2.4 mm wide on the mesh, validated 2.5 to 4"),
        ({"channels_mm": (4.2, 2.8)}, "channels_validated", "channel 1 is 4.2 mm"),
        ({"gcode": replace(GOOD, channels_free_mm=(2.3,))}, "channels_validated", "1 of 2 channels were measured"),
        ({"gcode": replace(GOOD, channels_free_mm=(2.3, None))}, "channels_validated", "channel 2 is not recorded mm"),
        ({"gcode": replace(GOOD, channels_free_mm=(1.9, 2.3))}, "channels_validated", "channel 1 is 1.9 mm free"),
        ({"sealed_cavities": 1}, "gas_path_proven", "sealed cavities 1, none allowed"),
        ({"openings_per_cavity": 1}, "gas_path_proven", "openings 1, at least 2"),
        ({"narrowest_opening_mm": 2.9}, "gas_path_proven", "narrowest opening 2.9 mm, at least 3"),
        ({"longest_path_mm": None}, "gas_path_proven", "gas path not recorded mm, at most 400"),
    ],
)  # fmt: skip
def test_loading_refuses_what_where_and_what_next(design: dict[str, Any], guard: str, said: str) -> None:
    with pytest.raises(InputRefusedError) as error:
        ready(**design)()
    assert guard in refused(error)
    reason = error.value.details["refused"][guard]  # type: ignore[index]
    assert said in reason
    assert "item i1 (L1)" in reason
    assert "print" in error.value.next_step
    assert error.value.next_step.endswith("No role can skip a check.")


def test_a_proven_print_is_loaded() -> None:
    assert ready()().state is ItemState.LOADED


@pytest.mark.parametrize("role", ["admin", "cssd_supervisor", "system", "surgeon"])
def test_no_role_goes_past_them(role: str) -> None:
    with pytest.raises(SpineprintError):
        ready(gcode=None)(role)


def test_the_ranges_are_those_of_the_site() -> None:
    wide = replace(SETTINGS, channel_mm=(2.0, 4.0), walls_solid_ratio=(0.5, 1.5), channel_free_min_mm=1.0)
    wide = replace(wide, walls_layer_off_max=0.2)
    design = {"channels_mm": (2.3, 2.3), "gcode": GcodeProof("x", True, 0.6, (1.5, 1.5), 0.15)}
    assert ready(wide, **design)().state is ItemState.LOADED
    with pytest.raises(SpineprintError):
        ready(**design)()
    strict = replace(SETTINGS, materials=(MaterialLimit("PLA", 40.0, "S", "own"),))
    with pytest.raises(SpineprintError) as error:
        ready(strict)()
    assert refused(error) == {"exposure_temp_ok"}
    assert "cooler cycle" in error.value.next_step


def test_a_load_takes_no_more_channels_than_the_device_is_cleared_for() -> None:
    story = Story().to_packed()
    story.do_load("place_bi", {"pcd_id": "pcd", "bi_id": story.bi.id}, hours=3)
    # GS5: 20 lumens; ten items of two channels fit, the eleventh does not
    for count, fits in ((10, True), (11, False)):
        story.load = replace(story.load, item_ids=("i1", *(f"other-{n}" for n in range(count - 1))))
        try:
            state = apply_item(
                story.item, "load", {"load_id": story.load.id}, "tech", "cssd_technician", at(3), SETTINGS,
                load=story.load, bi=story.bi, steriliser=story.device, recalls=(),
            ).state  # fmt: skip
        except InputRefusedError as error:
            assert not fits
            assert "22 channels; GS5_COOL allows 20" in error.details["refused"]["lumens_ok"]  # type: ignore[index]
        else:
            assert fits and state is ItemState.LOADED


RATIO = st.none() | st.floats(0, 2)
WIDTHS = st.none() | st.lists(st.floats(0, 6), max_size=3).map(tuple)


@settings(max_examples=200, deadline=None)
@given(RATIO, WIDTHS, st.sampled_from(["gcode", "channels_mm", "sealed_cavities", "longest_path_mm"]))
def test_a_proof_lost_never_turns_a_refusal_into_an_acceptance(ratio, widths, lost: str) -> None:
    free = tuple(2.3 for _ in widths or ())
    design = {"gcode": GcodeProof("x", True, ratio, free, 0.02), "channels_mm": widths}
    with pytest.raises(SpineprintError):
        ready(**{**design, lost: None})()
