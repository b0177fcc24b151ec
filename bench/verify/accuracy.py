"""Registration, tip, axis, uncertainty, breach grade and verdict on simulated scans of known truth."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.verify import anatomies
from bench.verify.cases import accuracy_cases
from bench.verify.judge import accuracy_row
from bench.verify.runner import run_all

Row = dict[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scans", type=int, default=64, help="accuracy scans (the acceptance asks for 60)")
    parser.add_argument("--only", default="", help="anatomies whose names hold this text")


def run(options: argparse.Namespace, work: Path) -> bool:
    chosen = options.set
    names = [n for n in anatomies.names(chosen) if options.only in n]
    if chosen != "tuning":
        for name in anatomies.missing():
            print(f"skipped: {name} (its data are not below {anatomies.DATA.name}/)")
    cases = accuracy_cases(chosen, options.scans, names)
    rows = run_all(accuracy_row, cases, work, options.jobs, options.rows)
    return report(rows)


def report(rows: Sequence[Row]) -> bool:
    """Print the table and the acceptance lines; True when all of them hold."""
    measured = [r for r in rows if r["measured"]]
    print("\n| scans | measured | TRE mean / 95 % | tip mean / 95 % / max | along | axis mean / max |")
    print("|---|---|---|---|---|---|")
    groups: list[tuple[str, Callable[[Row], bool]]] = [
        ("all, not clipped", lambda r: not r["clipped"]),
        ("all, clipped at 3071", lambda r: bool(r["clipped"])),
        ("without cement, not clipped", lambda r: not r["cement"] and not r["clipped"]),
        ("with cement, not clipped", lambda r: r["cement"] and not r["clipped"]),
        ("with cement, clipped", lambda r: r["cement"] and r["clipped"]),
    ]
    for shape in sorted({r["tip_shape"] for r in rows}):
        groups.append((f"tip: {shape}", lambda r, s=shape: r["tip_shape"] == s))
    for name in dict.fromkeys(r["anatomy"] for r in rows):
        groups.append((f"anatomy: {name}", lambda r, n=name: r["anatomy"] == n))
    for title, keep in groups:
        _print_group(title, [r for r in rows if keep(r)])
    refused = [r for r in rows if not r["measured"]]
    if refused:
        print("\nnot measurable: " + ", ".join(f"{r['anatomy']} #{r['case']} {r['reason']}" for r in refused))
    _print_coverage(measured)
    print_cement(rows)
    return _print_lines(rows, measured)


def _needles(rows: Sequence[Row]) -> list[Row]:
    return [n for r in rows for n in r.get("found", ()) if not n["missed"]]


def _print_group(title: str, rows: Sequence[Row]) -> None:
    done = [r for r in rows if r["measured"]]
    needles = _needles(done)
    if not needles:
        print(f"| {title} | {len(done)}/{len(rows)} | | | | |")
        return
    tre, tip, along, axis = (
        np.array(v)
        for v in (
            [r["tre_mm"] for r in done],
            [n["tip_mm"] for n in needles],
            [n["along_mm"] for n in needles],
            [n["axis_deg"] for n in needles],
        )
    )
    print(
        f"| {title} | {len(done)}/{len(rows)} | {tre.mean():.3f} / {np.percentile(tre, 95):.3f} | "
        f"{tip.mean():.2f} / {np.percentile(tip, 95):.2f} / {tip.max():.2f} | "
        f"{along.mean():+.2f} ± {along.std():.2f} | {axis.mean():.3f} / {axis.max():.3f} |"
    )


def print_cement(rows: Sequence[Row]) -> None:
    done = [r for r in rows if r["cement"] and r["cement_ml"] is not None]
    if not done:
        return
    print(
        "\n| scan with cement | true, ml | found, ml | error | inside k = 2 | leak true / found, ml | told as |"
    )
    print("|---|---|---|---|---|---|---|")
    for r in done:
        error, bar = r["cement_ml"] - r["true_cement_ml"], 2.0 * r["cement_sigma_ml"]
        leaks = sum(v for _, _, v in r["leaks"])
        told = ", ".join(f"{kind} {place}" for kind, place, _ in r["leaks"]) or "none"
        print(
            f"| {r['anatomy']} #{r['case']} | {r['true_cement_ml']:.2f} | {r['cement_ml']:.2f} | "
            f"{100 * error / r['true_cement_ml']:+.1f} % | {'yes' if abs(error) <= bar else 'no'} | "
            f"{r['true_leak_ml']:.3f} / {leaks:.3f} | {told} |"
        )


def _print_coverage(measured: Sequence[Row]) -> None:
    needles = _needles(measured)
    if not needles:
        return
    print("\n| true error inside the stated uncertainty (k = 2) | share |\n|---|---|")
    for name in ("tip", "to_target", "lateral", "angle", "breach"):
        inside = [n["inside"][name] for n in needles if name in n["inside"]]
        print(f"| {name} | {sum(inside)}/{len(inside)} = {100 * np.mean(inside):.0f} % |")
    u = np.array([n["u_tip_mm"] for n in needles])
    print(f"\nstated uncertainty of the tip: mean {u.mean():.2f} mm, {u.min():.2f} to {u.max():.2f}")
    wrong = [n for n in needles if n["true_grade"] is not None and n["grade"] != n["true_grade"]]
    for n in wrong:
        print(
            f"grade {n['grade']} for {n['true_grade']}: margin {n['margin']:.2f} for {n['true_margin']:.2f} mm"
        )


def _print_lines(rows: Sequence[Row], measured: Sequence[Row]) -> bool:
    plain = _needles([r for r in measured if not r["clipped"]])
    clipped = _needles([r for r in measured if r["clipped"]])
    needles = _needles(measured)
    tre = np.array([r["tre_mm"] for r in measured])
    inside = [v for n in needles for v in n["inside"].values()]
    graded = [n for n in needles if n["true_grade"] is not None]
    right = np.mean([n["grade"] == n["true_grade"] for n in graded]) if graded else 0.0
    false_calls = sum(r["verdict"] == "accurate" and not r["truth_within"] for r in measured)
    missed = sum(n["missed"] for r in measured for n in r["found"])
    called = sum(r["verdict"] == "accurate" for r in measured)
    hidden = sum(bool(r["needles_reason"]) for r in measured)
    with_cement = [r for r in rows if r["cement"]]
    errors = [
        abs(r["cement_ml"] / r["true_cement_ml"] - 1.0) if r["cement_ml"] is not None else 1.0
        for r in with_cement
    ]
    invented = sum(r["cement_ml"] is not None for r in rows if not r["cement"])
    lines = [
        ("scans", f"{len(rows)} of {len({r['anatomy'] for r in rows})} anatomies", len(rows) >= 60),
        ("measured", f"{len(measured)} of {len(rows)}", len(measured) == len(rows)),
        (
            "tips left unsaid because cement hides them",
            f"{hidden} scans, all with cement",
            all(r["cement"] for r in measured if r["needles_reason"]),
        ),
        ("registration TRE mean <= 0.3", f"{tre.mean():.3f}", tre.mean() <= 0.3),
        ("registration TRE 95 % <= 0.6", f"{np.percentile(tre, 95):.3f}", np.percentile(tre, 95) <= 0.6),
        *_tip_lines("tip", plain, 0.4, 0.8),
        *_tip_lines("tip, clipped", clipped, 0.8, 1.2),
        _axis_line(needles),
        ("inside k = 2 >= 95 %", f"{100 * np.mean(inside):.1f} %", float(np.mean(inside)) >= 0.95),
        ("breach grade right >= 95 %", f"{100 * right:.1f} % of {len(graded)}", right >= 0.95),
        (
            "accurate although beyond tolerance",
            f"{false_calls} (of {called} called accurate)",
            false_calls == 0,
        ),
        ("needles missed or invented", f"{missed}", missed == 0),
        (
            "cement volume within 5 %",
            f"{sum(e <= 0.05 for e in errors)} of {len(errors)} (largest {100 * max(errors, default=0):.1f} %)",
            bool(errors) and max(errors) <= 0.05,
        ),
        ("cement invented", f"{invented}", invented == 0),
    ]
    print()
    for name, figure, good in lines:
        print(f"{'PASS' if good else 'FAIL'}  {name}: {figure}")
    return all(bool(good) for _, _, good in lines)


def _tip_lines(name: str, needles: Sequence[Row], mean: float, most: float) -> list[tuple[str, str, bool]]:
    if not needles:
        return [(name, "no such scan", False)]
    tip = np.array([n["tip_mm"] for n in needles])
    part = float(np.percentile(tip, 95))
    return [
        (f"{name} mean <= {mean}", f"{tip.mean():.3f} over {len(tip)} needles", tip.mean() <= mean),
        (f"{name} 95 % <= {most}", f"{part:.3f} (max {tip.max():.2f})", part <= most),
    ]


def _axis_line(needles: Sequence[Row]) -> tuple[str, str, bool]:
    axis = np.array([n["axis_deg"] for n in needles])
    return "axis mean <= 0.3 deg", f"{axis.mean():.3f} (max {axis.max():.2f})", bool(axis.mean() <= 0.3)
