"""The body of a STOW-RS request: files as they are, streamed, with a length known beforehand (PS3.18 8.6.1.2)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_PART_HEAD = b"Content-Type: application/dicom\r\n\r\n"
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Related:
    """`multipart/related` over files. The boundary is random, so that no image can hold it by chance or on purpose."""

    files: Sequence[Path]
    sizes: Sequence[int]
    boundary: str

    @property
    def content_type(self) -> str:
        return f'multipart/related; type="application/dicom"; boundary={self.boundary}'

    @property
    def length(self) -> int:
        per_part = len(self._opening()) + len(b"\r\n")
        return sum(size + per_part for size in self.sizes) + len(self._closing())

    def __iter__(self) -> Iterator[bytes]:
        """Raises OSError when a file cannot be read, or has another length than at the start."""
        for path, size in zip(self.files, self.sizes, strict=True):
            yield self._opening()
            left = size
            with path.open("rb") as stream:
                while left and (block := stream.read(min(left, _BLOCK_BYTES))):
                    left -= len(block)
                    yield block
                if left or stream.read(1):
                    raise OSError(f"{path.name} changed while it was sent")
            yield b"\r\n"
        yield self._closing()

    def _opening(self) -> bytes:
        return b"--" + self.boundary.encode() + b"\r\n" + _PART_HEAD

    def _closing(self) -> bytes:
        return b"--" + self.boundary.encode() + b"--\r\n"


def related(files: Sequence[Path]) -> Related:
    """Raises OSError when a file is not there."""
    return Related(tuple(files), tuple(f.stat().st_size for f in files), secrets.token_hex(24))
