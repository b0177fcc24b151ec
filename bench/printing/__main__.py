"""python -m bench.printing [--scenarios 200] [--printers 4] [--seed N]; exit code 1 when a promise was broken.

The service runs as a process of its own and is killed with SIGKILL; every printer is a process of its own and keeps
a ledger of its starts on disk. Several printers play at once, so each kill also hits the others wherever they are.
A promise is broken when one approval started two prints, when a print was lost, when a record did not tell what the
machine is after two whole polls (bench/printing/polls.py) of a machine that tells the truth, or when a scenario ended
in another state than the machine's.
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
from dataclasses import asdict
from pathlib import Path

from bench.printing.play import Outcome, Player
from bench.printing.report import report
from bench.printing.scenario import Scenario, draw
from bench.printing.world import Device, World, build_world
from bench.verify.page import Tee, put


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.printing", description=__doc__)
    parser.add_argument("--scenarios", type=int, default=200)
    parser.add_argument("--printers", type=int, default=4)
    parser.add_argument(
        "--database", choices=("sqlite", "postgresql"), default="sqlite", help="of the service"
    )
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of single scenarios of this seed")
    parser.add_argument("--out", type=Path, help="JSON lines, one a scenario")
    parser.add_argument("--write", type=Path, help="page of the documentation whose tables are replaced")
    parser.add_argument("--keep", type=Path, help="folder for logs and databases; kept")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = options.keep or Path(tempfile.mkdtemp(prefix="bench-printing-"))
    folder.mkdir(parents=True, exist_ok=True)
    scenarios = [
        s for s in draw(options.seed, options.scenarios) if not options.only or s.number in options.only
    ]
    try:
        outcomes, kills = campaign(folder, scenarios, options.printers, database=options.database, say=True)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    if options.out:
        options.out.write_text("".join(json.dumps(asdict(o)) + "\n" for o in outcomes), "utf-8")
    kept = Tee()
    run = f"seed {options.seed}, {options.printers} printers at once, {options.database}"
    good = report(outcomes, kills, run, kept)
    if options.write:
        put(options.write, "campaign", kept.text())
    return 0 if good else 1


def campaign(
    folder: Path, scenarios: list[Scenario], printers: int, *, database: str = "sqlite", say: bool = False
) -> tuple[list[Outcome], int]:
    """Play all scenarios on `printers` machines; the outcomes in order, and how often the service was killed."""
    world = build_world(folder, printers, len(scenarios), database)
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
        f"{s.number:4d} {outcome.printer} ({outcome.interface}) {s.fault} | {s.instant} ({s.stretch}){met} | "
        f"{outcome.final} starts {outcome.starts} attempts {outcome.attempts} polls {outcome.polls} "
        f"{f'then {outcome.elsewhere} ' if outcome.elsewhere else ''}"
        f"kills {outcome.kills_seen} {outcome.seconds:.0f} s",
        flush=True,
    )
    for violation in outcome.violations:
        print(f"     VIOLATION {violation}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
