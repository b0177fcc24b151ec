"""Rules that keep another's metal, a bright bone or a wrong pose from being told as our needle, each on its own.

Every scan here is simulated metal in a block of soft tissue; the planned vertebra is a ball (the body) with a rod
(a process) behind it, as a signed distance. Lengths mm, scan frame and planning frame are the same.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from service.domain.plan import ModelSettings, Plan, VertebraFrame
from service.geometry.metal import read_scan
from service.geometry.needles import NeedleSettings, find_lines
from service.geometry.registration import Registration
from service.geometry.registration_check import GATES, refusal
from service.geometry.registration_fit import IntensityFit, SurfaceFit
from service.geometry.verification import VerificationSettings, _lines
from service.geometry.volume import Volume
from tests.unit import spine_scene as scene
from tests.unit.test_needles import needle, tank

BODY = np.array([0.0, -22.0, -9.0])
PROCESS = ((0.0, 8.0, -9.0), (0.0, 22.0, -9.0), 3.0)
FIELD = {"size_mm": (50, 90, 60)}


@pytest.fixture
def registration():
    """A pose that passes every gate."""
    same = np.eye(4)
    return Registration(
        scan_from_preop=same,
        preop_from_scan=same,
        intensity=IntensityFit(same, 0.93, 0.95, 1.0, 0.0, 1e-6 * np.eye(6)),
        surface=SurfaceFit(same, 0.2, 0.95, 0.95, np.zeros(3), np.zeros((3, 3))),
        agreement_mm=0.1,
        agreement_deg=0.1,
        rival_ncc=0.5,
        fingerprint=0.8,
        expected_tre_mm=0.2,
    )


@pytest.fixture(scope="module")
def vertebra():
    """(signed distance Volume, Plan) of the body and its process."""
    affine, points = scene.grid((70, 100, 50), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    body = np.linalg.norm(points - BODY, axis=1) - 10.0
    distance = np.minimum(body, scene.capsule(points, *PROCESS)).reshape(70, 100, 50)
    frame = VertebraFrame(tuple(BODY), (1, 0, 0), (0, -1, 0), (0, 0, 1))
    return Volume(distance, affine), Plan("L1", "", frame, tuple(BODY), (), ModelSettings())


def sorted_lines(registration, vertebra, made, settings=None):
    """How many lines are (ours, another's)."""
    view = read_scan(tank([made.sdf], **FIELD))
    near, far = _lines(view, registration, *vertebra, settings or VerificationSettings())
    return len(near), len(far)


def test_a_needle_of_the_next_level_that_passes_our_process_is_not_ours(registration, vertebra):
    """Three needles in the next vertebra were once measured as ours: their shaft lay against our process."""
    made = needle(tip=(0.0, -22.0, 22.0), axis=(0.0, -37.0, 26.0))
    shaft = made.tip - np.arange(0.0, 60.0, 0.5)[:, None] * made.axis
    gap = vertebra[0].sample(shaft, outside=50.0)
    assert gap.min() < 1.0 < 10.0 < gap[:24].min()
    assert sorted_lines(registration, vertebra, made) == (0, 1)
    whole_shaft = replace(VerificationSettings(), front_mm=60.0)
    assert sorted_lines(registration, vertebra, made, whole_shaft) == (1, 0), "the front alone decides it"


@pytest.mark.parametrize("short_mm", [0.0, 15.0])
def test_a_needle_in_our_body_or_on_its_last_way_there_is_ours(registration, vertebra, short_mm):
    """One that stops short of the bone has not arrived, but is ours: what lies ahead of its tip counts as well."""
    axis = np.array([0.0, -1.0, 0.0])
    made = needle(tip=BODY + np.array([6.5, 0.0, 0.0]) - short_mm * axis, axis=axis)
    if short_mm:
        assert vertebra[0].sample(made.tip[None], outside=50.0)[0] > VerificationSettings().reach_mm
    assert sorted_lines(registration, vertebra, made) == (1, 0)


def bright_rod(over_bone):
    """A thin straight process whose grey above soft tissue is `over_bone` times dense bone's, in bone and no metal."""
    hu = 40.0 + over_bone * 350.0
    # Not more than a seventh of the field is bone, or the scan's soft tissue would be taken from it.
    size_mm = (50, 70, 50)
    return tank(
        [lambda p: scene.capsule(p, (6, 30, 4), (0, -18, -3), 1.9)], metal=hu, noise=12.0, size_mm=size_mm
    )


def test_a_bright_process_in_a_scan_without_metal_is_no_needle():
    """The rest of a rib once passed for a needle of a scan that had none. Steel as thin is one."""
    view = read_scan(bright_rod(2.4))
    assert view.has_metal, "brighter than the bar of the scan: only the bar of the line is left"
    assert find_lines(view) == []
    assert len(find_lines(view, NeedleSettings(least_over_bone=2.2))) == 1, "nothing else keeps it out"
    assert len(find_lines(read_scan(bright_rod(8.0)))) == 1


#: What makes each gate fail, in the order in which the reasons are to be given.
SPOILT = {
    "no_match": lambda r: replace(r, surface=replace(r.surface, rms_mm=1.1)),
    "another_bone": lambda r: replace(r, fingerprint=0.2),
    "partly_outside": lambda r: replace(r, intensity=replace(r.intensity, usable=0.4)),
    "texture_hidden": lambda r: replace(r, fingerprint=None),
    "level_ambiguous": lambda r: replace(r, rival_ncc=r.intensity.ncc - 0.01),
    "methods_disagree": lambda r: replace(r, agreement_mm=1.4),
}
#: A texture that was not seen cannot also be another's.
EXCLUSIVE = {"another_bone", "texture_hidden"}


@pytest.mark.parametrize(
    ("first", "second"), [pair for pair in combinations(SPOILT, 2) if set(pair) != EXCLUSIVE]
)
def test_of_two_reasons_the_graver_is_given(registration, first, second):
    """A stranger's vertebra at the edge of the field was called 'partly outside': centred again, it is still a
    stranger's."""
    assert set(SPOILT) == {gate.code for gate in GATES}
    assert refusal(registration) is None
    gate = refusal(SPOILT[first](SPOILT[second](registration)))
    assert gate is not None
    assert gate.code == first
