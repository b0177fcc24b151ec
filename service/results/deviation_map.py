"""The finished model coloured by how far its outside lies from the bone in the CT, for a person to look over."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.spatial import cKDTree

from service.geometry.anatomy import SurfaceTaken
from service.geometry.ct_deviation import CtDeviation
from service.geometry.mesh import Mesh
from service.geometry.parallel import in_threads
from service.results.error_map import Array, coloured_view, colours_of, legend
from service.results.pictures import NOTICE, font
from service.results.render import Camera, camera_for

_NOT_CROSSED = (128, 130, 138)
_INK, _FAINT = (40, 44, 52), (120, 126, 136)
_PANEL, _TOP, _BOTTOM = 480, 56, 98
WORDS = "blue: the model lies inside the CT's bone;  red: outside"
WORDS_BELOW = "grey: the CT has no such edge near;  yellow: channels, vents, marks: left out"


def deviation_map(
    drawn: Mesh,
    deviation: CtDeviation,
    axes: tuple[Array, Array, Array],
    *,
    surface: SurfaceTaken,
    title: str = "",
) -> Image.Image:
    """Anterior and oblique from behind, with the colour scale in mm and the figures.

    Parameters
    ----------
    drawn : the finished model, LPS mm, with few faces (`mesh_to_draw`).
    axes : the patient's left, anterior and superior, unit vectors, LPS.
    surface : which surface the model was taken at: one moved to the bone's edge lies inside the threshold's.
    title : level and case code; never patient data.
    """
    corners, colours = drawn.corners, _colours(drawn.centroids, deviation)
    left, anterior, superior = axes
    oblique = -0.55 * left + 0.72 * anterior - 0.45 * superior
    views = (("anterior", -anterior), ("oblique from behind", oblique))
    size = (_PANEL, _PANEL)
    cameras = [camera_for(drawn.vertices, direction, superior, size) for _, direction in views]
    scale = max(camera.mm_per_pixel for camera in cameras)
    cameras = [Camera(c.direction, c.up, c.centre, scale, size) for c in cameras]
    pictures = in_threads(lambda camera: coloured_view(corners, colours, camera, None), cameras)
    sheet = Image.new("RGB", (len(views) * _PANEL, _PANEL + _TOP + _BOTTOM), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    draw.text((12, 6), f"{title}  the model's outside against the CT".strip(), fill=_INK, font=font(18))
    draw.text((12, 32), figures_in_words(deviation), fill=_INK, font=font(15))
    for number, ((name, _), picture) in enumerate(zip(views, pictures, strict=True)):
        sheet.paste(picture, (number * _PANEL, _TOP))
        draw.text((number * _PANEL + 10, _TOP + 8), name, fill=_INK, font=font(16))
    legend(draw, sheet.height - _BOTTOM, WORDS)
    below = WORDS_BELOW
    if surface.at == "bone_edge":
        below += f";  moved in on purpose, to the bone's edge: {surface.moved_mm:.2f} mm on average"
    draw.text((12, sheet.height - 46), below, fill=_INK, font=font(15))
    draw.text((12, sheet.height - 22), NOTICE, fill=_FAINT, font=font(14))
    return sheet


def figures_in_words(deviation: CtDeviation) -> str:
    found = deviation.to_document()
    if found["p50_mm"] is None:
        return f"The CT crosses {deviation.threshold_hu:g} HU nowhere near the model's outside."
    grey = 100.0 * float(found["not_crossed_share"] or 0.0)
    return (
        f"from the place where the CT falls below {deviation.threshold_hu:g} HU: 50 % within {found['p50_mm']:.2f} mm, "
        f"95 % within {found['p95_mm']:.2f} mm, mean {found['mean_mm']:+.2f} mm; no such place on {grey:.0f} %"
    )


def _colours(places: NDArray[np.float64], deviation: CtDeviation) -> Array:
    """(N, 3): that of the nearest sample."""
    colours = colours_of(deviation.offset_mm)
    colours[np.isnan(deviation.offset_mm) & ~deviation.left_out] = _NOT_CROSSED
    if not len(deviation.points):
        return np.tile(np.array(_NOT_CROSSED, float), (len(places), 1))
    return np.asarray(colours[cKDTree(deviation.points).query(places)[1]])
