"""One vertebra is found again in a scan of another frame, grey scale and pose; wrong scans are refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import ndimage, signal

from service.errors import GeometryError
from service.geometry import pose
from service.geometry.metal import _last_peak, read_scan, reduce
from service.geometry.registration import register
from service.geometry.registration_check import GATES, refusal
from service.geometry.registration_file import read_model, write_model
from service.geometry.registration_model import ModelSettings, build_model
from service.geometry.volume import Volume
from tests.unit import spine_scene as scene

SUPERIOR = np.array([0.0, 0.0, 1.0])
SMALL = {"spacing": (0.9, 0.9, 1.0), "half": (56, 58, 40), "field_mm": 57.0}


@pytest.fixture(scope="module")
def patient():
    return scene.Patient.make(1)


@pytest.fixture(scope="module")
def planned(patient):
    return scene.planning(patient, spacing=(1.0, 1.0, 1.25))


@pytest.fixture(scope="module")
def model(planned):
    return build_model(planned[0], planned[1])


@pytest.mark.parametrize(
    ("rotvec_deg", "translation"),
    [((14, -9, 11), (120, -40, 310)), ((3, 5, 177), (-60, 15, -20))],
    ids=["prone pose", "turned by half a turn"],
)
def test_a_known_pose_is_recovered_without_any_start(patient, planned, model, rotvec_deg, translation):
    truth = scene.rigid(rotvec_deg, translation)
    needle = scene.needle_along(planned[2], "left")
    view = read_scan(scene.scan(patient, [needle], preop_from_scan=truth, **SMALL))
    found = register(view, model, SUPERIOR)
    assert found is not None
    assert refusal(found) is None
    error = pose.displacement_mm(found.scan_from_preop, pose.invert(truth), model.surface)
    assert error.max() < 0.15
    by_surface = pose.displacement_mm(found.surface.scan_from_preop, pose.invert(truth), model.surface)
    assert by_surface.max() < 0.2
    assert found.agreement_mm < 0.2
    assert error.mean() < 2 * found.expected_tre_mm
    # The grey scale is learned on the way: the scene's gain and offset come back.
    assert found.intensity.gain == pytest.approx(0.8, rel=0.1)
    assert found.intensity.offset == pytest.approx(250, abs=20)


def test_every_gate_closes_on_its_own_measure(patient, planned, model):
    view = read_scan(scene.scan(patient, preop_from_scan=scene.rigid((3, 5, 177), (-60, 15, -20)), **SMALL))
    good = register(view, model, SUPERIOR)
    assert good is not None
    assert refusal(good) is None
    spoilt = {
        "partly_outside": dataclasses.replace(
            good, intensity=dataclasses.replace(good.intensity, usable=0.4)
        ),
        "no_match": dataclasses.replace(good, surface=dataclasses.replace(good.surface, rms_mm=1.1)),
        "another_bone": dataclasses.replace(good, fingerprint=0.2),
        "texture_hidden": dataclasses.replace(good, fingerprint=None),
        "level_ambiguous": dataclasses.replace(good, rival_ncc=good.intensity.ncc - 0.01),
        "methods_disagree": dataclasses.replace(good, agreement_mm=1.4),
    }
    assert set(spoilt) == {gate.code for gate in GATES}
    for code, registration in spoilt.items():
        gate = refusal(registration)
        assert gate is not None
        assert gate.code == code


def test_a_scan_beside_the_vertebra_is_refused(patient, model):
    truth = scene.rigid((5, 0, 9), (0, 0, 40))
    beside = scene.scan(patient, preop_from_scan=truth, centre_preop=(0, 22, 74), **SMALL)
    gate = refusal(register(read_scan(beside), model, SUPERIOR))
    assert gate is not None
    assert gate.code in ("no_match", "partly_outside", "not_found")
    assert gate.reason


def test_nothing_found_is_a_reason_too():
    gate = refusal(None)
    assert gate is not None
    assert "not found" in gate.reason


def test_block_means_keep_places():
    values = np.zeros((8, 9, 10), dtype=np.int16)
    values[4:6, 4:6, 6:8] = 800
    volume = Volume(values, np.diag([0.4, 0.4, 0.4, 1.0]))
    small = reduce(volume, 0.8)
    assert small.values.shape == (4, 4, 5)
    index = np.unravel_index(int(np.argmax(small.values)), small.values.shape)
    assert small.values[index] == 800
    place = small.to_lps(np.array([index[::-1]], dtype=float))[0]
    assert np.allclose(place, volume.to_lps(np.array([[6.5, 4.5, 4.5]]))[0])


def test_an_empty_scan_and_an_empty_mask_say_so(planned):
    flat = Volume(np.zeros((30, 60, 60), dtype=np.int16), np.eye(4))
    with pytest.raises(GeometryError) as caught:
        read_scan(flat)
    assert caught.value.code == "verify.scan_empty"
    ct, mask, _ = planned
    with pytest.raises(GeometryError) as caught:
        build_model(ct, Volume(np.zeros_like(mask.values), mask.lps_from_ijk))
    assert caught.value.code == "verify.mask"


def test_a_prepared_model_comes_back_as_it_was(model, tmp_path):
    path = tmp_path / "registration.npz"
    write_model(model, path)
    back = read_model(path)
    assert back is not None
    for field in dataclasses.fields(model):
        mine, read = getattr(model, field.name), getattr(back, field.name)
        if isinstance(mine, Volume):
            assert np.array_equal(mine.values, read.values)
            assert np.array_equal(mine.lps_from_ijk, read.lps_from_ijk)
        else:
            assert np.array_equal(mine, read)


def test_a_prepared_model_that_is_damaged_or_of_other_settings_is_made_anew(model, tmp_path):
    path = tmp_path / "registration.npz"
    write_model(model, path)
    assert read_model(path, ModelSettings(zone_mm=3.0)) is None
    whole = path.read_bytes()
    for damaged in (b"", b"registration", whole[: len(whole) // 2], whole[:2000] + b"?" * 50 + whole[2050:]):
        path.write_bytes(damaged)
        assert read_model(path) is None
    assert read_model(tmp_path / "missing.npz") is None


def test_the_last_peak_is_that_of_scipys_finder():
    rng = np.random.default_rng(5)
    for _ in range(300):
        values = ndimage.gaussian_filter1d(rng.gamma(0.4, 1.0, 60), rng.uniform(0.8, 4.0))
        tallest = values.max()
        padded = np.concatenate([[0.0], values, [0.0]])
        peaks, _ = signal.find_peaks(padded, height=0.2 * tallest, prominence=0.1 * tallest)
        assert _last_peak(values, 0.2 * tallest, 0.1 * tallest) == peaks[-1] - 1
