"""The figures of a campaign, as tables and verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TextIO

from bench.printing.play import POLLS_ALLOWED, Outcome


def report(outcomes: Sequence[Outcome], kills: int, run: str, out: TextIO) -> bool:
    """Print the figures to `out`; True when every promise was kept."""
    bad = [o for o in outcomes if o.violations]
    polls = Counter(p for o in outcomes for p in o.polls)
    _table(
        out,
        ("what", "count"),
        {
            f"scenarios ({run})": len(outcomes),
            "by the queue of the cluster firmware": sum(o.interface == "cluster" for o in outcomes),
            "kill -9 of the service": kills,
            "killed at the instant of their own": sum(o.killed for o in outcomes),
            "hit by at least one kill": sum(o.kills_seen > 0 for o in outcomes),
            "attempts recorded": sum(o.attempts for o in outcomes),
            "starts in the printers' ledgers": sum(o.starts for o in outcomes),
            "a further attempt on another printer": sum(bool(o.elsewhere) for o in outcomes),
            "settled by a person": sum(o.settled_by_person for o in outcomes),
            "most starts for one approval": max((o.starts for o in outcomes), default=0),
        },
    )
    _table(out, ("record true for good after", "comparisons"), _by_polls(polls))
    _table(out, ("end of print / case", "scenarios"), dict(Counter(o.final for o in outcomes).most_common()))
    late = sum(count for needed, count in polls.items() if needed > POLLS_ALLOWED)
    print(
        f"{'FAIL' if late else 'PASS'}: {late} of {polls.total()} comparisons untrue after {POLLS_ALLOWED} polls",
        file=out,
    )
    print(f"{'FAIL' if bad else 'PASS'}: {len(bad)} scenarios with a broken promise", file=out)
    for outcome in bad:
        print(f"FAIL {outcome.scenario.number}: {'; '.join(outcome.violations)}", file=out)
    return not bad


def _by_polls(polls: Counter[int]) -> dict[str, int]:
    """ "0 polls": what was stored when the comparison began, or in the poll under way then, was true already."""
    words = {needed: f"{needed} poll{'' if needed == 1 else 's'}" for needed in range(POLLS_ALLOWED + 1)}
    words[POLLS_ALLOWED + 1] = f"not after {POLLS_ALLOWED} polls"
    return {words[needed]: polls[needed] for needed in sorted(words)}


def _table(out: TextIO, head: tuple[str, str], rows: Mapping[str, int]) -> None:
    print(f"\n| {head[0]} | {head[1]} |\n|---|---|", file=out)
    for words, count in rows.items():
        print(f"| {words} | {count} |", file=out)
    print(file=out)
