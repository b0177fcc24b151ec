"""Pictures of a model and its plan for the review page and the report: four views, and slices with contours.

Patient frame LPS mm. Left of the patient is on the right of anterior and axial pictures, as radiologists see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from service.domain.plan import Plan, VertebraFrame
from service.geometry.mesh import Mesh, simplify
from service.geometry.parallel import in_threads
from service.geometry.volume import Volume
from service.results.render import Camera, camera_for, render_mesh, vertex_normals

Array = NDArray[np.float64]
Colour = tuple[int, int, int]
_View = tuple[str, Array, Array, Array | None]
"""(name, direction, up, point on the cutting plane or None)."""

#: How far a surface may be moved for its picture, whose pixels are about 0.2 mm.
PICTURE_TOLERANCE_MM = 0.1

NOTICE = "Research and engineering software. Not a medical device."
_INK: Colour = (40, 44, 52)
_FAINT: Colour = (120, 126, 136)
_PATH: Colour = (0, 140, 220)
_OUTLINE: Colour = (255, 176, 32)


def mesh_views(
    vertices: NDArray[Any],
    faces: NDArray[Any],
    *,
    plan: Plan | None = None,
    panel: int = 480,
    title: str = "",
    drawn: Mesh | None = None,
) -> Image.Image:
    """Four views of the model with axis letters and a scale bar, and the notice.

    Anterior, left, superior, oblique from behind; with a plan two cut-aways more: along the first channel, and
    mid-height from above.

    Parameters
    ----------
    vertices, faces : LPS mm.
    plan : gives the anatomical directions (else LPS) and the channels.
    panel : edge of one view in pixels.
    title : first line of the picture, e.g. level and case code; never patient data.
    drawn : the same model with fewer faces (`mesh_to_draw`), when several pictures share it.
    """
    mesh = Mesh(np.asarray(vertices, dtype=np.float64), np.asarray(faces, dtype=np.int64))
    drawn = drawn or mesh_to_draw(mesh)
    normals = vertex_normals(drawn)
    left, anterior, superior = directions_of(plan.vertebra_frame if plan else None)
    oblique = -0.55 * left + 0.72 * anterior - 0.45 * superior
    views: list[_View] = [
        ("anterior", -anterior, superior, None),
        ("left", -left, superior, None),
        ("superior", -superior, anterior, None),
        ("oblique from behind", oblique, superior, None),
    ]
    if plan is not None:
        views.extend(_cut_views(plan, left, anterior, superior))
    # One scale for all panels, so that they may be compared.
    size = (panel, panel)
    cameras = [camera_for(mesh.vertices, direction, up, size) for _, direction, up, _ in views]
    scale = max(camera.mm_per_pixel for camera in cameras)
    cameras = [Camera(c.direction, c.up, c.centre, scale, size) for c in cameras]

    def rendered(number: int) -> Image.Image:
        camera, through = cameras[number], views[number][3]
        clip = None if through is None else float(camera.project(through)[0, 2])
        return render_mesh(drawn.vertices, drawn.faces, camera=camera, clip_depth_mm=clip, normals=normals)

    # The longest part of all pictures, and the last thing a model waits for.
    pictures = in_threads(rendered, range(len(views)))
    for (name, *_), camera, picture in zip(views, cameras, pictures, strict=True):
        _annotate(picture, camera, name, (left, anterior, superior))
    return _sheet(pictures, panel, 3 if len(pictures) > 4 else 2, title)


def mesh_to_draw(mesh: Mesh) -> Mesh:
    """A fifth of the faces for the same picture: half a pixel of a printed page is the most that moves."""
    return simplify(mesh, PICTURE_TOLERANCE_MM)


def directions_of(frame: VertebraFrame | None) -> tuple[Array, Array, Array]:
    """The patient's left, anterior and superior, unit vectors; without a frame those of LPS."""
    if frame is None:
        return np.array([1.0, 0, 0]), np.array([0, -1.0, 0]), np.array([0, 0, 1.0])
    return np.array(frame.left), np.array(frame.anterior), np.array(frame.superior)


