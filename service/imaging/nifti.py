"""NIfTI-1 files, read and written here so that sheared affines and every byte are under control.

NIfTI world coordinates are RAS mm, ours LPS mm: x and y change sign. Format: nifti1.h of the NIfTI Data Format
Working Group. Writing the same volume twice gives the same bytes (no time, no name in the gzip header).
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from service.errors import GeometryError, ImagingError
from service.geometry.volume import Array, Volume
from service.imaging.dataset import MOST_PIXELS

_HEADER = 348
_DATA_OFFSET = 352
_DTYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_CODE_OF = {np.dtype(name): code for code, name in _DTYPES.items()}
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_MM = 2
_SCANNER = 1
_MOST_OFFSET = 16 << 20
"""Header and extensions; what programs write there is kilobytes."""
_MOST_EXPANSION = 1100
"""The most that deflate can pack (1:1032)."""
_CHUNK = 1 << 20


def write_nifti(volume: Volume, path: Path) -> None:
    """Write as .nii or .nii.gz (by the name). The affine goes to the sform, and to the qform when it is rigid."""
    path.write_bytes(nifti_bytes(volume, compressed=path.name.endswith(".gz")))


def nifti_bytes(volume: Volume, *, compressed: bool) -> bytes:
    """What `write_nifti` writes. Compressing takes a second and needs nothing of the interpreter."""
    values = np.ascontiguousarray(volume.values)
    if values.dtype == bool:
        values = values.astype(np.uint8)
    if values.dtype.newbyteorder("=") not in _CODE_OF:
        raise GeometryError(
            f"Values of type {values.dtype} cannot be written as NIfTI.",
            next_step="Convert them to an integer or floating point type.",
            code="imaging.nifti",
        )
    data = _header(values, _RAS_FROM_LPS @ volume.lps_from_ijk) + b"\0" * 4
    data += values.astype(values.dtype.newbyteorder("<")).tobytes()
    return gzip.compress(data, compresslevel=6, mtime=0) if compressed else data


def _header(values: NDArray[Any], ras_from_ijk: Array) -> bytes:
    code = _CODE_OF[values.dtype.newbyteorder("=")]
    step = np.linalg.norm(ras_from_ijk[:3, :3], axis=0)
    quaternion, qfac = _quaternion(ras_from_ijk[:3, :3] / step)
    header = bytearray(_HEADER)
    struct.pack_into("<i", header, 0, _HEADER)
    struct.pack_into("<8h", header, 40, 3, *values.shape[::-1], 1, 1, 1, 1)
    struct.pack_into("<hh", header, 70, code, values.dtype.itemsize * 8)
    struct.pack_into("<8f", header, 76, qfac, *step, 0, 0, 0, 0)
    struct.pack_into("<f", header, 108, _DATA_OFFSET)
    struct.pack_into("<ff", header, 112, 1.0, 0.0)
    header[123] = _MM
    struct.pack_into("<hh", header, 252, _SCANNER if quaternion is not None else 0, _SCANNER)
    struct.pack_into("<3f", header, 256, *(quaternion if quaternion is not None else (0.0, 0.0, 0.0)))
    struct.pack_into("<3f", header, 268, *ras_from_ijk[:3, 3])
    struct.pack_into("<12f", header, 280, *ras_from_ijk[:3].ravel())
    header[344:348] = b"n+1\0"
    return bytes(header)


def _quaternion(directions: Array) -> tuple[tuple[float, float, float] | None, float]:
    """(b, c, d) of the unit quaternion with a >= 0, and qfac; None for a sheared frame."""
    if not np.allclose(directions.T @ directions, np.eye(3), atol=1e-4):
        return None, 1.0
    qfac = 1.0 if np.linalg.det(directions) > 0 else -1.0
    rotation = directions * np.array([1.0, 1.0, qfac])
    # eigenvector of the symmetric matrix K (Bar-Itzhack 2000): robust at every angle
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    k = np.array(
        [
            [xx - yy - zz, yx + xy, zx + xz, zy - yz],
            [yx + xy, yy - xx - zz, zy + yz, xz - zx],
            [zx + xz, zy + yz, zz - xx - yy, yx - xy],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    b, c, d, a = np.linalg.eigh(k)[1][:, -1]
    sign = -1.0 if a < 0 else 1.0
    return (float(b * sign), float(c * sign), float(d * sign)), qfac


def read_nifti(path: Path) -> Volume:
    """Read a 3-D .nii or .nii.gz; scaling applied when the file has one.

    Raises ImagingError: `imaging.nifti` when the file is damaged, not 3-D, or does not say where it lies in the
    patient; `imaging.unsafe` when it announces more voxels than a scan has.
    """
    try:
        with path.open("rb") as plain, _unpacked(plain, path) as stream:
            head = stream.read(_DATA_OFFSET)
            layout = _layout(head)
            affine = _affine(head, layout.order)
            _require_held(layout, path)
            data = _voxel_bytes(stream, layout)
    except (OSError, EOFError, zlib.error) as error:
        raise _refused("cannot be read or is cut off") from error
    values: NDArray[Any] = data.view(layout.kind).reshape(layout.shape)
    values = values.astype(layout.kind.newbyteorder("="), copy=False)
    slope, intercept = struct.unpack_from(layout.order + "ff", head, 112)
    if slope not in (0.0, 1.0) or (slope == 1.0 and intercept != 0.0):
        values = (values * float(slope) + float(intercept)).astype(np.float32)
    return Volume(values, _RAS_FROM_LPS @ affine)


@dataclass(frozen=True)
class _Layout:
    order: str
    kind: np.dtype[Any]
    shape: tuple[int, int, int]
    """(Z, Y, X)"""
    offset: int

    @property
    def size(self) -> int:
        """Bytes of the voxels."""
        return math.prod(self.shape) * self.kind.itemsize


def _layout(head: bytes) -> _Layout:
    """What the header says of the voxels, before any of them is unpacked."""
    order = "<" if head[:4] == struct.pack("<i", _HEADER) else ">"
    if len(head) < _DATA_OFFSET or struct.unpack_from(order + "i", head, 0)[0] != _HEADER:
        raise _refused("is not a NIfTI-1 file")
    if head[344:348] != b"n+1\0":
        raise _refused("keeps its voxels in a second file, which is not supported")
    dim = struct.unpack_from(order + "8h", head, 40)
    if not 3 <= dim[0] <= 7 or any(n > 1 for n in dim[4 : dim[0] + 1]) or min(dim[1:4]) < 1:
        raise _refused("is not one three-dimensional image")
    dtype = _DTYPES.get(struct.unpack_from(order + "h", head, 70)[0])
    if dtype is None:
        raise _refused("holds a voxel type that is not a real number")
    offset = struct.unpack_from(order + "f", head, 108)[0]
    # a comparison that NaN fails as well
    if not _DATA_OFFSET <= offset <= _MOST_OFFSET:
        raise _refused("does not say where its voxels begin")
    return _Layout(order, np.dtype(order + dtype), (dim[3], dim[2], dim[1]), int(offset))


def _require_held(layout: _Layout, path: Path) -> None:
    """Refuse voxels that the file cannot hold, before memory is taken for them."""
    if math.prod(layout.shape) > MOST_PIXELS:
        raise ImagingError(
            f"The NIfTI file announces {math.prod(layout.shape):.2e} voxels; at most {MOST_PIXELS:.2e} are read.",
            next_step="Export the mask on the grid of this CT, or cut to the spine.",
            code="imaging.unsafe",
        )
    expansion = _MOST_EXPANSION if path.name.endswith(".gz") else 1
    if layout.offset + layout.size > expansion * path.stat().st_size:
        raise _refused("is cut off")


def _unpacked(plain: BinaryIO, path: Path) -> BinaryIO:
    return cast("BinaryIO", gzip.GzipFile(fileobj=plain)) if path.name.endswith(".gz") else plain


def _voxel_bytes(stream: BinaryIO, layout: _Layout) -> NDArray[np.uint8]:
    """The voxels and nothing behind them: how much a file unpacks to is what its header says, not what it holds."""
    stream.read(layout.offset - _DATA_OFFSET)
    data = np.empty(layout.size, np.uint8)
    filled = 0
    while filled < layout.size:
        part = stream.read(min(_CHUNK, layout.size - filled))
        if not part:
            raise _refused("is cut off")
        data[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
        filled += len(part)
    stream.read(1)  # at its end gzip compares the checksum
    return data


def _affine(raw: bytes, order: str) -> Array:
    qform, sform = struct.unpack_from(order + "hh", raw, 252)
    affine = np.eye(4)
    if sform > 0:
        affine[:3] = np.array(struct.unpack_from(order + "12f", raw, 280)).reshape(3, 4)
    elif qform > 0:
        b, c, d = struct.unpack_from(order + "3f", raw, 256)
        a = np.sqrt(max(0.0, 1.0 - b * b - c * c - d * d))
        rotation = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
        )
        pixdim = struct.unpack_from(order + "4f", raw, 76)
        qfac = -1.0 if pixdim[0] < 0 else 1.0
        affine[:3, :3] = rotation * np.array([pixdim[1], pixdim[2], qfac * pixdim[3]])
        affine[:3, 3] = struct.unpack_from(order + "3f", raw, 268)
    else:
        raise _refused("does not say where it lies in the patient (neither sform nor qform is set)")
    if not np.all(np.isfinite(affine)) or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise _refused("has an unusable orientation matrix")
    return affine


def _refused(what: str) -> ImagingError:
    return ImagingError(
        f"The NIfTI file {what}.",
        next_step="Export it again as one .nii or .nii.gz file with its position.",
        code="imaging.nifti",
    )
