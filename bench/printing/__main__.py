"""python -m bench.printing [--scenarios 200] [--printers 4] [--seed N]; exit code 1 when a promise was broken.

The service runs as a process of its own and is killed with SIGKILL; every printer is a process of its own and keeps
a ledger of its starts on disk. Several printers play at once, so each kill also hits the others wherever they are.
"""

from __future__ import annotations

import argparse
import json
import queue
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from bench.printing.play import POLLS_ALLOWED, Outcome, Player
from bench.printing.scenario import Scenario, draw
from bench.printing.world import Device, World, build_world


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.printing", description=__doc__)
    parser.add_argument("--scenarios", type=int, default=200)
    parser.add_argument("--printers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of single scenarios of this seed")
    parser.add_argument("--out", type=Path, help="JSON lines, one a scenario")
    parser.add_argument("--keep", type=Path, help="folder for logs and databases; kept")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = options.keep or Path(tempfile.mkdtemp(prefix="bench-printing-"))
    folder.mkdir(parents=True, exist_ok=True)
    scenarios = [
        s for s in draw(options.seed, options.scenarios) if not options.only or s.number in options.only
    ]
    try:
        outcomes, kills = campaign(folder, scenarios, options.printers, say=True)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    if options.out:
        options.out.write_text("".join(json.dumps(asdict(o)) + "\n" for o in outcomes), "utf-8")
    return 0 if report(outcomes, kills, options.seed) else 1


def campaign(
    folder: Path, scenarios: list[Scenario], printers: int, *, say: bool = False
) -> tuple[list[Outcome], int]:
    """Play all scenarios on `printers` machines; the outcomes in order, and how often the service was killed."""
    world = build_world(folder, printers, len(scenarios))
    waiting: queue.SimpleQueue[Scenario] = queue.SimpleQueue()
    for scenario in scenarios:
        waiting.put(scenario)
    outcomes: list[Outcome] = []

    def work(device: Device) -> None:
        while True:
            try:
                scenario = waiting.get_nowait()
            except queue.Empty:
                return
            outcomes.append(Player(world, device, scenario).play())
            if say:
                _say(outcomes[-1])

    try:
        threads = [threading.Thread(target=work, args=(d,), daemon=True) for d in world.devices]
        for thread in threads:
            thread.start()
        _join(threads, world)
        return sorted(outcomes, key=lambda o: o.scenario.number), world.service.kills
    finally:
        world.close()


def _join(threads: list[threading.Thread], world: World) -> None:
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.5)
        if (code := world.service.end_if_dead()) is not None:
            raise RuntimeError(f"the service ended by itself with code {code}")


def _say(outcome: Outcome) -> None:
    s = outcome.scenario
    met = "" if outcome.killed else " not met"
    print(
        f"{s.number:4d} {outcome.printer} {s.fault} | {s.instant} ({s.stretch}){met} | "
        f"{outcome.final} starts {outcome.starts} attempts {outcome.attempts} polls {outcome.polls} "
        f"kills {outcome.kills_seen} {outcome.seconds:.0f} s",
        flush=True,
    )
    for violation in outcome.violations:
        print(f"     VIOLATION {violation}", flush=True)


def report(outcomes: list[Outcome], kills: int, seed: int) -> bool:
    """Print the figures; True when every promise was kept."""
    bad = [o for o in outcomes if o.violations]
    print(f"\n{len(outcomes)} scenarios, seed {seed}; service killed {kills} times")
    print(f"  killed at their own instant: {sum(o.killed for o in outcomes)}")
    print(f"  hit by at least one kill: {sum(o.kills_seen > 0 for o in outcomes)}")
    print(f"  starts {sum(o.starts for o in outcomes)}, attempts {sum(o.attempts for o in outcomes)}")
    print(f"  most starts for one approval: {max((o.starts for o in outcomes), default=0)}")
    print(f"  settled by a person: {sum(o.settled_by_person for o in outcomes)}")
    print(
        f"  whole polls until the truth: {dict(sorted(Counter(p for o in outcomes for p in o.polls).items()))}"
    )
    slow = sum(p > POLLS_ALLOWED for o in outcomes for p in o.polls)
    # reads before a send are counted as polls too, and a busy machine looks late: an upper bound
    print(f"  comparisons seen to hold only after more than {POLLS_ALLOWED}: {slow}")
    print(f"  ends: {dict(Counter(o.final for o in outcomes))}")
    print(f"  {'PASS' if not bad else 'FAIL'}: {len(bad)} scenarios with a broken promise")
    for outcome in bad:
        print(f"    {outcome.scenario.number}: {'; '.join(outcome.violations)}")
    return not bad


if __name__ == "__main__":
    raise SystemExit(main())
