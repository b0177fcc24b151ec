"""Cement in a scan: volume against exact balls, fill, places and leaks, and what must not pass for cement."""

from __future__ import annotations

import numpy as np
import pytest

from service.geometry.cement import CementImage
from service.geometry.cement_places import LEAK_RULES, PlaceSettings, _Body, describe
from service.geometry.metrics import outer_from_mask
from service.geometry.registration_model import build_model
from service.geometry.verification import verify
from service.geometry.verification_document import NOT_MEASURED, cement_document, to_document
from tests.unit import spine_scene as scene

SMALL = {"spacing": (0.8, 0.8, 0.833), "half": (56, 58, 40), "field_mm": 57.0}
TRUTH = scene.rigid((8, 5, -10), (-60, 20, 35))
FRONT = (1.0, -5.0, 0.0)


def ball_ml(radius):
    return 4 / 3 * np.pi * radius**3 / 1000


@pytest.fixture(scope="module")
def world():
    patient = scene.Patient.make(4)
    ct, mask, plan = scene.planning(patient, spacing=(1.0, 1.0, 1.25))
    return patient, plan, outer_from_mask(mask), build_model(ct, mask)


def measured(world, scan):
    _, plan, outer, model = world
    return verify(None, None, outer, plan, scan, model=model)


@pytest.fixture(scope="module")
def cement_scan(world):
    """Two balls in the body and one in the canal, no needle."""
    back = -_wall(world)
    leak = (0.0, back + 5.0, 1.0)
    balls = [(FRONT, 6.0), ((9.0, -3.0, 2.0), 4.0), (leak, 2.5)]
    return measured(world, scene.scan(world[0], preop_from_scan=TRUTH, cement=balls, **SMALL)), leak


def _wall(world):
    """Place of the posterior wall along anterior, mm (negative), from the analytic shape."""
    y = np.arange(0.0, 40.0, 0.05)
    depth = world[0].target_sdf(np.stack([np.zeros_like(y), y, np.zeros_like(y)], axis=1))
    return -float(y[np.flatnonzero(depth > 0)[0]])


def test_a_cement_scan_without_a_needle_is_measured_and_for_a_person_to_judge(cement_scan):
    found, _ = cement_scan
    assert (found.measured, found.needles, found.needles_reason_code) == (True, (), "no_needle")
    assert found.decision.verdict == "review"
    assert found.decision.findings == tuple(f for f in found.decision.findings if "spinal canal" in f)
    assert found.decision.findings


def test_the_volume_is_that_of_the_balls(cement_scan):
    cement = cement_scan[0].cement
    apart = np.linalg.norm(np.subtract((9.0, -3.0, 2.0), FRONT))
    a, b = 6.0, 4.0
    lens = np.pi * (a + b - apart) ** 2 * (apart**2 + 2 * apart * (a + b) - 3 * (a - b) ** 2) / (12 * apart)
    true = ball_ml(a) + ball_ml(b) - lens / 1000 + ball_ml(2.5)
    assert cement.volume_ml == pytest.approx(true, rel=0.05)
    assert abs(cement.volume_ml - true) < 2 * cement.sigma_ml
    assert cement.in_body_ml == pytest.approx(true - ball_ml(2.5), rel=0.05)
    assert not cement.needle_excluded


def test_cement_in_the_canal_is_a_leak_with_its_type_volume_and_place(cement_scan):
    found, leak = cement_scan
    (only,) = found.cement.leaks
    assert (only.type, only.place) == ("B", "spinal canal, midline")
    assert only.volume_ml == pytest.approx(ball_ml(2.5), rel=0.2)
    assert np.linalg.norm(np.subtract(only.position, leak)) < 0.7


def test_fill_is_told_by_four_measures_and_lies_where_it_was_put(cement_scan):
    cement = cement_scan[0].cement
    fill = cement.fill_percent
    assert fill["volume_body"] == pytest.approx(100 * cement.in_body_ml / cement.body_ml)
    assert fill["volume_body"] < fill["hull_body"] < fill["lateral_area"] < 60
    assert fill["volume_body"] < fill["volume_fillable"] < 2 * fill["volume_body"]
    # The lateral picture shows the outline of two discs; the body is about 31 by 25 mm.
    assert fill["lateral_area"] == pytest.approx(100 * np.pi * 6.0**2 / (31 * 25), abs=5)
    assert cement.side_percent["left"] > 55
    assert sum(cement.side_percent.values()) == pytest.approx(100)
    assert sum(cement.third_percent.values()) == pytest.approx(100)
    assert cement.endplate_contact == "B3"


def test_the_needle_in_the_cement_is_not_counted_and_its_tip_is_not_told(world):
    made = scene.needle_along(world[1], "left")
    ball = (tuple(made.tip + 1.0 * made.axis), 6.5)
    scan = scene.scan(world[0], [made], preop_from_scan=TRUTH, cement=[ball], **SMALL)
    found = measured(world, scan)
    assert found.needles_reason_code == "tip_hidden"
    # A cone of 3 mm and then the shaft lie in the ball: about 4.5 + 1 mm of needle.
    needle_ml = np.pi * 1.2065**2 * (7.5 - 1.0 - 3.0 + 1.0) / 1000
    assert found.cement.needle_excluded
    assert found.cement.volume_ml == pytest.approx(ball_ml(6.5) - needle_ml, rel=0.05)


