"""A small software renderer: shaded meshes without a graphics card or window, the same picture everywhere.

Orthographic z-buffer in numpy, supersampled. Picture frame: x to the right, y down, pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.geometry.mesh import Mesh
from service.geometry.raster import cover

Array = NDArray[np.float64]
Colour = tuple[int, int, int]

BONE: Colour = (232, 222, 200)
CUT: Colour = (206, 96, 72)
INNER: Colour = (150, 170, 190)
PAPER: Colour = (255, 255, 255)


@dataclass(frozen=True, eq=False)
class Camera:
    """Orthographic view. `direction` looks into the scene; all vectors in the mesh's frame."""

    direction: Array
    up: Array
    centre: Array
    mm_per_pixel: float
    size: tuple[int, int]
    """Width, height in pixels."""

    @property
    def axes(self) -> tuple[Array, Array, Array]:
        """Unit right, down and forward."""
        forward = self.direction / np.linalg.norm(self.direction)
        right = np.cross(forward, self.up)
        right = right / np.linalg.norm(right)
        return right, np.cross(forward, right), forward

    def project(self, points: NDArray[Any]) -> Array:
        """(N, 3) points -> (N, 3): column, row in pixels and depth in mm (away from the viewer)."""
        right, down, forward = self.axes
        offset = np.atleast_2d(np.asarray(points, dtype=np.float64)) - self.centre
        column = offset @ right / self.mm_per_pixel + (self.size[0] - 1) / 2.0
        row = offset @ down / self.mm_per_pixel + (self.size[1] - 1) / 2.0
        return np.stack([column, row, offset @ forward], axis=1)

    def scaled(self, factor: int) -> Camera:
        size = (self.size[0] * factor, self.size[1] * factor)
        return Camera(self.direction, self.up, self.centre, self.mm_per_pixel / factor, size)


def camera_for(
    vertices: NDArray[Any], direction: Any, up: Any, size: tuple[int, int], *, margin: float = 0.08
) -> Camera:
    """The view that shows all vertices with a margin (share of the picture)."""
    points = np.asarray(vertices, dtype=np.float64)
    low, high = _box(points)
    centre = (low + high) / 2.0
    raw = Camera(np.asarray(direction, float), np.asarray(up, float), centre, 1.0, size)
    seen = raw.project(points)[:, :2]
    low, high = _box(seen)
    right, down, _ = raw.axes
    middle = (low + high) / 2.0 - (np.array(size) - 1) / 2.0
    scale = float(((high - low) / (np.array(size) * (1.0 - 2.0 * margin))).max())
    return Camera(
        raw.direction, raw.up, centre + middle[0] * right + middle[1] * down, max(scale, 1e-6), size
    )


def _box(points: Array) -> tuple[Array, Array]:
    """Lowest and highest of each column of (N, k); column by column, which takes numpy a tenth of the time."""
    columns = np.ascontiguousarray(points.T)
    return columns.min(axis=1), columns.max(axis=1)


def render_mesh(
    vertices: NDArray[Any],
    faces: NDArray[Any],
    *,
    direction: Any = (0.0, 1.0, 0.0),
    up: Any = (0.0, 0.0, 1.0),
    size: tuple[int, int] = (600, 600),
    camera: Camera | None = None,
    colour: Colour = BONE,
    clip_depth_mm: float | None = None,
    supersample: int = 2,
    background: Colour = PAPER,
    normals: Array | None = None,
) -> Image.Image:
    """Draw a mesh with soft light from the viewer's upper left, smooth shading and darkened crevices.

    Parameters
    ----------
    vertices, faces : closed mesh, faces counter-clockwise from outside.
    direction, up : into the scene and upward in the mesh's frame; ignored when `camera` is given.
    clip_depth_mm : leave out what lies nearer to the viewer than this plane (depth from the camera's centre);
        material that is cut is shown flat in its own colour.
    normals : (N, 3) unit normals of the vertices, when several views of a mesh share them (`vertex_normals`).
    """
    mesh = Mesh(np.asarray(vertices, dtype=np.float64), np.asarray(faces, dtype=np.int64))
    base = camera or camera_for(mesh.vertices, direction, up, size)
    image, _ = shaded(
        mesh,
        base.scaled(supersample),
        colour,
        background=background,
        clip_depth_mm=clip_depth_mm,
        normals=normals,
    )
    picture = Image.fromarray(image, "RGB")
    return picture.resize(base.size, Image.Resampling.BOX) if supersample > 1 else picture


def shaded(
    mesh: Mesh,
    view: Camera,
    colour: Colour,
    *,
    background: Colour = PAPER,
    clip_depth_mm: float | None = None,
    normals: Array | None = None,
) -> tuple[NDArray[np.uint8], Array]:
    """A mesh as (H, W, 3) colours and (H, W) depth in mm, inf where nothing is; see `render_mesh`.

    With their depths several meshes can be laid over one another.
    """
    depth, normal, back = _z_buffer(
        mesh, view, clip_depth_mm, vertex_normals(mesh) if normals is None else normals
    )
    return _shade(depth, normal, back, view, colour, background, clip_depth_mm), depth