def _cut_views(plan: Plan, left: Array, anterior: Array, superior: Array) -> list[_View]:
    centre = np.array(plan.body_centre)
    if not plan.trajectories:
        return [
            ("cut, mid-sagittal", -left, superior, centre),
            ("cut, mid-height", -superior, anterior, centre),
        ]
    path = plan.trajectories[0]
    entry, target = np.array(path.entry), np.array(path.target)
    axis = (target - entry) / np.linalg.norm(target - entry)
    side = np.cross(superior, axis)
    side /= np.linalg.norm(side)
    side = side if side @ left > 0 else -side
    # The plane of the sagittal cut holds the channel; the other one holds it too, seen from above.
    above = np.cross(axis, side)
    above = above if above @ superior > 0 else -above
    return [
        (f"cut along the {path.pedicle} channel", -side, superior, target),
        ("cut along the channels, from above", -above, anterior, target),
    ]


def _annotate(picture: Image.Image, camera: Camera, name: str, axes: tuple[Array, Array, Array]) -> None:
    draw = ImageDraw.Draw(picture)
    width, height = picture.size
    draw.text((10, 8), name, fill=_INK, font=font(16))
    right, down, _ = camera.axes
    letters = [
        ("L", axes[0]),
        ("R", -axes[0]),
        ("A", axes[1]),
        ("P", -axes[1]),
        ("S", axes[2]),
        ("I", -axes[2]),
    ]
    for vector, place in (
        (right, (width - 12, height // 2)),
        (-right, (12, height // 2)),
        (-down, (width // 2, 36)),
        (down, (width // 2, height - 14)),
    ):
        letter, along = max(letters, key=lambda item: float(item[1] @ vector))
        if float(along @ vector) > 0.8:
            draw.text(place, letter, fill=_FAINT, font=font(16), anchor="mm")
    length = 20.0 / camera.mm_per_pixel
    x, y = width - 16 - length, height - 16
    draw.line([(x, y), (x + length, y)], fill=_INK, width=3)
    draw.text((x + length / 2, y - 10), "20 mm", fill=_INK, font=font(13), anchor="mm")


def _sheet(pictures: Sequence[Image.Image], panel: int, columns: int, title: str) -> Image.Image:
    rows = -(-len(pictures) // columns)
    top, bottom = (34 if title else 6), 30
    sheet = Image.new("RGB", (columns * panel, rows * panel + top + bottom), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((12, 8), title, fill=_INK, font=font(18))
    for number, picture in enumerate(pictures):
        sheet.paste(picture, ((number % columns) * panel, top + (number // columns) * panel))
    draw.text((12, sheet.height - 22), NOTICE, fill=_FAINT, font=font(14))
    return sheet


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The face of all writing in pictures."""
    return ImageFont.load_default(size=size)


def slice_overlay(
    ct: Volume,
    centre: Any,
    *,
    outlines: Sequence[Volume] = (),
    meshes: Sequence[Mesh] = (),
    plan: Plan | None = None,
    window: tuple[float, float] = (300.0, 1500.0),
    half_mm: float = 50.0,
    panel: int = 420,
) -> Image.Image:
    """Axial, sagittal and coronal CT slices through `centre` with contours and the planned paths.

    Parameters
    ----------
    ct : HU.
    centre : (3,) LPS mm, e.g. the body centre.
    outlines : fields drawn where they change sign (signed distance, negative inside), or masks (drawn at 0.5).
    meshes : drawn where the slice cuts them.
    plan : its trajectories are projected onto the slices, entry as a ring, target as a dot.
    window : (level, width) in HU.
    """
    middle = np.asarray(centre, dtype=np.float64)
    planes = [
        ("axial", np.array([1.0, 0, 0]), np.array([0, 1.0, 0])),
        ("sagittal", np.array([0, 1.0, 0]), np.array([0, 0, -1.0])),
        ("coronal", np.array([1.0, 0, 0]), np.array([0, 0, -1.0])),
    ]
    pictures = []
    for name, right, down in planes:
        camera = Camera(np.cross(right, down), -down, middle, 2.0 * half_mm / panel, (panel, panel))
        picture = _grey_slice(ct, camera, window)
        draw = ImageDraw.Draw(picture)
        for outline in outlines:
            _draw_field(draw, outline, camera)
        for mesh in meshes:
            _draw_cut(draw, mesh, camera)
        if plan is not None:
            _draw_paths(draw, plan, camera)
        _label_slice(draw, camera, name)
        pictures.append(picture)
    return _sheet(pictures, panel, 3, "")


def _slice_points(camera: Camera) -> Array:
    """(H * W, 3) LPS mm of the pixels of a plane through the camera's centre."""
    width, height = camera.size
    right, down, _ = camera.axes
    columns = (np.arange(width) - (width - 1) / 2.0) * camera.mm_per_pixel
    rows = (np.arange(height) - (height - 1) / 2.0) * camera.mm_per_pixel
    grid = rows[:, None, None] * down + columns[None, :, None] * right + camera.centre
    return np.asarray(grid.reshape(-1, 3))


def _grey_slice(ct: Volume, camera: Camera, window: tuple[float, float]) -> Image.Image:
    level, width = window
    values = ct.sample(_slice_points(camera), outside=-1000.0).reshape(camera.size[1], camera.size[0])
    grey = np.clip((values - level) / width + 0.5, 0.0, 1.0) * 255.0
    return Image.fromarray(np.rint(grey).astype(np.uint8), "L").convert("RGB")


def _draw_field(draw: ImageDraw.ImageDraw, field: Volume, camera: Camera) -> None:
    from skimage import measure

    is_mask = not np.issubdtype(field.values.dtype, np.floating)
    source = Volume(field.values.astype(np.float32), field.lps_from_ijk) if is_mask else field
    values = source.sample(_slice_points(camera), outside=0.0 if is_mask else 10.0)
    image = values.reshape(camera.size[1], camera.size[0])
    for line in measure.find_contours(image, 0.5 if is_mask else 0.0):
        draw.line([(float(c), float(r)) for r, c in line], fill=_OUTLINE, width=2)


def _draw_cut(draw: ImageDraw.ImageDraw, mesh: Mesh, camera: Camera) -> None:
    """The lines in which the slice cuts the mesh."""
    seen = camera.project(mesh.vertices)
    # Nothing lies exactly in the plane after this, so every cut triangle has exactly two crossed edges.
    depth = np.where(np.abs(seen[:, 2]) < 1e-6, 1e-6, seen[:, 2])[mesh.faces]
    cut = (depth > 0).any(axis=1) & (depth < 0).any(axis=1)
    corners, depth = seen[mesh.faces[cut]][:, :, :2], depth[cut]
    ends = []
    for a, b in ((0, 1), (1, 2), (2, 0)):
        share = depth[:, a] / (depth[:, a] - depth[:, b] + (depth[:, a] == depth[:, b]))
        point = corners[:, a] + share[:, None] * (corners[:, b] - corners[:, a])
        point[depth[:, a] * depth[:, b] > 0] = np.nan
        ends.append(point)
    crossing = np.stack(ends, axis=1)
    crossing = crossing[~np.isnan(crossing)].reshape(-1, 2, 2)
    for start, end in crossing:
        draw.line([tuple(start), tuple(end)], fill=_OUTLINE, width=2)


def _draw_paths(draw: ImageDraw.ImageDraw, plan: Plan, camera: Camera) -> None:
    for path in plan.trajectories:
        entry, target = camera.project(np.array([path.entry, path.target]))[:, :2]
        draw.line([tuple(entry), tuple(target)], fill=_PATH, width=3)
        draw.ellipse([*(entry - 5), *(entry + 5)], outline=_PATH, width=2)
        draw.ellipse([*(target - 4), *(target + 4)], fill=_PATH)


def _label_slice(draw: ImageDraw.ImageDraw, camera: Camera, name: str) -> None:
    width, height = camera.size
    light = (225, 228, 232)
    draw.text((10, 8), name, fill=light, font=font(15))
    right, down, _ = camera.axes
    for vector, place in (
        (right, (width - 10, height // 2)),
        (-right, (10, height // 2)),
        (-down, (width // 2, 14)),
    ):
        axis = int(np.argmax(np.abs(vector)))
        letter = ("LR", "PA", "SI")[axis][0 if vector[axis] > 0 else 1]
        draw.text(place, letter, fill=light, font=font(15), anchor="mm")
    length = 20.0 / camera.mm_per_pixel
    draw.line([(width - 14 - length, height - 14), (width - 14, height - 14)], fill=light, width=2)
    draw.text((width - 14 - length / 2, height - 24), "20 mm", fill=light, font=font(12), anchor="mm")