@pytest.mark.parametrize("ahead_mm", [0.0, 1.5])
def test_cement_around_a_needle_that_ends_in_it_is_counted_up_to_the_needle(world, ahead_mm):
    """The tip lies near the ball's middle, so that a fifth of the cement lies within 3 mm of the shaft."""
    made = scene.needle_along(world[1], "left")
    middle, radius, step = made.tip + ahead_mm * made.axis, 5.0, 0.1
    side = np.arange(-radius, radius, step) + step / 2
    points = np.stack(np.meshgrid(side, side, side, indexing="ij"), axis=-1).reshape(-1, 3)
    points = points[np.linalg.norm(points, axis=1) < radius] + middle
    true_ml = np.count_nonzero(made.sdf(points) > 0) * step**3 / 1000
    ball = [(tuple(middle), radius)]
    found = measured(world, scene.scan(world[0], [made], preop_from_scan=TRUTH, cement=ball, **SMALL))
    assert found.cement.volume_ml == pytest.approx(true_ml, rel=0.025)


def test_a_strand_that_leaves_cement_beside_the_needle_is_followed_to_its_end(world):
    """Where it begins it lies in the needle's blur, so what is seen as cement first is the ball alone."""
    made = scene.needle_along(world[1], "left")
    middle, start = made.tip + 2.0 * made.axis, made.tip - 2.5 * made.axis
    places = start + np.arange(0.0, 26.0, 0.25)[:, None] * np.array([1.0, 0.0, 0.0])
    drop = start + np.array([26.0, 0.0, 0.0])
    balls = [(tuple(middle), 5.0), *((tuple(p), 1.0) for p in places), (tuple(drop), 2.2)]
    found = measured(world, scene.scan(world[0], [made], preop_from_scan=TRUTH, cement=balls, **SMALL))
    outside = world[0].target_sdf(places) > PlaceSettings().leak_mm
    strand_mm = 0.25 * np.count_nonzero(outside & (places[:, 0] < drop[0] - 2.2))
    leaked = sum(leak.volume_ml for leak in found.cement.leaks)
    # The soft edges of many balls add up, so the strand is somewhat thicker than one of them.
    least = ball_ml(2.2) + np.pi * strand_mm / 1000
    assert 0.95 * least < leaked < 1.3 * least


def test_another_patient_with_cement_is_still_refused(world):
    stranger = scene.Patient.make(9)
    scan = scene.scan(stranger, preop_from_scan=TRUTH, cement=[(FRONT, 6.0)], **SMALL)
    found = measured(world, scan)
    assert not found.measured
    assert found.reason_code in ("no_match", "another_bone", "level_ambiguous")
    assert found.cement is None


def test_the_document_has_every_key_and_says_what_was_not_measured(cement_scan):
    document = cement_document(cement_scan[0].cement)
    assert set(document) >= {"volume_ml", "uncertainty_ml", "fill_percent", "distribution", "leaks"}
    assert set(document["fill_percent"]) == {"volume_body", "volume_fillable", "lateral_area", "hull_body"}
    assert document["not_measured"] == list(NOT_MEASURED)
    (warning,) = to_document(cement_scan[0])["warnings"]
    assert warning["code"] == "cement_leak"
    assert "spinal canal" in warning["message"]
    assert document["warnings"] == []


@pytest.mark.parametrize(
    ("point", "place", "kind"),
    [
        ((0, -22, 2), "spinal canal, midline", "B"),
        ((8, -22, 2), "spinal canal", "C"),
        ((0, -22, 15), "spinal canal", "C"),
        ((14, -30, 2), "behind the canal or along the pedicle", "C"),
        ((3, 2, 14), "disc above", "D"),
        ((3, 2, -14), "disc below", "D"),
        ((2, 20, 1), "in front, mid-height", "S"),
        ((2, 20, 9), "in front", "C"),
        ((25, 2, 1), "left, mid-height", "S"),
        ((25, 2, 9), "left", "C"),
        ((-25, 2, -1), "right, mid-height", "S"),
        ((-25, 2, -9), "right", "C"),
    ],
)
def test_leaks_are_named_by_their_place(point, place, kind):
    body = _Body(front=15.0, back=16.0, up=12.0, down=12.0)
    rule = next(r for r in LEAK_RULES if r.holds(np.array(point, float), body, PlaceSettings()))
    assert (rule.place, rule.type) == (place, kind)


@pytest.mark.parametrize(("low", "high", "contact"), [
    (-20.0, 20.0, "A"), (0.0, 20.0, "B1"), (-20.0, 0.0, "B2"), (-4.0, 4.0, "B3"),
])  # fmt: skip
def test_endplate_contact(world, low, high, contact):
    """A column of cement in the middle of the body, from `low` to `high` along superior, cut at the bone's surface."""
    _, plan, outer, _ = world
    step = 0.5
    x, y, z = (
        v.ravel()
        for v in np.meshgrid(
            np.arange(-3, 3, step), np.arange(-6, 0, step), np.arange(low, high, step), indexing="ij"
        )
    )
    points = np.stack([x, y, z], axis=1)
    points = points[outer.sample(points, outside=50.0) < 0]
    share = np.ones(len(points))
    image = CementImage(points, share, share > 0.5, step**3 / 1000, np.eye(3) * step,
                        len(points) * step**3 / 1000, 0.01, False, 2300.0)  # fmt: skip
    report = describe(image, outer, plan)
    assert report.endplate_contact == contact
    assert report.in_body_ml == pytest.approx(report.volume_ml)
    assert report.leaks == ()
    # A column is its own hull.
    assert report.fill_percent["hull_body"] == pytest.approx(report.fill_percent["volume_body"], rel=0.12)
