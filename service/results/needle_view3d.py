"""The vertebra in 3-D, seen through, with the planned channels and the measured needles in it.

Planning LPS, mm. Drawn by the software renderer, so it looks the same on every machine and needs no window.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from service.domain.plan import VertebraFrame
from service.geometry.mesh import Mesh
from service.geometry.volume import Volume
from service.results.needle_slices import DARK, LIGHT, NEEDLE, PLAN, ShownNeedle
from service.results.pictures import font
from service.results.render import BONE, Camera, Colour, camera_for, shaded

Array = NDArray[np.float64]

NEEDLE_RADIUS_MM = 1.2
"""A 13 G needle (facts sheet, section 1)."""
SHOWN_MM = 80.0
"""So much of a needle is shown behind its tip."""
_DASH_MM, _DASH_EVERY_MM = 4.5, 7.0
_BEFORE_ENTRY_MM = 12.0
_BONE_OVER_METAL = 0.34
"""Share of the bone's colour where a needle lies inside or behind it."""
_BONE_OVER_NOTHING = 0.75
_SUPERSAMPLE = 2
_SIDES = 24


def bone_mesh(outer: Volume) -> Mesh:
    """The zero surface of a signed distance (negative inside), LPS mm, faces counter-clockwise from outside."""
    from skimage import measure

    # A surface that runs out of the grid would stay open there.
    values = np.pad(outer.values.astype(np.float32), 1, constant_values=5.0)
    kji, faces, _, _ = measure.marching_cubes(values, 0.0, allow_degenerate=False)
    mesh = Mesh(outer.to_lps(kji[:, ::-1] - 1.0), np.asarray(faces, dtype=np.int64))
    return mesh if mesh.volume_mm3() > 0 else Mesh(mesh.vertices, mesh.faces[:, ::-1])


def rod(start: NDArray[np.float64], end: NDArray[np.float64], radius_mm: float) -> Mesh:
    """A closed cylinder."""
    along = (end - start) / np.linalg.norm(end - start)
    aside = np.cross(along, np.eye(3)[int(np.argmin(np.abs(along)))])
    aside /= np.linalg.norm(aside)
    turn = np.arange(_SIDES) * 2 * np.pi / _SIDES
    ring = radius_mm * (np.cos(turn)[:, None] * aside + np.sin(turn)[:, None] * np.cross(along, aside))
    vertices = np.concatenate([start + ring, end + ring, [start, end]])
    i = np.arange(_SIDES)
    j = (i + 1) % _SIDES
    low, high = 2 * _SIDES, 2 * _SIDES + 1
    faces = [
        np.stack([i, j, j + _SIDES], axis=1),
        np.stack([i, j + _SIDES, i + _SIDES], axis=1),
        np.stack([j, i, np.full(_SIDES, low)], axis=1),
        np.stack([i + _SIDES, j + _SIDES, np.full(_SIDES, high)], axis=1),
    ]
    return Mesh(vertices, np.concatenate(faces).astype(np.int64))


def ball(centre: NDArray[np.float64], radius_mm: float) -> Mesh:
    """A sphere."""
    from skimage import measure

    steps = np.linspace(-1.2, 1.2, 25)
    z, y, x = np.meshgrid(steps, steps, steps, indexing="ij")
    kji, faces, _, _ = measure.marching_cubes(np.sqrt(x * x + y * y + z * z) - 1.0, 0.0)
    mesh = Mesh(centre + radius_mm * (kji[:, ::-1] * 0.1 - 1.2), np.asarray(faces, dtype=np.int64))
    return mesh if mesh.volume_mm3() > 0 else Mesh(mesh.vertices, mesh.faces[:, ::-1])


def parts(needles: Sequence[ShownNeedle], channel_diameter_mm: float) -> list[tuple[Mesh, Colour]]:
    """Channels with a ball at the target, and needles with a ball at the tip; one mesh of each colour."""
    plans: list[Mesh] = []
    metal: list[Mesh] = []
    for needle in needles:
        if needle.planned is not None:
            entry, target = np.array(needle.planned.entry), np.array(needle.planned.target)
            length = float(np.linalg.norm(entry - target))
            out = (entry - target) / length
            # broken like the line on the slices, so that it is known without its colour
            plans += [
                rod(target + at * out, target + (at + _DASH_MM) * out, channel_diameter_mm / 2.0)
                for at in np.arange(0.0, length + _BEFORE_ENTRY_MM, _DASH_EVERY_MM)
            ]
            plans.append(ball(target, 2.1))
        if needle.tip is not None:
            metal += [
                rod(needle.tip - SHOWN_MM * needle.axis, needle.tip, NEEDLE_RADIUS_MM),
                ball(needle.tip, 1.6),
            ]
    return [(_joined(meshes), colour) for meshes, colour in ((plans, PLAN), (metal, NEEDLE)) if meshes]


