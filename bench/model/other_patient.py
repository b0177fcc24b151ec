"""Shapes of thoracic vertebrae from a second patient, so that "chest" can be measured with none of its own.

VerSe subject 004 (labels corrected by hand, CC BY-SA 4.0, no CT) serves to measure only: nothing of it ships. Its L1
is crushed, so no shape is made of that one.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK

from bench import make_templates as making
from bench.model.studies import DATA
from service.geometry.templates import SPINE, Template

MASK = DATA / "verse004-mask" / "sub-verse004_seg-vert_msk.nii.gz"
_NUMBERS = {"T9": 16, "T10": 17, "T11": 18, "T12": 19, "L1": 20, "L2": 21, "L3": 22}
_SHAPED = ("T10", "T11", "T12", "L2")
_AVERAGED = ("T10", "T11", "T12")
#: What can be measured with them.
LEVELS = ("T10", "T11", "T12")


@lru_cache(maxsize=1)
def shapes(mask: Path = MASK) -> tuple[Template, ...]:
    """Made as those that ship are (`bench/make_templates.py`), from the head down."""
    image = SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(mask)), "LPS")
    values = np.rint(SimpleITK.GetArrayFromImage(image))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    fields = {level: making.signed_distance(values == n, image.GetSpacing()) for level, n in _NUMBERS.items()}
    centres = {level: making.body_centre(field, affine) for level, field in fields.items()}
    order = list(_NUMBERS)
    made = {}
    for level in _SHAPED:
        above, below = (centres[order[order.index(level) + step]] for step in (-1, 1))
        made[level] = making.symmetric_shape(fields[level], affine, centres[level], above, below)
    found = [_template(level, level, shape) for level, shape in made.items()]
    found.append(_template("mean_T10_T12", "T11", making.mean_shape([made[level] for level in _AVERAGED])))
    return tuple(sorted(found, key=lambda t: SPINE.index(t.level)))


def _template(name: str, level: str, shape: making.Shape) -> Template:
    vertices, faces = making.mesh_of(shape)
    return Template(name, level, shape.gap_mm, vertices, faces.astype(np.int32))
