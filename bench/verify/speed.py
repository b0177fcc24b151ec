"""From 192 slices of 512x512 on disk to the report: alone, beside a model build, and beside a plain script."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.verify import anatomies
from bench.verify.anatomies import Anatomy
from service.geometry.progress import silent
from service.geometry.registration_file import write_model
from service.workflow.tether import Child, run_tethered
from simulators.oarm import Needle, ScanSettings, make_scan, write_scan

LIMIT_S = 5.0
PEER = Path(__file__).with_name("peer_sitk.py")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=3, help="runs of each kind")


def run(options: argparse.Namespace, work: Path) -> bool:
    """The child process that measures a scan, from its getting the scan's files to its answer.

    While a case is in the operating room the service keeps such a child in waiting (`service.workflow.standby`); the
    row of a child started for the scan is what the first second after a restart would see. Polls of intake and queue
    come before it; `python -m bench.verify service` has them.
    """
    name = "tune-L1" if options.set == "tuning" else "L1-wedge"
    anatomy = anatomies.load(name, work)
    argument, pose_file = _prepared(anatomy, work / name)
    print(f"load average at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    cold = [_verified(argument) for _ in range(options.runs)]
    alone = [_verified(argument, _in_waiting()) for _ in range(options.runs)]
    beside = _beside_a_model(argument, anatomy, work / "model", options.runs)
    peer = [_peer(argument, pose_file) for _ in range(max(1, options.runs - 1))]
    print("\n| | runs | median s | slowest s |\n|---|---|---|---|")
    for title, seconds in (
        ("report, machine otherwise idle, child started for it", cold),
        ("report, machine otherwise idle", alone),
        ("report, while a model is built", beside),
        ("SimpleITK mutual information: registration only, started 5 mm and 5 degrees off", peer),
    ):
        print(f"| {title} | {len(seconds)} | {np.median(seconds):.2f} | {max(seconds):.2f} |")
    good = bool(alone and beside and max(alone) <= LIMIT_S and max(beside) <= LIMIT_S)
    print(f"\n{'PASS' if good else 'FAIL'}  at most {LIMIT_S:g} s from the images on disk to the report")
    return good


def _prepared(anatomy: Anatomy, folder: Path) -> tuple[dict[str, Any], Path]:
    """Argument of the verify task and the file with the scan's true pose."""
    scan_folder = folder / "full-scan"
    path = anatomy.plan.trajectories[0]
    if not (scan_folder / "truth.json").is_file():
        needle = Needle(path.entry, path.target, tip_shape="trocar")
        scan = make_scan(anatomy.folder, needles=[needle], settings=ScanSettings(seed=77))
        write_scan(scan, scan_folder)
    write_model(anatomy.model, folder / "registration.npz")
    return {
        "ct_files": [str(f) for f in sorted(anatomy.folder.glob("*.dcm"))],
        "scan_files": [str(f) for f in sorted((scan_folder / "dicom").glob("*.dcm"))],
        "mask": str(folder / "mask.nii.gz"),
        "plan": str(folder / "plan.json"),
        "outer": str(folder / "outer.nii.gz"),
        "prepared": str(folder / "registration.npz"),
    }, scan_folder / "truth.json"


def _in_waiting() -> Child:
    """A child that has loaded what it needs: it sleeps until it is asked."""
    child = Child("verify")
    until = time.monotonic() + 60
    while time.monotonic() < until and _state(child.pid) != "S":
        time.sleep(0.2)
    return child


def _state(pid: int) -> str:
    """'S' when the process slept at every one of several looks, else 'R'."""
    looks = []
    for _ in range(4):
        looks.append(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0])
        time.sleep(0.15)
    return "S" if set(looks) == {"S"} else "R"


def _verified(argument: dict[str, Any], child: Child | None = None) -> float:
    started = time.monotonic()
    document = run_tethered("verify", argument, silent, timeout_s=600, child=child)
    seconds = time.monotonic() - started
    if document["status"] != "measured":
        raise SystemExit(f"the scan of the speed test is not measurable: {document['reason']}")
    print(f"report after {seconds:.2f} s: {document['timings_s']}", flush=True)
    return seconds


def _beside_a_model(argument: dict[str, Any], anatomy: Anatomy, out: Path, runs: int) -> list[float]:
    """Verifications while the model task isolates and builds the same vertebra, again and again."""
    truth = json.loads((anatomy.folder.parent / "truth.json").read_text())
    stop = threading.Event()
    building = threading.Event()

    def told(_stage: str, _fraction: float) -> None:
        building.set()

    def build() -> None:
        while not stop.is_set():
            out.mkdir(parents=True, exist_ok=True)
            run_tethered(
                "model",
                {
                    "ct": str(anatomy.folder),
                    "level": anatomy.plan.level,
                    **{k: truth["seeds"][k] for k in ("target", "above", "below")},
                    "out": str(out),
                },
                told,
                timeout_s=1800,
            )

    thread = threading.Thread(target=build, daemon=True)
    thread.start()
    building.wait(120)
    found = [_verified(argument, _in_waiting()) for _ in range(runs)]
    stop.set()
    thread.join()
    return found


def _peer(argument: dict[str, Any], pose_file: Path) -> float:
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(PEER), str(Path(argument["ct_files"][0]).parent),
         str(Path(argument["scan_files"][0]).parent), argument["mask"], str(pose_file)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds = time.monotonic() - started
    print(f"SimpleITK after {seconds:.2f} s: {done.stdout.strip()}", flush=True)
    return seconds
