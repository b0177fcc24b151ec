"""A corrected point starts from the fit before: kept whole, taken only where it leads to the same vertebrae."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.geometry.anatomy import EndplatePoints, Isolation, Seeds
from service.geometry.isolation import isolate_resumable, isolate_vertebra
from service.geometry.refit import RefitSettings, _same_place, refit_spine
from service.geometry.shape_fit import PlacedShape, Pose, place
from service.geometry.spine_fit import FitStart
from service.geometry.templates import templates_for
from service.geometry.volume import Volume
from service.workflow.tasks.kept_fit import FILE, read_start, write_start
from simulators.phantom.anatomy import PhantomParameters
from simulators.phantom.study import generate
from tests.unit.vertebra_model import ModelVertebra


def placed(level: str, centre: tuple[float, float, float], yaw_deg: float = 0.0) -> PlacedShape:
    yaw = np.radians(yaw_deg)
    axes = np.array([[np.cos(yaw), -np.sin(yaw), 0.0], [np.sin(yaw), np.cos(yaw), 0.0], [0.0, 0.0, 1.0]])
    template = templates_for(level, count=1)[0]
    pose = Pose(np.array(centre), axes, np.array([1.01, 0.97, 1.1]))
    return PlacedShape(template, pose, 0.123456789, place(template, pose))


def start_of(seeds: Seeds) -> FitStart:
    beside = (placed("L1", (0.0, 0.0, 34.0)), placed("L3", (0.0, 1.0, -35.0), 3.0))
    return FitStart(
        seeds=seeds,
        low=np.array([-60.0, -50.0, -70.1]),
        high=np.array([60.0, 80.0, 70.0]),
        candidates=(placed("L2", (0.1, 0.2, 0.3)), placed("L1", (0.0, 0.0, 0.0))),
        searched=beside,
        bent=tuple(replace(s, vertices=s.vertices + 0.1 * np.sin(s.vertices)) for s in beside),
    )


SEEDS = Seeds(np.zeros(3), np.array([0.0, 0.0, 34.0]), np.array([0.0, 1.0, -35.0]))
PLATES = EndplatePoints(
    np.array([[0.0, -10.0, 8.0], [0.0, 12.0, 9.0]]), np.array([[0.0, -10.0, -9.0], [0.0, 12.0, -9.5]])
)
MARKED = np.array([[20.5, 31.0, 4.25], [-0.1, 14.0, 0.3]])


@pytest.mark.parametrize(
    "seeds", [SEEDS, Seeds(np.zeros(3)), replace(SEEDS, endplates=PLATES, surface=MARKED)]
)
def test_what_is_kept_of_a_fit_comes_back_to_the_bit(seeds: Seeds, tmp_path: Path) -> None:
    start = start_of(seeds)
    write_start(start, tmp_path, "key")
    again = read_start(tmp_path, "key")
    assert again is not None and repr(again.seeds) == repr(start.seeds)
    assert np.array_equal(again.low, start.low) and np.array_equal(again.high, start.high)
    for name in ("candidates", "searched", "bent"):
        for one, other in zip(getattr(again, name), getattr(start, name), strict=True):
            assert one.template is other.template and one.score == other.score
            assert one.vertices.tobytes() == other.vertices.tobytes()
            assert one.pose.axes.tobytes() == other.pose.axes.tobytes()


def test_another_key_or_a_damaged_file_is_no_start(tmp_path: Path) -> None:
    assert read_start(tmp_path, "key") is None
    write_start(start_of(SEEDS), tmp_path, "key")
    assert read_start(tmp_path, "other") is None
    content = bytearray((tmp_path / FILE).read_bytes())
    content[len(content) // 2] ^= 0x55
    (tmp_path / FILE).write_bytes(content)
    assert read_start(tmp_path, "key") is None


def test_the_same_place_is_judged_by_centre_and_axes() -> None:
    limits, here = RefitSettings(), placed("L2", (0.0, 0.0, 0.0))
    assert _same_place(here, placed("L2", (1.0, 1.0, -1.0), 4.0), limits)
    assert not _same_place(here, placed("L2", (1.5, 1.5, 0.0)), limits)
    assert not _same_place(here, placed("L2", (0.0, 0.0, 0.0), 6.0), limits)


def test_a_neighbour_without_its_point_is_fitted_anew() -> None:
    ct = ModelVertebra().ct((3.0, 3.0, 3.0))
    assert refit_spine(ct, "L2", replace(SEEDS, above=None), start_of(SEEDS)) is None


def apart_mm(one: Isolation, other: Isolation) -> float:
    """Mean distance of the one's surface from the other's."""
    near = np.argwhere(np.abs(one.outer.values) < 0.3)[:, ::-1]
    here = one.outer.values[tuple(near[:, ::-1].T)]
    return float(np.abs(other.outer.sample(one.outer.to_lps(near), outside=8.0) - here).mean())


@pytest.mark.slow  # five isolations
def test_a_resumed_fit_agrees_with_one_made_anew() -> None:
    phantom = generate(PhantomParameters(pixel_mm=0.8, columns=180, rows=180, increment_mm=1.0, wedge=0.4))
    ct = Volume(phantom.hu, phantom.lps_from_ijk)
    truth = {v["level"]: v for v in phantom.truth["vertebrae"]}
    target, above, below = (np.array(truth[level]["body_centre"]) for level in ("L1", "T12", "L2"))
    seeds = Seeds(
        np.add(target, (2.0, -1.5, 1.5)), np.add(above, (-1.0, 2.0, 1.0)), np.add(below, (1.0, 1.0, -2.0))
    )
    plates = [
        np.array(truth["L1"][name]["centre"])
        + np.outer([1.0, -1.0], 12.0 * np.array(truth["L1"]["frame"]["anterior"]))
        for name in ("upper_endplate", "lower_endplate")
    ]
    first, start = isolate_resumable(ct, "L1", seeds)
    assert "resumed_fit" not in first.quality.measures
    for corrected in (
        replace(seeds, target=np.add(target, (-1.5, 1.0, -1.0))),
        replace(seeds, endplates=EndplatePoints(*plates)),
    ):
        quick, left = isolate_resumable(ct, "L1", corrected, start=start)
        assert quick.quality.measures["resumed_fit"] == 1.0 and left is start
        assert apart_mm(quick, isolate_vertebra(ct, "L1", corrected)) < 0.1
