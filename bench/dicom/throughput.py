"""Durable images per second, CPU and memory, side by side in one run; the acceptance lines at the end."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.dicom import machine, senders
from bench.dicom.images import Load, write_load
from bench.dicom.process_tree import PeakMemory, cpu_seconds
from bench.dicom.receivers import RECEIVERS, Receiver, Storescp

ASSOCIATIONS = (1, 4)
WANTED_SPEED = {1: 1.5, 4: 3.0}
WANTED_CPU = 0.5
_POLL_S = 0.1
"""How often a receiver is asked how far it is: answering costs it processor time too."""


@dataclass(frozen=True)
class Run:
    """One receiver, once. Times in seconds, CPU per image in milliseconds, memory in MB."""

    receiver: str
    associations: int
    round: int
    images_per_s: float
    seconds: float
    settle_s: float
    """From the last Success to everything being in its final place."""
    cpu_ms: float
    peak_mb: float
    load_average: float
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Line:
    """One line of the acceptance."""

    text: str
    figure: float
    limit: float
    at_least: bool
    decides: bool

    @property
    def passed(self) -> bool:
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit


def measure(kind: type[Receiver], load: Load, associations: int, round_: int, sender: str, work: Path) -> Run:
    folder = Path(tempfile.mkdtemp(prefix=f"{kind.name}-", dir=work))
    # what the run before left to the kernel must not be written during this one
    os.sync()
    receiver = kind(folder)
    count = len(load.images)
    groups = [load.folders] if associations == 1 else [[f] for f in load.folders]
    receiver.start(associations)
    try:
        load_average = machine.load_average()
        before = _quiet_cpu(receiver.pid)
        with PeakMemory(receiver.pid) as memory:
            transfer = receiver.send(sender, groups, folder / "senders")
            settle_s = _settle(receiver, count)
            after = _quiet_cpu(receiver.pid)
        faults = list(transfer.failures)
        if transfer.successes != count:
            faults.append(f"{transfer.successes} of {count} images got Success")
        faults += receiver.faults(load)
    finally:
        receiver.stop()
        _empty(folder)
    return Run(
        kind.name,
        associations,
        round_,
        count / transfer.seconds,
        transfer.seconds,
        settle_s,
        (after - before) * 1000 / count,
        memory.mb,
        load_average,
        tuple(faults),
    )


def _empty(folder: Path) -> None:
    """Give back the room of a run's files; their names go with the work folder, when all runs are over.

    Where ext4 has no journal it gives no inode out again for some seconds after it was freed, and looks at each of
    them for every new file (`recently_deleted` in fs/ext4/ialloc.c): the runs that follow would pay for this one's end.
    """
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.truncate(path, 0)


def _settle(receiver: Receiver, count: int, timeout_s: float = 120) -> float:
    start = time.monotonic()
    while not receiver.settled(count):
        if time.monotonic() - start > timeout_s:
            break  # the faults of the run will say what is missing
        time.sleep(_POLL_S)
    return time.monotonic() - start


def _quiet_cpu(pid: int) -> float:
    """CPU time once it has stopped growing for a second (background work starts when nothing comes), 15 s at most."""
    now = cpu_seconds(pid)
    quiet = 0
    for _ in range(60):
        time.sleep(0.25)
        before, now = now, cpu_seconds(pid)
        quiet = quiet + 1 if now - before <= 0.01 else 0
        if quiet == 4:
            break
    return now


def faster_sender(load: Load, work: Path) -> tuple[str, dict[str, float]]:
    """dcmsend or storescu: whichever gets more through storescp, the receiver that costs least."""
    rates = {}
    for name in senders.SENDERS * 2:
        run = measure(Storescp, load, 1, 0, name, work)
        if run.faults:
            raise SystemExit(f"{name}: {'; '.join(run.faults[:3])}")
        rates[name] = max(rates.get(name, 0.0), run.images_per_s)
    return max(rates, key=lambda n: rates[n]), rates


# --- evaluation -------------------------------------------------------------------------------------------


def ratios(runs: Iterable[Run], ours: str, other: str, associations: int, figure: str) -> list[float]:
    """`figure` of `ours` over that of `other`, pair by pair within a round."""
    found = {(r.receiver, r.round): getattr(r, figure) for r in runs if r.associations == associations}
    return [
        value / found[other, round_]
        for (name, round_), value in found.items()
        if name == ours and found.get((other, round_))
    ]


def acceptance(runs: Sequence[Run]) -> list[Line]:
    """The node alone decides; the whole service, which writes index rows beside it, is told for the record."""
    lines = []
    for ours in ("node", "service"):
        for associations in ASSOCIATIONS:
            speed = ratios(runs, ours, "orthanc", associations, "images_per_s")
            cpu = ratios(runs, ours, "orthanc", associations, "cpu_ms")
            if not speed:
                continue
            what = f"{ours}, {associations} association{'s' * (associations > 1)}"
            decides = ours == "node"
            lines.append(
                Line(f"{what}: images/s over Orthanc's", statistics.median(speed), WANTED_SPEED[associations],
                     True, decides)
            )  # fmt: skip
            lines.append(
                Line(f"{what}: CPU over Orthanc's", statistics.median(cpu), WANTED_CPU, False, decides)
            )
    return lines


def _middle(values: Sequence[float], form: str = "{:.2f}") -> str:
    if not values:
        return "-"
    low, mid, high = (form.format(f(values)) for f in (min, statistics.median, max))
    return f"{mid} ({low}..{high})"


def table(runs: Sequence[Run], kinds: Sequence[type[Receiver]], associations: int) -> str:
    rows = [
        (
            "receiver",
            "img/s median (min..max)",
            "to Orthanc",
            "to raw+fsync",
            "CPU ms/img",
            "settle s",
            "peak MB",
        )
    ]
    for kind in kinds:
        mine = [r for r in runs if r.receiver == kind.name and r.associations == associations]
        if not mine:
            continue
        rows.append(
            (
                kind.title,
                _middle([r.images_per_s for r in mine], "{:.0f}"),
                _middle(ratios(runs, kind.name, "orthanc", associations, "images_per_s")),
                _middle(ratios(runs, kind.name, "raw", associations, "images_per_s")),
                _middle([r.cpu_ms for r in mine]),
                f"{statistics.median(r.settle_s for r in mine):.2f}",
                f"{max(r.peak_mb for r in mine):.0f}",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |" for r in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def report(runs: Sequence[Run], kinds: Sequence[type[Receiver]]) -> bool:
    """Print tables and acceptance; True when everything that decides passed."""
    for associations in ASSOCIATIONS:
        print(f"\n{associations} association{'s' * (associations > 1)}\n{table(runs, kinds, associations)}")
    bad = [r for r in runs if r.faults]
    for run in bad:
        print(f"FAIL {run.receiver}, round {run.round}: {'; '.join(run.faults[:4])}")
    print()
    lines = acceptance(runs)
    for line in lines:
        sign = "at least" if line.at_least else "at most"
        verdict = ("PASS" if line.passed else "FAIL") if line.decides else ("yes " if line.passed else "no  ")
        note = "" if line.decides else "   (for the record)"
        print(f"{verdict} {line.text} {line.figure:.2f}, {sign} {line.limit:g}{note}")
    if not lines:
        print("no acceptance line: it needs both the node and Orthanc")
    return not bad and bool(lines) and all(line.passed for line in lines if line.decides)


# --- command ----------------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=400, help="a multiple of 4")
    parser.add_argument(
        "--quick", action="store_true", help="2 rounds of 80 images: a look, not a measurement"
    )
    parser.add_argument("--only", default="", help="comma-separated: " + ",".join(k.name for k in RECEIVERS))
    parser.add_argument("--sender", choices=senders.SENDERS, help="default: the faster one, tried first")
    parser.add_argument("--json", type=Path, help="write all figures to this file")


def run(options: argparse.Namespace, work: Path) -> bool:
    rounds, images = (2, 80) if options.quick else (options.rounds, options.images)
    work.mkdir(parents=True, exist_ok=True)
    wanted = options.only.split(",") if options.only else [k.name for k in RECEIVERS]
    kinds = [k for k in RECEIVERS if k.name in wanted]
    machine.require_disk(work)
    facts = machine.describe(work)
    print("machine: " + ", ".join(f"{k} {v}" for k, v in facts.items()))
    load = write_load(work / "load", images // 4 * 4)
    print(f"load: {len(load.images)} images of {load.images[0].size} bytes, {rounds} rounds")
    sender, rates = (options.sender, {}) if options.sender else faster_sender(load, work)
    print(f"sender: {sender} " + ", ".join(f"({n} {r:.0f} img/s)" for n, r in rates.items()), flush=True)
    runs = []
    for round_ in range(rounds):
        order = [(kind, a) for a in ASSOCIATIONS for kind in kinds]
        for kind, associations in reversed(order) if round_ % 2 else order:
            run_ = measure(kind, load, associations, round_ + 1, sender, work)
            runs.append(run_)
            print(
                f"round {round_ + 1} {kind.name:14} x{associations} {run_.images_per_s:7.1f} img/s"
                f" {run_.cpu_ms:6.2f} ms CPU/img  settle {run_.settle_s:5.2f} s  {run_.peak_mb:4.0f} MB"
                f"  load {run_.load_average:.1f}  {'; '.join(run_.faults[:2])}",
                flush=True,
            )
    passed = report(runs, kinds)
    if options.json:
        options.json.write_text(
            json.dumps(
                {
                    "machine": facts,
                    "sender": sender,
                    "images": len(load.images),
                    "runs": [asdict(r) for r in runs],
                    "acceptance": [asdict(line) | {"passed": line.passed} for line in acceptance(runs)],
                    "passed": passed,
                },
                indent=1,
            )
        )
    return passed
