"""kill -9 of the node at random instants under four parallel senders: nothing that got Success is lost or cut off."""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import pydicom

from adapters.dicom_node.part10 import read_facts
from bench.dicom.images import Load, digests, write_load
from bench.dicom.machine import load_average, require_disk
from bench.dicom.node_process import NodeProcess
from bench.dicom.receivers import instances
from bench.dicom.senders import Sending, acknowledged, start_sender

MODES = ("anywhen", "acknowledged", "written", "replay")
"""When the signal comes: at a random time; a random part of a millisecond after the n-th Success; the same after
the n-th file got its final place (so in the background writer's work); a second time, while the node replays."""
_BOOT_LIMIT_S = 60
_SETTINGS: tuple[dict[str, object], ...] = ({}, {"segment_bytes": 2 << 20, "spare_segments": 1})
"""As shipped, and with segments so small that they are filled, retired and written again all the time."""
_LARGE = 2176
"""Pixels a side of one image in ten: 9 MB, more than the node takes into memory, so another way to the disk."""


@dataclass
class Round:
    number: int
    mode: str
    acknowledged: int
    stored: int
    replayed: int
    left_behind: tuple[str, ...] = ()
    faults: list[str] = field(default_factory=list)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=None, help="default: the time, printed")


def run(options: argparse.Namespace, work: Path) -> bool:
    seed = options.seed if options.seed is not None else time.time_ns() % 1_000_000
    require_disk(work.parent)
    load = write_load(work / "load", 240, size=256, large_size=_LARGE)
    print(
        f"{options.kills} kills, seed {seed}, 4 storescu with 60 images each, of {min(i.size for i in load.images)}"
        f" and {max(i.size for i in load.images)} bytes,"
        f" load average {load_average():.1f}",
        flush=True,
    )
    rounds = []
    for number in range(options.kills):
        rng = random.Random(f"{seed} {number}")
        rounds.append(one_round(number, MODES[number % len(MODES)], rng, load, work / f"round{number}"))
        show(rounds[-1])
    return verdict(rounds, len(load.images))


def one_round(number: int, mode: str, rng: random.Random, load: Load, work: Path) -> Round:
    store, seen = work / "store", work / "seen"
    work.mkdir(parents=True)
    node = NodeProcess(store, seen=seen, log=work / "log", settings=rng.choice(_SETTINGS))
    senders = [
        start_sender("storescu", "SPINEPRINT", node.port, [folder], work / f"sender{n}.log")
        for n, folder in enumerate(load.folders)
    ]
    _wait_for_moment(mode, rng, senders, store, len(load.images))
    node.kill()
    for sending in senders:
        sending.process.wait(60)
    success = {Path(f) for s in senders for f in acknowledged(_text(s.log))}
    if mode == "replay":
        _kill_while_replaying(store, seen, rng, work)
    node = NodeProcess(store, seen=seen, log=work / "log", settings=rng.choice(_SETTINGS))
    node.wait_for_intake(_BOOT_LIMIT_S)
    replayed = node.counters().get("replayed", 0)
    code = node.stop()
    result = Round(number + 1, mode, len(success), sum(1 for _ in instances(store)), replayed)
    if code:
        result.faults.append(f"the node stopped with exit code {code}")
    check(result, load, success, store, set(seen.read_text().split()))
    return result


def _wait_for_moment(mode: str, rng: random.Random, senders: list[Sending], store: Path, images: int) -> None:
    end = time.monotonic() + 60
    if mode == "anywhen":
        # the first Success says that the senders are in their work, however slow the machine is
        while time.monotonic() < end and not _successes(senders):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.4))
        return
    enough = rng.randint(4, images * 2 // 3)
    while time.monotonic() < end:
        done = sum(1 for _ in instances(store)) if mode == "written" else _successes(senders)
        if done >= enough or all(s.process.poll() is not None for s in senders):
            break
    # busy waiting: time.sleep is not that fine
    until = time.perf_counter() + rng.uniform(0, 0.001)
    while time.perf_counter() < until:
        pass


def _kill_while_replaying(store: Path, seen: Path, rng: random.Random, work: Path) -> None:
    before = sum(1 for _ in instances(store))
    node = NodeProcess(store, seen=seen, log=work / "log", settings=rng.choice(_SETTINGS), wait=False)
    # from the interpreter's start to just after the port is open, wherever the replay is then
    time.sleep(rng.uniform(0.1, 1.2))
    node.kill()
    assert sum(1 for _ in instances(store)) >= before, "a restart took an instance away"


def _successes(senders: list[Sending]) -> int:
    return sum(_text(s.log).count("Received Store Response (Success)") for s in senders)


def _text(log: Path) -> str:
    return log.read_text(errors="replace") if log.exists() else ""


def check(result: Round, load: Load, success: set[Path], store: Path, seen: set[str]) -> None:
    """Compare the store with what the senders were told; pydicom reads, not our own code."""
    stored = {}
    for path in instances(store):
        try:
            pydicom.dcmread(path, defer_size=None)
            uid, dataset, pixels, size = digests(path)
            facts = read_facts(path)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a file is the result
            result.faults.append(f"{path.name} cannot be read: {error}")
            continue
        sent = load.by_uid[uid]
        if (dataset, pixels, size) != (sent.dataset, sent.pixels, sent.size):
            result.faults.append(f"{path.name} has other bytes than were sent")
        if (facts.sha256, facts.size) != (dataset, size):
            result.faults.append(f"{path.name} does not agree with its own digest")
        stored[uid] = path
    wanted = {image.uid for image in load.images if image.path in success}
    if lost := wanted - set(stored):
        result.faults.append(f"{len(lost)} instance(s) with Success are LOST")
    if unseen := wanted - seen:
        result.faults.append(f"{len(unseen)} instance(s) with Success never reached the sink")
    if unknown := seen - set(stored):
        result.faults.append(f"the sink got {len(unknown)} instance(s) that are not stored")
    left = [p.name for p in (store / "incoming").glob("*")] if (store / "incoming").exists() else []
    if left:
        result.faults.append(f"incoming/ still holds {len(left)} file(s)")
    if quarantined := list((store / "quarantine").glob("*")):
        result.faults.append(f"quarantine/ holds {len(quarantined)} file(s) although nothing contradicted")


def show(result: Round) -> None:
    print(
        f"kill {result.number:2} {result.mode:12} {result.acknowledged:3} got Success, {result.stored:3} stored,"
        f" {result.replayed:3} replayed  {'ok' if not result.faults else '; '.join(result.faults)}",
        flush=True,
    )


def verdict(rounds: list[Round], images: int) -> bool:
    total = sum(r.acknowledged for r in rounds)
    bad = [r for r in rounds if r.faults]
    in_the_middle = sum(0 < r.acknowledged < images for r in rounds)
    print(
        f"{'FAIL' if bad else 'PASS'} {len(rounds)} kills, {in_the_middle} of them in the middle of the transfer:"
        f" {total} instances got Success, {len(bad)} round(s) with a fault;"
        f" {sum(r.replayed for r in rounds)} replayed"
    )
    # kills that all came before or after the transfer would prove nothing
    if rounds and in_the_middle < len(rounds) * 2 / 3:
        print("FAIL too few kills came in the middle of the transfer")
        return False
    return not bad
