"""What the slicing task hands over when there is no engine, and what it says a print will cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trimesh

from adapters.cura_engine import CuraEngineConfig, CuraEngineSlicer
from service.config import load_config
from service.domain.case import CaseState
from service.domain.costs import Prices, estimate
from service.errors import GeometryError, ToolMissingError, from_document
from service.geometry.mesh import write_stl
from service.geometry.progress import silent
from service.ports import SliceResult
from service.store import audit, blobs
from service.store.database import reading
from service.workflow.tasks.slice_task import _figures, slice_task
from tests.support_app import Rig, bring, make_rig


def _argument(folder: Path) -> dict[str, str]:
    part = trimesh.creation.box((20, 12, 8)).apply_translation((0, 0, 4))
    for name in ("model.stl", "print.stl", "filler.stl", "blocker.stl"):
        write_stl(part.vertices, part.faces, folder / name)
    (folder / "print.json").write_text(
        json.dumps({"print_from_lps": trimesh.transformations.identity_matrix().tolist()})
    )
    (folder / "out").mkdir()
    return {
        "print_mesh": str(folder / "print.stl"),
        "mesh": str(folder / "model.stl"),
        "layout": str(folder / "print.json"),
        "plan": str(folder / "plan.json"),
        "filler": str(folder / "filler.stl"),
        "blocker": str(folder / "blocker.stl"),
        "out": str(folder / "out"),
    }


@pytest.fixture
def no_engine(tmp_path: Path) -> CuraEngineSlicer:
    return CuraEngineSlicer(CuraEngineConfig(engine=tmp_path / "none"))


def test_without_an_engine_meshes_and_settings_are_handed_over(tmp_path: Path, no_engine: CuraEngineSlicer):
    with pytest.raises(ToolMissingError) as caught:
        slice_task(no_engine, _argument(tmp_path), silent)
    error = caught.value
    assert "apt-get install cura-engine" in error.next_step
    assert all(
        n in error.next_step for n in ("print.stl", "filler.stl", "blocker.stl", "print.settings.json")
    )
    assert error.details["files"] == {"part": "print.stl", "filler": "filler.stl", "blocker": "blocker.stl"}
    assert str(tmp_path) not in json.dumps(error.to_document())  # a path may bear a name
    document = json.loads((tmp_path / "out/print.settings.json").read_text())
    assert document == error.details["settings"]
    assert document["print"]["nozzle_c"] == 210
    assert document["cura"]["all"]["layer_height"] == 0.2
    assert document["cura"]["all"]["support_type"] == "buildplate"
    assert document["cura"]["filler"]["infill_pattern"] == "lightning"
    assert document["cura"]["blocker"] == {"anti_overhang_mesh": True}
    assert document["only_in_setting_versions"] == {
        "fill_perimeter_gaps": [0, 19],
        "speed_equalize_flow_width_factor": [20, None],
        "retraction_combing": [20, None],
    }


def test_what_was_handed_over_survives_the_way_to_another_process(
    tmp_path: Path, no_engine: CuraEngineSlicer
):
    with pytest.raises(ToolMissingError) as caught:
        slice_task(no_engine, _argument(tmp_path), silent)
    again = from_document(json.loads(json.dumps(caught.value.to_document())))
    assert isinstance(again, ToolMissingError)
    assert again.details == caught.value.details


def test_another_part_than_the_approved_one_is_not_handed_over(tmp_path: Path, no_engine: CuraEngineSlicer):
    argument = _argument(tmp_path)
    other = trimesh.creation.box((20, 12, 9)).apply_translation((0, 0, 4.5))
    write_stl(other.vertices, other.faces, tmp_path / "print.stl")
    with pytest.raises(GeometryError, match="not the approved mesh"):
        slice_task(no_engine, argument, silent)
    assert not (tmp_path / "out/print.settings.json").exists()


def test_a_parked_case_keeps_the_settings_among_its_files(
    tmp_path: Path, no_engine: CuraEngineSlicer, rig: Rig
):
    case = bring(rig, CaseState.APPROVED)
    own = _argument(tmp_path)
    rig.tasks._slice = lambda given: slice_task(no_engine, own | {"out": given["out"]}, silent)  # type: ignore[method-assign]
    rig.run_jobs("slice")
    attention = rig.case(case.id).attention
    assert attention is not None
    assert attention["code"] == "tool.missing"
    assert attention["details"]["files"]["part"] == "print.stl"
    with reading(rig.app.engine) as connection:
        kept = blobs.current(connection, case.id)["print_settings"]
    assert json.loads(kept.path.read_text()) == attention["details"]["settings"]


@pytest.mark.parametrize(
    ("prices", "cost"),
    [
        (Prices(), None),
        (Prices("CHF", pla_per_kg=25.0), {"currency": "CHF", "material": 1.25, "total": 1.25}),
        (Prices(printer_per_h=2.0), {"currency": "EUR", "printer": 10.5, "total": 10.5}),
        (
            Prices(pla_per_kg=25.0, printer_per_h=2.0),
            {"currency": "EUR", "material": 1.25, "printer": 10.5, "total": 11.75},
        ),
    ],
)
def test_cost_is_of_what_has_a_price(prices: Prices, cost: dict[str, object] | None):
    assert estimate(prices, weight_g=50.0, print_time_s=18900) == cost


def test_prices_are_configured_and_without_them_there_is_no_cost(tmp_path: Path):
    assert Prices.from_document(load_config(None, environ={}).costs.model_dump()) == Prices()
    file = tmp_path / "c.toml"
    file.write_text('[costs]\ncurrency = "CHF"\npla_per_kg = 30\nprinter_per_h = 1.5\n')
    costs = load_config(file, environ={}).costs
    assert Prices.from_document(costs.model_dump()) == Prices("CHF", 30.0, 1.5)


def test_the_report_has_the_cost_only_with_a_price(tmp_path: Path):
    sliced = SliceResult(
        tmp_path / "a.gcode", print_time_s=7200, material_mm3=40_000.0, layer_count=9, engine="tiny"
    )
    assert "cost" not in _figures(sliced, Prices())
    figures = _figures(sliced, Prices("CHF", pla_per_kg=20.0, printer_per_h=1.0))
    assert figures["weight_g"] == pytest.approx(49.6)
    assert figures["cost"] == {"currency": "CHF", "material": 0.99, "printer": 2.0, "total": 2.99}


def test_the_prices_reach_the_task_and_the_cost_the_events_of_the_case(tmp_path: Path):
    rig = make_rig(tmp_path, costs={"pla_per_kg": 20.0})
    case = bring(rig, CaseState.APPROVED)
    cost = {"currency": "EUR", "material": 0.99, "total": 0.99}
    plain = rig.tasks._slice
    rig.tasks._slice = lambda given: {**plain(given), "weight_g": 49.6, "cost": cost}  # type: ignore[method-assign]
    rig.run_jobs("slice")
    assert rig.case(case.id).state is CaseState.SLICED
    asked = next(argument for kind, argument in rig.tasks.calls if kind == "slice")
    assert Prices.from_document(asked["prices"]) == Prices(pla_per_kg=20.0)
    with reading(rig.app.engine) as connection:
        rows = audit.history(connection, case.subject)
    data = next(r.data for r in rows if r.event == "gcode_ready")
    assert (data["weight_g"], data["cost"]) == (49.6, cost)
    rig.app.engine.dispose()