def _joined(meshes: Sequence[Mesh]) -> Mesh:
    first = np.cumsum([0, *(len(m.vertices) for m in meshes)])
    faces = [m.faces + start for m, start in zip(meshes, first[:-1], strict=True)]
    return Mesh(np.concatenate([m.vertices for m in meshes]), np.concatenate(faces))


def see_through(
    bone: Mesh, inside: Sequence[tuple[Mesh, Colour]], camera: Camera, *, margin: Colour = DARK
) -> Image.Image:
    """The bone translucent over what is in or behind it; what is in front of it covers it."""
    view = camera.scaled(_SUPERSAMPLE)
    skin, skin_depth = shaded(bone, view, BONE, background=margin)
    metal = np.empty(skin.shape, dtype=np.float64)
    metal[:] = margin
    metal_depth = np.full(skin_depth.shape, np.inf)
    for mesh, colour in inside:
        rgb, depth = shaded(mesh, view, colour, background=margin)
        nearer = depth < metal_depth
        metal[nearer], metal_depth[nearer] = rgb[nearer], depth[nearer]
    has_metal = np.isfinite(metal_depth)
    share = np.where(has_metal, _BONE_OVER_METAL, _BONE_OVER_NOTHING)
    share[~np.isfinite(skin_depth) | (metal_depth < skin_depth)] = 0.0
    mixed = share[:, :, None] * skin + (1.0 - share[:, :, None]) * metal
    return Image.fromarray(np.rint(mixed).astype(np.uint8), "RGB").resize(camera.size, Image.Resampling.BOX)


def views(frame: VertebraFrame) -> list[tuple[str, Array, Array]]:
    """(name, direction of view, up)."""
    left, anterior, superior = np.array(frame.left), np.array(frame.anterior), np.array(frame.superior)
    return [
        ("from behind and above", 0.62 * anterior + 0.1 * left - 0.78 * superior, superior),
        ("from the left", -left, superior),
        ("from the feet", superior, anterior),
    ]


def draw(
    bone: Mesh,
    inside: Sequence[tuple[Mesh, Colour]],
    frame: VertebraFrame,
    number: int,
    size: tuple[int, int],
) -> tuple[str, Image.Image]:
    """(name of the view, picture) with letters and a scale bar. `number` as in `views`."""
    name, direction, up = views(frame)[number]
    camera = camera_for(bone.vertices, direction, up, size, margin=0.13)
    picture = see_through(bone, inside, camera)
    _letters(picture, camera, frame)
    return name, picture


def _letters(picture: Image.Image, camera: Camera, frame: VertebraFrame) -> None:
    paint = ImageDraw.Draw(picture)
    width, height = picture.size
    big = width > 500
    right, down, _ = camera.axes
    named = {"L": frame.left, "A": frame.anterior, "S": frame.superior}
    opposite = {"L": "R", "A": "P", "S": "I"}
    inset = 20 if big else 12
    for vector, place in (
        (right, (width - inset, height // 2)),
        (-right, (inset, height // 2)),
        (-down, (width // 2, inset)),
        (down, (width // 2, height - inset)),
    ):
        letter, along = max(named.items(), key=lambda item: abs(float(np.array(item[1]) @ vector)))
        signed = float(np.array(along) @ vector)
        if abs(signed) > 0.7:
            text = letter if signed > 0 else opposite[letter]
            paint.text(
                place,
                text,
                fill=LIGHT,
                font=font(26 if big else 18),
                anchor="mm",
                stroke_width=3,
                stroke_fill=DARK,
            )
    length, x, y = 20.0 / camera.mm_per_pixel, 22 if big else 10, height - (24 if big else 12)
    paint.line([(x, y), (x + length, y)], fill=LIGHT, width=4 if big else 3)
    paint.text(
        (x + length / 2, y - (18 if big else 12)),
        "20 mm",
        fill=LIGHT,
        font=font(20 if big else 14),
        anchor="mm",
    )
