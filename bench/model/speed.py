"""CT folder to checked STL, stage by stage, beside a plain pipeline"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from bench.model.report import Line, table
from bench.model.studies import read_volume
from service.geometry.volume import Volume
from simulators.phantom.anatomy import PhantomParameters
from simulators.phantom.study import generate, write_study

NAME = "speed"
SECONDS, MEGABYTES, REFIT_SECONDS = 20.0, 3000.0, 5.0
#: How far a resumed fit's surface may lie from that of a fit made anew, on average; ours, a quarter of a grid step.
APART_MM = 0.1
SLICES, SIDE = 400, 512


def add_options(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--rounds", type=int, default=2, help="each is run so often; the fastest counts")


def run(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    study = work / "speed"
    # In a process of its own: the system counts a parent's memory as the peak of the child it starts.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        truth, slices = pool.submit(_study, study).result()
    # By turns, so that both meet the same other work on the machine.
    ours, plain = [], []
    for n in range(options.rounds):
        ours.append(_ours(study, truth, work / f"ours{n}"))
        print("  ours: " + json.dumps(ours[-1]), flush=True)
        plain.append(_plain(study, truth, work / f"ours{n}" / "plan.json", work / f"plain{n}"))
        print("  plain: " + json.dumps(plain[-1]), flush=True)
    best, other = (min(rounds, key=lambda r: float(r["wall_s"])) for rounds in (ours, plain))
    walls = {"ours": [r["wall_s"] for r in ours], "plain": [r["wall_s"] for r in plain]}
    refit = _refit(study, truth, work / "ours0")
    print("  refit: " + json.dumps(refit), flush=True)
    moved = _moved(study, truth, work / "ours1" if options.rounds > 1 else work / "ours0", options.rounds)
    print("  moved: " + json.dumps(moved), flush=True)
    return {
        "slices": slices,
        "ours": best,
        "plain": other,
        "rounds_wall_s": walls,
        "refit": refit,
        "moved": moved,
    }


def _study(folder: Path) -> tuple[dict[str, Any], int]:
    """A phantom as a CT of 512 x 512 pixels of 0.45 mm, in about 400 slices."""
    phantom = generate(
        PhantomParameters(columns=SIDE, rows=SIDE, pixel_mm=0.45, increment_mm=0.308, thickness_mm=0.616)
    )
    write_study(phantom, folder)
    np.savez(folder / "labels.npz", labels=phantom.labels == phantom.truth["labels"]["L1"],
             affine=phantom.lps_from_ijk)  # fmt: skip
    return phantom.truth, len(phantom.hu)


def _command(study: Path, truth: dict[str, Any], out: Path) -> list[str]:
    points = [f"--{name}={point}" for name, point in _seeds(truth).items()]
    return [sys.executable, "-m", "service.cli", "model", "--ct", str(study / "dicom"), "--level", "L1", "--out",
            str(out), *points]  # fmt: skip


def _refit(study: Path, truth: dict[str, Any], out: Path) -> dict[str, Any]:
    """A ball taken off the spinous tip: into the folder of an earlier run, and with nothing kept; bytes compared."""
    mask = read_volume(out / "mask.nii.gz")
    voxels = np.argwhere(mask.values)
    tip = mask.to_lps(voxels[voxels[:, 1].argmax()][None, ::-1])[0]
    edits = out / "edits.json"
    edits.write_text(json.dumps([{"kind": "erase", "centre": tip.tolist(), "radius_mm": 3.0}]), "utf-8")
    fresh = out.with_name("refit")
    figures = {}
    for name, folder, options in (("kept", out, []), ("fresh", fresh, ["--no-keep-isolation"])):
        run = _timed([*_command(study, truth, folder), "--edits", str(edits), *options])
        report = json.loads((folder / "report.json").read_text())
        figures[f"{name}_s"] = round(report["timings_s"]["isolating the vertebra"], 2)
        figures[f"{name}_wall_s"] = run["wall_s"]
    # The header of a compressed file holds its time of writing; the volumes within have to be the same.
    same = [(out / name).read_bytes() == (fresh / name).read_bytes() for name in ("model.stl", "plan.json")]
    masks = [read_volume(folder / "mask.nii.gz").values for folder in (out, fresh)]
    return figures | {"same_bytes": all(same) and np.array_equal(*masks)}


def _moved(study: Path, truth: dict[str, Any], out: Path, rounds: int) -> dict[str, Any]:
    """The target's point moved by 2.7 mm: into the folder of an earlier run, and with nothing kept; bone compared.

    Into the folder once a round, the last of them to the point of the run with nothing kept: each to another point,
    as what was kept of the same point would be taken over.
    """
    fresh = out.with_name("moved")
    figures: dict[str, Any] = {"kept_rounds_s": []}
    for share in (*(1.0 - 0.05 * n for n in range(rounds - 1, 0, -1)), 1.0):
        figures |= _with_target_at(study, truth, (2.0 * share, 1.5 * share, -1.0 * share), out, "kept")
        figures["kept_rounds_s"].append(figures["kept_s"])
    figures["kept_s"] = min(figures["kept_rounds_s"])
    figures |= _with_target_at(study, truth, (2.0, 1.5, -1.0), fresh, "fresh", "--no-keep-isolation")
    one, two = (read_volume(folder / "outer.nii.gz") for folder in (out, fresh))
    near = np.argwhere(np.abs(one.values) < 0.2)[:, ::-1]
    apart = np.abs(two.sample(one.to_lps(near), outside=8.0) - one.values[tuple(near[:, ::-1].T)])
    return figures | {
        "apart_mm": round(float(apart.mean()), 3),
        "apart_p95_mm": round(float(np.percentile(apart, 95)), 3),
    }


def _with_target_at(
    study: Path,
    truth: dict[str, Any],
    away: tuple[float, float, float],
    folder: Path,
    name: str,
    *options: str,
) -> dict[str, Any]:
    seeds = {k: list(truth["seeds"][k]) for k in ("target", "above", "below")}
    seeds["target"] = [float(v) + d for v, d in zip(seeds["target"], away, strict=True)]
    run = _timed([*_command(study, {"seeds": seeds}, folder), *options])
    report = json.loads((folder / "report.json").read_text())
    return {
        f"{name}_s": round(report["timings_s"]["isolating the vertebra"], 2),
        f"{name}_wall_s": run["wall_s"],
        f"{name}_cpu_s": run["cpu_s"],
        f"{name}_resumed": "resumed_fit" in report["isolation"]["measures"],
    }


def _ours(study: Path, truth: dict[str, Any], out: Path) -> dict[str, Any]:
    figures = _timed(_command(study, truth, out))
    report = json.loads((out / "report.json").read_text())
    figures.pop("stdout")
    dice = _dice(study, read_volume(out / "mask.nii.gz"))
    return figures | {"timings_s": report["timings_s"], "passed": report["passed"], "dice": dice}


def _plain(study: Path, truth: dict[str, Any], plan: Path, out: Path) -> dict[str, Any]:
    """The same from the same seeds, its channels along the needle paths that ours has planned."""
    command = [sys.executable, "-m", "bench.model.plain_pipeline", str(study / "dicom"), str(plan), str(out)]
    figures = _timed([*command, *_seeds(truth).values()])
    said = json.loads(figures.pop("stdout"))
    with np.load(out / "mask.npz") as data:
        affine = np.diag([*data["spacing"], 1.0])
        affine[:3, 3] = data["corner"]
        dice = _dice(study, Volume(data["mask"].astype(np.uint8), affine))
    return figures | said | {"dice": dice}


def _seeds(truth: dict[str, Any]) -> dict[str, str]:
    return {k: ",".join(f"{v:.2f}" for v in truth["seeds"][k]) for k in ("target", "above", "below")}


def _timed(command: list[str]) -> dict[str, Any]:
    """Wall and CPU seconds and the largest resident size of one process with all it waits for."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, errors = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 2):
        raise SystemExit(f"{' '.join(command)} failed:\n{errors[-2000:]}")
    return {
        "wall_s": round(time.perf_counter() - began, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mb": round(usage.ru_maxrss / 1024),
        "load_average": round(os.getloadavg()[0], 2),
        "stdout": out,
    }


def _dice(study: Path, mask: Volume) -> float:
    """Against the true label, which lies on the CT's own grid."""
    with np.load(study / "labels.npz") as data:
        index = np.argwhere(data["labels"])
        affine = data["affine"]
    points = index[:, ::-1] @ affine[:3, :3].T + affine[:3, 3]
    both = float((mask.sample(points, order=0, outside=0.0) > 0).sum())
    return round(2 * both / (len(index) + int(np.count_nonzero(mask.values))), 4)


def lines(result: dict[str, Any]) -> list[Line]:
    ours, plain, count = result["ours"], result["plain"], result["slices"]
    again, moved = result["refit"], result["moved"]
    rounds = ", ".join(f"{s:.1f}" for s in moved["kept_rounds_s"])
    return [
        Line(
            f"CT folder to checked STL, {SLICES} slices of {SIDE} x {SIDE}: at most {SECONDS:g} s",
            f"{ours['wall_s']:.1f} s wall, {ours['cpu_s']:.1f} s CPU, {count} slices, load {ours['load_average']}",
            ours["wall_s"] <= SECONDS and count >= SLICES,
        ),
        Line("the model passes its self-check", str(ours["passed"]), bool(ours["passed"])),
        Line(
            "faster than a plain pipeline of scipy, scikit-image and trimesh, same run",
            f"{ours['wall_s']:.1f} s beside {plain['wall_s']:.1f} s wall, {ours['cpu_s']:.1f} s beside "
            f"{plain['cpu_s']:.1f} s CPU (theirs has no planning, vents, wall check, pictures or report); Dice "
            f"{ours['dice']:.3f} beside {plain['dice']:.3f}",
            ours["wall_s"] < plain["wall_s"],
        ),
        Line(
            f"peak memory at most {MEGABYTES / 1000:g} GB",
            f"{ours['peak_mb'] / 1000:.2f} GB",
            ours["peak_mb"] <= MEGABYTES,
        ),
        Line(
            f"refit after cut, erase, paint or a plan by hand at most {REFIT_SECONDS:g} s",
            f"{again['kept_s']:.1f} s beside {again['fresh_s']:.1f} s with nothing kept; the same bytes: "
            f"{again['same_bytes']}; the whole command {again['kept_wall_s']:.1f} s",
            again["kept_s"] <= REFIT_SECONDS and again["same_bytes"],
        ),
        Line(
            f"refit after a moved point or marked endplates at most {REFIT_SECONDS:g} s",
            f"{moved['kept_s']:.1f} s ({rounds} in {len(moved['kept_rounds_s'])} rounds) beside "
            f"{moved['fresh_s']:.1f} s with nothing kept (a moved point; went on "
            f"from the kept fit: {moved['kept_resumed']}); surfaces {moved['apart_mm']:.2f} mm apart on average, "
            f"{moved['apart_p95_mm']:.2f} mm at the 95th percentile",
            moved["kept_s"] <= REFIT_SECONDS and moved["kept_resumed"] and moved["apart_mm"] <= APART_MM,
        ),
    ]


def page(result: dict[str, Any]) -> str:
    ours, plain = result["ours"], result["plain"]
    names = [*PLACES, *(n for n in ours["timings_s"] if n not in PLACES)]
    rows = [[n, _seconds(ours, n), _seconds(plain, PLACES.get(n, n))] for n in names]
    for name, key in (("**whole process, wall s**", "wall_s"), ("**CPU s**", "cpu_s"), ("**peak MB**", "peak_mb"),
                      ("**Dice against the true bone**", "dice"), ("load of the machine", "load_average")):  # fmt: skip
        rows.append([name, str(ours[key]), str(plain[key])])
    note = (
        f"The plain pipeline's part: {plain['bodies']} separate bodies, watertight: {plain['watertight']}. "
        "A stage's seconds are wall time; what runs beside others is not counted twice."
    )
    return table(["stage, wall seconds", "spineprint", "plain pipeline"], rows) + "\n\n" + note


#: Our stage -> the stage of the plain pipeline that does something like it.
PLACES = {
    "reading the CT": "reading the CT",
    "isolating the vertebra": "isolating the vertebra",
    "planning the needle paths": "",
    "building the model": "surfaces, shell and channels",
    "checking the model": "writing and checking the STL",
}


def _seconds(figures: dict[str, Any], stage: str) -> str:
    value = figures["timings_s"].get(stage)
    return "-" if value is None else f"{value:.1f}"
