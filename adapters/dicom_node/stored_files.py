"""Small steps on files that the store and its log share: write all, sync a directory, say what failed."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from service.errors import StorageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_parts(descriptor: int, parts: Sequence[bytes | memoryview]) -> None:
    """One after the other, in one call when the kernel takes it so."""
    done = os.writev(descriptor, list(parts))
    for part in parts:
        if done < len(part):
            write_all(descriptor, memoryview(part)[done:])
        done = max(0, done - len(part))


def sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def storage_error(error: OSError) -> StorageError:
    if error.errno in _FULL:
        return StorageError(
            "The disk of the image store is full.",
            next_step="Free space on the data disk; the sender can then send again.",
            code="storage.full",
        )
    return StorageError(
        f"The image store cannot be written ({errno.errorcode.get(error.errno or 0, 'unknown error')}).",
        next_step="Check the data disk and its permissions.",
        code="storage.failed",
    )