def vertex_normals(mesh: Mesh) -> Array:
    """(N, 3) unit normals, area-weighted."""
    normals, areas = mesh.normals()
    weighted = np.repeat(normals * areas[:, None], 3, axis=0)
    flat = mesh.faces.ravel()
    total = np.stack(
        [np.bincount(flat, weights=weighted[:, c], minlength=len(mesh.vertices)) for c in range(3)], axis=1
    )
    return np.asarray(total / np.maximum(np.linalg.norm(total, axis=1), 1e-12)[:, None])


def _z_buffer(
    mesh: Mesh, view: Camera, clip: float | None, normals: Array
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Nearest depth per pixel (inf = nothing), normal in camera axes, and whether a back face is seen there."""
    width, height = view.size
    seen = view.project(mesh.vertices)
    camera_normals = normals @ np.stack(view.axes, axis=1)
    face_normals = mesh.normals()[0] @ np.stack(view.axes, axis=1)
    # Smooth over the mesh's own facets, but keep edges: a vertex normal far from the face's own is not used.
    triangles = seen[mesh.faces]
    visible = np.ones(len(mesh.faces), dtype=bool) if clip is not None else face_normals[:, 2] < 0
    chosen = np.flatnonzero(visible)
    depth = np.full(width * height, np.inf)
    face = np.full(width * height, -1, dtype=np.int64)
    weight = np.zeros((width * height, 3))
    for which_all, column, row, weights in cover(triangles[chosen][:, :, :2], width, height):
        depths = np.einsum("ij,ij->i", weights, triangles[chosen[which_all], :, 2])
        keep = depths >= (-np.inf if clip is None else clip)
        which, w, z = which_all[keep], weights[keep], depths[keep]
        pixel = (row * width + column)[keep]
        before = depth[pixel]
        np.minimum.at(depth, pixel, z)
        nearer = np.flatnonzero((z < before) & (z == depth[pixel]))[::-1]  # of equals the first is drawn
        face[pixel[nearer]] = chosen[which[nearer]]
        weight[pixel[nearer]] = w[nearer]
    hit = face >= 0
    normal = np.zeros((width * height, 3))
    corners = camera_normals[mesh.faces[face[hit]]]
    own = face_normals[face[hit]]
    smooth = np.einsum("ij,ijk->ik", weight[hit], corners)
    smooth /= np.maximum(np.linalg.norm(smooth, axis=1), 1e-12)[:, None]
    edge = (smooth * own).sum(axis=1) < 0.6
    smooth[edge] = own[edge]
    normal[hit] = smooth
    back = np.zeros(width * height, dtype=bool)
    back[hit] = own[:, 2] > 0
    return depth.reshape(height, width), normal.reshape(height, width, 3), back.reshape(height, width)


def _shade(
    depth: Array,
    normal: Array,
    back: NDArray[np.bool_],
    view: Camera,
    colour: Colour,
    background: Colour,
    clip: float | None,
) -> NDArray[np.uint8]:
    hit = np.isfinite(depth)
    facing = normal[hit]
    key = np.array([-0.45, -0.6, -0.66])
    fill = np.array([0.8, -0.1, -0.6])
    diffuse = 0.62 * np.maximum(facing @ key, 0) + 0.2 * np.maximum(facing @ (fill / np.linalg.norm(fill)), 0)
    rim = 0.10 * (1.0 - np.abs(facing[:, 2])) ** 3
    light = 0.30 + diffuse + rim
    light *= _crevices(depth, hit, view)[hit]
    half = key + np.array([0.0, 0.0, -1.0])
    shine = 0.14 * np.maximum(facing @ (half / np.linalg.norm(half)), 0) ** 30
    rgb = np.array(colour, dtype=np.float64) * light[:, None] + 255.0 * shine[:, None]
    if clip is not None:
        rgb[back[hit]] = CUT
    picture = np.empty((*depth.shape, 3), dtype=np.uint8)
    picture[:] = background
    picture[hit] = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return picture


def _crevices(depth: Array, hit: NDArray[np.bool_], view: Camera) -> Array:
    """Darkening where the surroundings stand nearer to the viewer (screen-space ambient occlusion)."""
    from scipy import ndimage

    step = max(1, round(0.5 / view.mm_per_pixel / 2))
    small = depth[::step, ::step]
    known = hit[::step, ::step]
    sigma = 2.5 / (view.mm_per_pixel * step)
    level = np.where(known, small, 0.0)
    weight = ndimage.gaussian_filter(known.astype(np.float64), sigma)
    around = ndimage.gaussian_filter(level, sigma) / np.maximum(weight, 1e-6)
    hollow = np.clip((np.where(known, small, 0.0) - around) / 8.0, 0.0, 1.0) * known
    full = np.kron(hollow, np.ones((step, step)))[: depth.shape[0], : depth.shape[1]]
    return np.asarray(1.0 - 0.45 * full)
