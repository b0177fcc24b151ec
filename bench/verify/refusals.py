"""Scans that must be refused: wrong level or patient, no needle, heavy motion, the vertebra outside the field."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from bench.verify import anatomies
from bench.verify.cases import LATER_REFUSALS, refusal_cases
from bench.verify.judge import refusal_row
from bench.verify.runner import run_all

#: Which reasons are right for what was done to the scan. A reason's sentence must name what is wrong.
RIGHT = {
    "wrong_level": {"no_match", "another_bone", "level_ambiguous", "partly_outside", "not_found", "needle_elsewhere"},
    "needle_elsewhere": {"needle_elsewhere"},
    "wrong_patient": {"no_match", "another_bone"},
    "no_needle": {"no_needle"},
    "heavy_motion": {"no_match", "another_bone", "methods_disagree", "motion"},
    "outside": {"no_match", "partly_outside", "not_found"},
    "beside_bone": {"needle_elsewhere"},
    "stranger_cement": {"no_match", "another_bone", "texture_hidden"},
    "other_person": {"no_match", "another_bone", "not_found"},
    "cut": {"partly_outside", "no_match", "not_found"},
}  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--refusal-scans", type=int, default=48, help="scans to refuse (acceptance: 40)")


def run(options: argparse.Namespace, work: Path) -> bool:
    phantoms = [n for n in anatomies.names(options.set) if anatomies.parameters(n) is not None]
    real = [n for n in anatomies.names(options.set) if n not in phantoms]
    cases = refusal_cases(
        options.set, options.refusal_scans, phantoms, real if options.set in anatomies.WIDER else ()
    )
    rows = run_all(refusal_row, cases, work, options.jobs, options.rows)
    print("\n| what is wrong | scans | refused | right reason | reasons given |\n|---|---|---|---|---|")
    good = True
    for kind in LATER_REFUSALS:
        mine = [r for r in rows if r["kind"] == kind]
        if not mine:
            continue
        refused = [r for r in mine if not r["measured"]]
        right = [r for r in refused if r["reason"] in RIGHT[kind]]
        given = ", ".join(f"{n} {code}" for code, n in Counter(r["reason"] for r in refused).most_common())
        print(f"| {kind} | {len(mine)} | {len(refused)} | {len(right)} | {given} |")
        good = good and len(right) == len(mine)
    right_all = sum(not r["measured"] and r["reason"] in RIGHT[r["kind"]] for r in rows)
    print(f"\n{'PASS' if good else 'FAIL'}  refused with the right reason: {right_all} of {len(rows)}")
    print(f"{'PASS' if len(rows) >= 40 else 'FAIL'}  scans: {len(rows)}")
    return good and len(rows) >= 40
