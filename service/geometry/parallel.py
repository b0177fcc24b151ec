"""A few independent pieces of numeric work side by side; numpy and scipy let go of the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

#: Two cores are what the service may count on (design: small hospital machines).
WORKERS = 2


def in_threads(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`[work(item) for item in items]`, two at a time, in the same order; the first error is raised."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(work, items))
