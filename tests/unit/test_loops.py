"""The daemon's background loops: a turn at every interval, and at once when there is something to do."""

from __future__ import annotations

import time

from service.ops.loops import Loop
from tests.support_dicom import wait_until


def test_a_nudge_does_not_wait_for_the_next_turn() -> None:
    turns: list[float] = []
    loop = Loop("intake", 60.0, lambda: turns.append(time.monotonic()))
    loop.start()
    try:
        wait_until(lambda: len(turns) == 1, 5, "it had no first turn")
        loop.nudge()
        wait_until(lambda: len(turns) == 2, 5, "the nudge was not felt")
    finally:
        loop.stop()
    assert not loop._thread.is_alive()


def test_nudges_without_end_do_not_make_it_spin() -> None:
    turns = 0

    def step() -> None:
        nonlocal turns
        turns += 1
        loop.nudge()

    loop = Loop("intake", 60.0, step)
    loop.start()
    try:
        wait_until(lambda: turns >= 2, 5, "the nudge was not felt")
        start, before = time.monotonic(), turns
        time.sleep(0.5)
        taken_s, took = time.monotonic() - start, turns - before
    finally:
        loop.stop()
    assert took <= taken_s / 0.05 + 2
