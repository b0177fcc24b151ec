"""Memory for O_DIRECT: where it lies, and that large pieces ask for huge pages."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

from adapters.dicom_node.direct_io import BLOCK, HUGE_PAGE, room


def address(memory: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def flags_at(where: int) -> set[str]:
    """VmFlags of the mapping at this address (proc_pid_smaps(5))."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if mapping := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(mapping[1], 16) <= where < int(mapping[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return set(line.split()[1:])
    raise AssertionError("no mapping there")


@pytest.mark.parametrize("size", [1, BLOCK, BLOCK + 1, 1 << 20, HUGE_PAGE - 1, HUGE_PAGE, 5_000_000, 9 << 20])
def test_room_is_cleared_in_whole_pages_and_all_of_it_can_be_used(size: int) -> None:
    memory = room(size)
    assert size <= len(memory) < size + BLOCK
    assert address(memory) % BLOCK == 0
    assert len(memory) < HUGE_PAGE or address(memory) % HUGE_PAGE == 0
    assert not any(bytes(memory))
    memory[:] = b"\xff" * len(memory)
    assert bytes(memory[-BLOCK:]) == b"\xff" * BLOCK


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").is_dir(), reason="a kernel without them")
def test_what_an_image_lands_in_asks_for_huge_pages_and_is_not_shared() -> None:
    memory = room(HUGE_PAGE)
    memory[0] = 1
    flags = flags_at(address(memory))
    assert "hg" in flags, "not advised"
    assert "sh" not in flags, "shared memory gets no huge pages by default"


def test_small_pieces_do_not() -> None:
    assert "hg" not in flags_at(address(room(BLOCK)))


@pytest.mark.parametrize("size", [BLOCK, HUGE_PAGE])
def test_no_forked_child_has_it(size: int) -> None:
    """A fork while O_DIRECT fills private memory may give the bytes to the child's copy (open(2), NOTES)."""
    memory = room(size)
    assert "dc" in flags_at(address(memory))
