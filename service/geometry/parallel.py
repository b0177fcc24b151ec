"""A few independent pieces of numeric work side by side; numpy and scipy let go of the interpreter's lock.

What is cut is cut the same way on every machine, whatever cores it has, so that the same input gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
R = TypeVar("R")

#: Two cores are what the service may count on (design: small hospital machines).
WORKERS = 2
#: Samples below which starting a thread costs more than it saves.
WORTH_SAMPLES = 200_000
#: Rows of a table taken at once, which bounds the memory for what is made of each.
ROWS_AT_ONCE = 20_000


def in_threads(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`[work(item) for item in items]`, two at a time, in the same order; the first error is raised."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(work, items))


def by_rows(work: Callable[[slice], NDArray[Any]], count: int) -> NDArray[Any]:
    """`work(slice(0, count))`, an array whose first axis are the rows, made of some rows at a time."""
    cuts = [slice(n, min(n + ROWS_AT_ONCE, count)) for n in range(0, max(count, 1), ROWS_AT_ONCE)]
    return np.concatenate(in_threads(work, cuts))


@contextmanager
def taking_turns() -> Iterator[Callable[[Callable[[T], object], Iterable[T]], None]]:
    """`in_threads` without results for many short rounds: threads started once, each round waits for the last."""
    with ThreadPoolExecutor(WORKERS) as pool:

        def turn(work: Callable[[T], object], items: Iterable[T]) -> None:
            for _ in pool.map(work, items):
                pass

        yield turn


def along_axis(
    source: NDArray[Any],
    out: NDArray[Any],
    axis: int,
    work: Callable[[NDArray[Any], NDArray[Any], int], object],
) -> None:
    """`work(source, out, axis)` on slabs of another axis, whose lines do not depend on each other."""
    across = 1 if axis == 0 else 0

    def part(slab: slice) -> None:
        where = (slice(None),) * across + (slab,)
        work(source[where], out[where], axis)

    in_threads(part, slabs(source.shape[across], source.size))


def slabs(length: int, samples: int) -> list[slice]:
    """`range(length)` cut for `in_threads`; in one piece when the whole has few `samples`."""
    if samples < WORTH_SAMPLES or length < WORKERS:
        return [slice(0, length)]
    edges = [length * n // WORKERS for n in range(WORKERS + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]
