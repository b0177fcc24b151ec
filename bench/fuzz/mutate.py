"""Damage that knows a little about structure: parts with length fields inside one another."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """Bytes `start` to `end` that belong together. `length_at` is the place of a length field inside the unit,
    `length_bytes` long, which counts what follows it to the unit's end; -1 when it has none."""

    start: int
    end: int
    length_at: int = -1
    length_bytes: int = 4
    big_endian: bool = True

    @property
    def order(self) -> str:
        return "big" if self.big_endian else "little"


Units = Callable[[bytes], Sequence[Unit]]
_BORDERS = (0, 1, 2, 3, 4, 5, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x10000,
            0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)  # fmt: skip


def no_units(_: bytes) -> Sequence[Unit]:
    return ()


class Mutator:
    """The same `rng` state and seeds give the same case."""

    def __init__(
        self,
        rng: random.Random,
        seeds: Sequence[bytes],
        units: Units = no_units,
        *,
        words: Sequence[bytes] = (),
        longest: int = 1 << 16,
    ) -> None:
        self._rng = rng
        self._seeds = seeds
        self._units = units
        self._words = words
        self._longest = longest

    def case(self) -> bytes:
        data = bytearray(self._rng.choice(self._seeds))
        for _ in range(self._rng.choice((1, 1, 1, 2, 2, 3, 5, 9))):
            units = self._units(bytes(data))
            structural = units and self._rng.random() < 0.65
            step = self._rng.choice(self._STRUCTURAL if structural else self._PLAIN)
            step(self, data, units)
        return bytes(data[: self._longest])

    # --- without structure --------------------------------------------------------------------------------

    def _flip_bits(self, data: bytearray, _: Sequence[Unit]) -> None:
        for _bit in range(self._rng.choice((1, 1, 2, 8, 32))):
            if data:
                data[self._rng.randrange(len(data))] ^= 1 << self._rng.randrange(8)

    def _set_bytes(self, data: bytearray, _: Sequence[Unit]) -> None:
        if data:
            at = self._rng.randrange(len(data))
            count = self._rng.choice((1, 1, 2, 4, 16))
            data[at : at + count] = self._rng.choice(
                (self._rng.randbytes(count), b"\0" * count, b"\xff" * count)
            )

    def _truncate(self, data: bytearray, _: Sequence[Unit]) -> None:
        del data[self._rng.randrange(len(data) + 1) :]

    def _cut_out(self, data: bytearray, _: Sequence[Unit]) -> None:
        at = self._rng.randrange(len(data) + 1)
        del data[at : at + self._rng.choice((1, 2, 4, 8, 64, 512))]

    def _insert(self, data: bytearray, _: Sequence[Unit]) -> None:
        at = self._rng.randrange(len(data) + 1)
        words = [self._rng.randbytes(self._rng.choice((1, 2, 4, 64))), *self._words]
        data[at:at] = self._rng.choice(words)

    def _splice(self, data: bytearray, _: Sequence[Unit]) -> None:
        other = self._rng.choice(self._seeds)
        here, there = self._rng.randrange(len(data) + 1), self._rng.randrange(len(other) + 1)
        data[here:] = other[there:]

    def _number(self, data: bytearray, _: Sequence[Unit]) -> None:
        size = self._rng.choice((1, 2, 4))
        if len(data) >= size:
            at = self._rng.randrange(len(data) - size + 1)
            value = self._rng.choice(_BORDERS) & ((1 << 8 * size) - 1)
            data[at : at + size] = value.to_bytes(size, self._rng.choice(("big", "little")))

    # --- with structure -----------------------------------------------------------------------------------

    def _lie(self, data: bytearray, units: Sequence[Unit]) -> None:
        """A length that is not the length."""
        unit = self._rng.choice(units)
        if unit.length_at < 0:
            return
        top = 1 << 8 * unit.length_bytes
        true = unit.end - unit.length_at - unit.length_bytes
        value = self._rng.choice(
            (*_BORDERS, true - 1, true + 1, true - 2, true + 2, true * 2, top - 1, self._rng.randrange(top))
        )
        data[unit.length_at : unit.length_at + unit.length_bytes] = (value % top).to_bytes(
            unit.length_bytes, unit.order
        )

    def _duplicate(self, data: bytearray, units: Sequence[Unit]) -> None:
        unit = self._rng.choice(units)
        copies = bytes(data[unit.start : unit.end]) * self._rng.choice((1, 1, 1, 2, 8, 200))
        self._put(data, units, unit.end, unit.end, copies[: self._longest])

    def _drop(self, data: bytearray, units: Sequence[Unit]) -> None:
        unit = self._rng.choice(units)
        self._put(data, units, unit.start, unit.end, b"")

    def _swap(self, data: bytearray, units: Sequence[Unit]) -> None:
        first, second = sorted(self._rng.choices(units, k=2), key=lambda u: u.start)
        if first.end <= second.start:
            one, two = bytes(data[first.start : first.end]), bytes(data[second.start : second.end])
            data[second.start : second.end] = one
            data[first.start : first.end] = two

    def _transplant(self, data: bytearray, units: Sequence[Unit]) -> None:
        """A part of another seed in the place of, or before, one of ours."""
        other = self._rng.choice(self._seeds)
        theirs = self._units(other)
        if theirs:
            graft, unit = self._rng.choice(theirs), self._rng.choice(units)
            end = unit.end if self._rng.random() < 0.5 else unit.start
            self._put(data, units, unit.start, end, other[graft.start : graft.end])

    def _resize(self, data: bytearray, units: Sequence[Unit]) -> None:
        """Another content, with lengths that agree."""
        unit = self._rng.choice(units)
        if unit.length_at >= 0:
            start = unit.length_at + unit.length_bytes
            size = self._rng.choice((0, 1, 2, 3, 15, 63, 64, 65, 255, 4096))
            self._put(data, units, start, unit.end, self._rng.randbytes(size), always=True)

    def _put(
        self,
        data: bytearray,
        units: Sequence[Unit],
        start: int,
        end: int,
        new: bytes,
        *,
        always: bool = False,
    ) -> None:
        """Replace a stretch; mostly correct the lengths around it, so that deeper code is reached."""
        if always or self._rng.random() < 0.75:
            grown = len(new) - (end - start)
            for unit in units:
                head_end = unit.length_at + unit.length_bytes
                if unit.length_at >= 0 and head_end <= start and end <= unit.end:
                    value = unit.end - head_end + grown
                    if (start, end) == (unit.end, unit.end):  # behind it, not in it
                        continue
                    top = 1 << 8 * unit.length_bytes
                    data[unit.length_at : head_end] = (value % top).to_bytes(unit.length_bytes, unit.order)
        data[start:end] = new

    _PLAIN = (_flip_bits, _flip_bits, _set_bytes, _truncate, _cut_out, _insert, _splice, _number)
    _STRUCTURAL = (_lie, _lie, _lie, _duplicate, _drop, _swap, _transplant, _resize)
