"""Files written and read past the page cache (O_DIRECT), where the file system can.

An image passes through here twice and is read much later, by others. Copying it into the page cache and finding its
pages again for the disk cost more than everything else the node does with it. O_DIRECT wants offsets, lengths and
memory in whole blocks; what is left at the end of a file goes through the cache.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import uuid
from pathlib import Path

BLOCK = 4096
HUGE_PAGE = 2 << 20
_REFUSED = {errno.EINVAL, errno.EOPNOTSUPP}
_FULL = {errno.ENOSPC, errno.EDQUOT}


def aligned(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def room(size: int) -> memoryview:
    """Cleared memory of at least so many bytes, in whole pages.

    From HUGE_PAGE on in huge pages, where the kernel has them: it then gives the disk one piece of memory instead of
    looking for 128 pages of an image one by one. Private, because shared memory is as a rule not given huge pages; no
    child that is forked has it, because O_DIRECT and private memory that a fork copies do not go together (open(2)).
    """
    length = aligned(size)
    if length < HUGE_PAGE:
        return memoryview(_memory(length))
    memory = _memory(length + HUGE_PAGE)
    with contextlib.suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % HUGE_PAGE
    return memoryview(memory)[start : start + length]


def _memory(length: int) -> mmap.mmap:
    memory = mmap.mmap(-1, length, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_DONTFORK)
    return memory


def flag_for(folder: Path) -> int:
    """O_DIRECT when files of this folder can be used so (some file systems cannot), else 0.

    Also 0 while the disk is full, which must not keep the node from starting. Raises OSError for anything else.
    """
    probe = folder / f"{uuid.uuid4().hex}.probe"
    try:
        descriptor = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_DIRECT, 0o640)
        try:
            os.pwrite(descriptor, room(BLOCK), 0)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _REFUSED | _FULL:
            raise
        return 0
    finally:
        probe.unlink(missing_ok=True)
    return os.O_DIRECT


def write_whole(descriptor: int, data: memoryview, offset: int) -> None:
    """Raises OSError."""
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, data[done:] if done else data, offset + done)


def write_ending(descriptor: int, data: memoryview, size: int, offset: int) -> None:
    """The first `size` bytes of `data` as the end of a file. Raises OSError.

    What does not fill a block goes through the page cache: cutting a file of whole blocks to its length would have
    the kernel read that block again. Afterwards `descriptor` is not O_DIRECT any more.
    """
    whole = size - size % BLOCK
    write_whole(descriptor, data[:whole], offset)
    if whole < size:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_DIRECT)
        write_whole(descriptor, data[whole:size], offset + whole)
