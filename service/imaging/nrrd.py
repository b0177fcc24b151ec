"""NRRD label maps: read by SimpleITK once the header has said where they lie and how large they are.

A header without a space, or with one that is no direction of the patient's ("scanner-xyz"), is read by ITK as if it
were LPS: such a mask would lie mirrored or elsewhere without a word.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from service.errors import ImagingError
from service.geometry.volume import Volume

_HEADER_BYTES = 64 << 10
_MOST_BYTES = 8 << 30
"""As NIfTI's."""
_PLAIN_BYTES = 16 << 20
_MOST_EXPANSION = 1100
"""As of a DICOM SEG: the most that deflate can pack."""
_SPACES = {
    "left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las",
}  # fmt: skip
_WIDEST_BYTES = 8


def read_nrrd(path: Path) -> Volume:
    """A single 3-D label map in LPS. Raises ImagingError (`imaging.mask`, `imaging.unsafe`)."""
    import SimpleITK as sitk  # noqa: N813 - the name its documentation uses

    fields = _header(path)
    _require_place(fields)
    _require_size(fields, path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise _refused("cannot be read", "Export the mask again.") from error
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise _refused("is not one three-dimensional image", "Export a single label map.")
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Volume(sitk.GetArrayFromImage(image), affine)


def _header(path: Path) -> dict[str, str]:
    """Fields of the text before the first empty line, names in lower case."""
    with path.open("rb") as stream:
        text = stream.read(_HEADER_BYTES)
    lines = text.replace(b"\r\n", b"\n").split(b"\n\n", 1)[0].decode("latin-1").split("\n")
    if not lines[0].startswith("NRRD"):
        raise _refused("is no NRRD file", "Export the mask again.")
    pairs = (line.partition(":") for line in lines[1:] if line and not line.startswith("#"))
    return {name.strip().lower(): value.strip() for name, mark, value in pairs if mark}


def _require_place(fields: dict[str, str]) -> None:
    space = fields.get("space", "").lower()
    if space in _SPACES and "space directions" in fields and "space origin" in fields:
        return
    found = f"its space is '{space[:40]}'" if space else "no space is set"
    if space in _SPACES:
        found = "origin or directions are missing"
    raise _refused(
        f"does not say where it lies in the patient ({found})",
        "Export it with its position as LPS or RAS, as 3D Slicer does, or as NIfTI or DICOM SEG.",
    )


def _require_size(fields: dict[str, str], path: Path) -> None:
    try:
        sizes = [int(n) for n in fields.get("sizes", "").split()]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise _refused("does not say how large it is", "Export the mask again.")
    content = math.prod(sizes) * (1 if "char" in fields.get("type", "") or "int8" in fields.get("type", "")
                                  else _WIDEST_BYTES)  # fmt: skip
    detached = "data file" in fields or "datafile" in fields
    packed = math.inf if detached else _MOST_EXPANSION * path.stat().st_size
    if content > _MOST_BYTES or (content > _PLAIN_BYTES and content > packed):
        raise ImagingError(
            f"The NRRD file announces {content >> 20} MB and holds {path.stat().st_size >> 10} kB: it is damaged, or "
            "made to exhaust the memory.",
            next_step="Export the mask again as a label map of this CT's grid.",
            code="imaging.unsafe",
        )


def _refused(what: str, next_step: str) -> ImagingError:
    return ImagingError(f"The NRRD file {what}.", next_step=next_step, code="imaging.mask")
