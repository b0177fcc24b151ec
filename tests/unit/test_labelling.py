"""How bone is shared out between the target and its neighbours, and the cut itself."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage

from service.geometry import labelling
from service.geometry.evidence import Evidence
from service.geometry.labelling import _spread, _total_variation_cut
from service.geometry.mesh_grid import signed_edt


def dilated(own: np.ndarray, theirs: np.ndarray, bone: np.ndarray, steps: int) -> None:
    """The rule in its plainest form: whole masks, one face at a time, contested voxels to the neighbours."""
    for _ in range(steps):
        free = bone & ~own & ~theirs
        wider, rival = (ndimage.binary_dilation(m) & free for m in (own, theirs))
        own |= wider & ~rival
        theirs |= rival


@pytest.mark.parametrize("share", [0.4, 0.7, 1.0])
@pytest.mark.parametrize("steps", [0, 1, 5, 30])
def test_spreading_from_the_last_front_is_spreading_the_whole(share: float, steps: int) -> None:
    rng = np.random.default_rng(int(10 * share) + steps)
    bone = rng.random((14, 18, 16)) < share
    own, theirs = np.zeros_like(bone), np.zeros_like(bone)
    own[:3, 4:9, 4:9] = True
    theirs[10:, 2:12, 3:] = True
    plain = own.copy(), theirs.copy()
    dilated(*plain, bone, steps)
    before = own.sum()
    _spread(own, theirs, bone, steps=steps)
    assert np.array_equal(own, plain[0]) and np.array_equal(theirs, plain[1])
    assert (own.sum() > before) == (steps > 0)


def test_the_cut_follows_the_force_and_drops_specks() -> None:
    force = np.full((20, 20, 20), -0.4, dtype=np.float32)
    force[5:15, 5:15, 5:15] = 0.4
    force[10, 10, 10] = -0.6  # a pore
    force[2, 2, 2] = 0.6  # a speck
    found = _total_variation_cut(force, np.full_like(force, 0.4), 120) > 0.5
    wanted = np.zeros_like(found)
    wanted[5:15, 5:15, 5:15] = True
    assert found[10, 10, 10] and not found[2, 2, 2]
    # Only the edges of the cube are rounded.
    assert not (found & ~wanted).any() and (found ^ wanted).sum() < 120
    assert np.array_equal(_total_variation_cut(force, np.zeros_like(force), 120) > 0.5, force > 0)


@pytest.mark.parametrize("edges", [[0, 9, 21], [0, 1, 2, 20, 21]])
def test_the_cut_in_slabs_is_the_cut_of_the_whole(edges: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    force = rng.standard_normal((21, 17, 19)).astype(np.float32)
    weight = rng.uniform(0.1, 0.7, force.shape).astype(np.float32)
    whole = _total_variation_cut(force, weight, 30)
    assert 0.1 < float(np.mean(whole > 0.5)) < 0.9
    monkeypatch.setattr(labelling, "slabs", lambda length, samples: [slice(a, b) for a, b in pairwise(edges)])
    assert _total_variation_cut(force, weight, 30).tobytes() == whole.tobytes()


def test_a_process_with_thin_walls_is_followed_to_its_tip_and_is_solid() -> None:
    """Walls of one voxel round marrow that is no bone by itself, beyond where the fitted shape ends."""
    shape = (24, 24, 60)
    body = np.zeros(shape, dtype=bool)
    body[4:20, 4:20, 4:20] = True
    z, y, x = np.indices(shape)
    along = (x >= 20) & (x < 48)
    process = along & (((z - 12) / 5.6) ** 2 + ((y - 12) / 4.2) ** 2 <= 1.0)
    marrow = along & (x < 47) & ndimage.binary_erosion(process)
    hu = np.full(shape, 20.0, dtype=np.float32)
    hu[body | process] = 600.0
    hu[marrow] = 60.0
    within = np.ones(shape, dtype=bool)
    evidence = Evidence(np.zeros(3), 1.0, hu, within, 20.0, hu, hu)
    fitted = body.copy()
    fitted |= process & (x < 26)
    distance = signed_edt(fitted, (1.0, 1.0, 1.0))
    far = np.full(shape, 20.0, dtype=np.float32)
    grown = labelling.grow_processes(
        evidence, fitted.astype(np.float32), distance, far, labelling.LabellingSettings()
    )
    # The opening rounds what stands out by one voxel.
    wanted = ndimage.binary_opening(body | process)
    missing = wanted & ~labelling.solid_of(grown)
    assert missing.sum() <= 40, np.argwhere(missing)
