"""The predicted error of a print as a picture: the model coloured by how far off its surface will be printed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.spatial import cKDTree

from service.geometry.parallel import in_threads
from service.geometry.raster import cover
from service.results.render import Camera, camera_for

Array = NDArray[np.float64]
Colour = tuple[int, int, int]

NOTICE = (
    "Predicted from the G-code, nothing was printed. Research and engineering software. Not a medical device."
)
#: Ends of the colour scale.
SCALE_MM = 0.5
_MISSING, _GOOD, _EXTRA = (33, 84, 178), (226, 226, 220), (190, 40, 40)
_LEFT_OUT = (236, 200, 84)
AGAINST_MODEL = "blue: less is printed than the model has;  red: more"
AGAINST_CT = (
    "blue: less is printed than the bone in the CT;  red: more;  yellow: channels, vents, marks: left out"
)
_INK, _FAINT = (40, 44, 52), (120, 126, 136)
_PANEL = 420
_COLUMNS = 3


def error_map(
    corners: Array,
    points: Array,
    offset_mm: Array,
    *,
    axes: tuple[Array, Array, Array],
    centre: Array,
    title: str,
    words: str = AGAINST_MODEL,
) -> Image.Image:
    """Five views and a cut with the colour scale in mm.

    Parameters
    ----------
    corners : (F, 3, 3) triangles of the model, mm.
    points, offset_mm : (N, 3) places on it and (N) distances of the printed surface there, positive outward; NaN
        where nothing is compared.
    axes : the patient's left, anterior and superior, unit vectors in the frame of the corners.
    centre : (3) a point the cut goes through.
    title : first line, with the figures; never patient data.
    words : what the colours mean.
    """
    middle = corners.mean(axis=1)
    colours = colours_of(offset_mm[cKDTree(points).query(middle)[1]])
    left, anterior, superior = axes
    views: Sequence[tuple[str, Array, Array, bool]] = (
        ("anterior", -anterior, superior, False),
        ("posterior", anterior, superior, False),
        ("left", -left, superior, False),
        ("superior", -superior, anterior, False),
        ("inferior", superior, anterior, False),
        ("cut, seen from the left", -left, superior, True),
    )
    size = (_PANEL, _PANEL)
    vertices = corners.reshape(-1, 3)
    cameras = [camera_for(vertices, direction, up, size) for _, direction, up, _ in views]
    scale = max(camera.mm_per_pixel for camera in cameras)
    top, bottom = 34, 76
    rows = -(-len(views) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _PANEL, rows * _PANEL + top + bottom), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    draw.text((12, 8), title, fill=_INK, font=_font(18))

    def view(number: int) -> Image.Image:
        fitted, cut = cameras[number], views[number][3]
        camera = Camera(fitted.direction, fitted.up, fitted.centre, scale, size)
        return coloured_view(corners, colours, camera, float(camera.project(centre)[0, 2]) if cut else None)

    for number, panel in enumerate(in_threads(view, range(len(views)))):
        name = views[number][0]
        place = ((number % _COLUMNS) * _PANEL, top + number // _COLUMNS * _PANEL)
        sheet.paste(panel, place)
        draw.text((place[0] + 10, place[1] + 8), name, fill=_INK, font=_font(16))
    legend(draw, sheet.height - bottom, words)
    draw.text((12, sheet.height - 22), NOTICE, fill=_FAINT, font=_font(14))
    return sheet


def colours_of(offset_mm: Array) -> Array:
    """(N, 3) from blue (missing) over grey to red (extra); yellow where nothing is compared."""
    share = np.clip(offset_mm / SCALE_MM, -1.0, 1.0)[:, None]
    ends = np.where(share < 0, np.array(_MISSING, float), np.array(_EXTRA, float))
    scale = np.array(_GOOD, float) * (1.0 - np.abs(share)) + ends * np.abs(share)
    return np.where(np.isnan(share), np.array(_LEFT_OUT, float), scale)


def coloured_view(corners: Array, colours: Array, camera: Camera, cut_depth: float | None) -> Image.Image:
    width, height = camera.size
    seen = camera.project(corners.reshape(-1, 3)).reshape(-1, 3, 3)
    across, along = seen[:, 1, :2] - seen[:, 0, :2], seen[:, 2, :2] - seen[:, 0, :2]
    facing = across[:, 0] * along[:, 1] - across[:, 1] * along[:, 0]
    # as seen by the viewer the corners of what faces him wind against the rows, which run downward
    shown = np.abs(facing) > 1e-9
    shown &= facing < 0 if cut_depth is None else seen[:, :, 2].mean(axis=1) > cut_depth
    chosen = np.flatnonzero(shown)
    depth, face = np.full(width * height, np.inf), np.full(width * height, -1)
    for which, column, row, weights in cover(seen[chosen][:, :, :2], width, height):
        z = np.einsum("ij,ij->i", weights, seen[chosen[which], :, 2])
        pixel = row * width + column
        order = np.lexsort((z, pixel))
        first = order[np.r_[True, np.diff(pixel[order]) > 0]] if order.size else order
        nearer = first[z[first] < depth[pixel[first]]]
        depth[pixel[nearer]], face[pixel[nearer]] = z[nearer], chosen[which[nearer]]
    hit = face >= 0
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    slant = np.abs(normal @ camera.axes[2]) / np.maximum(np.linalg.norm(normal, axis=1), 1e-12)
    picture = np.full((width * height, 3), 255.0)
    picture[hit] = (colours * (0.5 + 0.5 * slant)[:, None])[face[hit]]
    return Image.fromarray(np.rint(picture).astype(np.uint8).reshape(height, width, 3), "RGB")


def legend(draw: ImageDraw.ImageDraw, top: int, words: str) -> None:
    length, left = 480, 12
    for column in range(length):
        value = (2.0 * column / (length - 1) - 1.0) * SCALE_MM
        red, green, blue = (round(c) for c in colours_of(np.array([value]))[0])
        draw.line([(left + column, top + 8), (left + column, top + 24)], fill=(red, green, blue))
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = (2.0 * share - 1.0) * SCALE_MM
        x = left + share * (length - 1)
        draw.line([(x, top + 24), (x, top + 28)], fill=_INK)
        anchor = "la" if share == 0 else "ra" if share == 1 else "ma"
        draw.text((x, top + 30), f"{value:+.2f} mm", fill=_INK, font=_font(13), anchor=anchor)
    draw.text((left + length + 24, top + 8), words, fill=_INK, font=_font(15))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
