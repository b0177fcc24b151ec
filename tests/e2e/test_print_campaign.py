"""A few scenarios of `make bench-print`: real service, real simulated printers, kill -9 at chosen instants."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.printing.__main__ import campaign
from bench.printing.scenario import Scenario

pytestmark = pytest.mark.e2e


def _scenario(number: int, fault: str, instant: str, stretch: str, ending: str) -> Scenario:
    return Scenario(number, fault, instant, stretch, 0.0, 2000, 0.5, ending)


@pytest.mark.timeout(400)
def test_no_kill_starts_a_print_twice_or_loses_one(tmp_path: Path) -> None:
    played = [
        _scenario(0, "none", "started, answer held", "sending", "finished"),
        _scenario(1, "answer to the upload lost", "history asked", "sending", "aborted"),
    ]
    outcomes, kills = campaign(tmp_path, played, printers=2)
    assert [o.violations for o in outcomes] == [[], []]
    assert [o.starts for o in outcomes] == [1, 1]
    assert outcomes[0].killed
    assert kills >= 1
    assert [o.final for o in outcomes] == ["FINISHED/PRINTED", "ABORTED/NEEDS_ATTENTION"]
