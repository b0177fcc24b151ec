"""Volume of cement in scans that all hold some: more of them than the accuracy scans have."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.verify import anatomies
from bench.verify.accuracy import print_cement
from bench.verify.cases import cement_cases
from bench.verify.judge import accuracy_row
from bench.verify.runner import run_all
from service.geometry.tip_in_cement import IN_CEMENT

WITHIN = 0.05


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cement-scans", type=int, default=32, help="scans with cement")


def run(options: argparse.Namespace, work: Path) -> bool:
    names = anatomies.names(options.set)
    cases = cement_cases(options.set, options.cement_scans, names)
    return report(run_all(accuracy_row, cases, work, options.jobs, options.rows))


def report(rows: Sequence[dict[str, Any]]) -> bool:
    """Print the table and its lines; True when every scan's volume is within 5 %."""
    print_cement(rows)
    told = [r for r in rows if r["cement_ml"] is not None]
    errors = np.array([r["cement_ml"] / r["true_cement_ml"] - 1.0 for r in told])
    inside = [abs(r["cement_ml"] - r["true_cement_ml"]) <= 2.0 * r["cement_sigma_ml"] for r in told]
    untold = len(rows) - len(told)
    good = bool(told) and untold == 0 and bool((np.abs(errors) <= WITHIN).all())
    print()
    if told:
        print(f"error mean {100 * errors.mean():+.1f} %, standard deviation {100 * errors.std():.1f} %")
        print(
            f"{'PASS' if np.mean(inside) >= 0.95 else 'FAIL'}  inside k = 2: {sum(inside)} of {len(inside)}"
        )
        largest = 100 * float(np.abs(errors).max())
        within = int((np.abs(errors) <= WITHIN).sum())
        print(
            f"{'PASS' if good else 'FAIL'}  cement volume within 5 %: {within} of {len(rows)} (largest {largest:.1f} %)"
        )
    print(f"{'PASS' if untold == 0 else 'FAIL'}  volume told: {len(told)} of {len(rows)}")
    _print_tips(rows)
    return good


def _print_tips(rows: Sequence[dict[str, Any]]) -> None:
    """Needles whose tip was told in the cement of these scans: told apart, for nothing is asked of them here."""
    tips = [n for r in rows for n in r.get("found", ()) if not n["missed"] and n["shape"].endswith(IN_CEMENT)]
    if tips:
        along = np.array([n["along_mm"] for n in tips])
        inside = sum(n["inside"]["tip"] for n in tips)
        print(
            f"tips told in cement: {len(tips)}, along the axis {along.mean():+.2f} ± {along.std():.2f} mm "
            f"({along.min():+.2f} to {along.max():+.2f}), inside k = 2: {inside} of {len(tips)}"
        )
