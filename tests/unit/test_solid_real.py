"""The solid of a real lumbar vertebra (CT with a reference mask), measured by the self-check."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from service.domain.plan import ModelSettings, Plan, Trajectory, VertebraFrame
from service.geometry.outer_surface import outer_field
from service.geometry.selfcheck import check_model
from service.geometry.solid import build_solid
from service.geometry.volume import Volume

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("SPINEPRINT_DATA", ROOT.parent / "shared" / "data")) / "tptbox-l3-crop"


def read_nifti(name):
    import SimpleITK

    image = SimpleITK.ReadImage(str(DATA / name))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Volume(SimpleITK.GetArrayFromImage(image), affine)


@pytest.mark.data
def test_real_l3_is_hollow_guided_vented_and_passes():
    if not DATA.is_dir():
        pytest.skip("needs the TPTBox L3 crop in $SPINEPRINT_DATA")
    ct = read_nifti("sub-ct_label-22_ct.nii.gz")
    labels = read_nifti("sub-ct_seg-vert_label-22_msk.nii.gz")
    bone = outer_field(ct, Volume((labels.values == 22).astype(np.uint8), labels.lps_from_ijk))
    # Found once by a search for the line with most bone around it, 30° and 26° from the midline.
    ends = {
        "left": ((52.28, 194.69, -55.83), (28.01, 153.57, -65.92)),
        "right": ((-0.36, 195.23, -59.92), (18.01, 157.57, -59.92)),
    }
    paths = tuple(Trajectory(side, entry, target, 0.0, 0.0, 3.6) for side, (entry, target) in ends.items())
    centre = (23.0, 158.0, -65.9)
    frame = VertebraFrame(centre, (1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
    solid = build_solid(bone, Plan("L3", "", frame, centre, paths, ModelSettings()))
    check = check_model(solid.vertices, solid.faces, solid.plan, outer=bone)
    assert check.failures == ()
    assert check.bodies == 1
    assert check.closed_voids == 0
    assert check.unreached_mm3 == 0.0
    assert check.wall.mean_mm == pytest.approx(2.0, abs=0.03)
    assert check.wall.p1_mm >= 1.95
    assert solid.measures["hollow_ml"] > 15.0
    for channel in check.channels:
        assert channel.axis_mm <= 0.1
        assert channel.axis_deg <= 0.1
        assert channel.diameter_mm == pytest.approx(2.8, abs=0.05)
