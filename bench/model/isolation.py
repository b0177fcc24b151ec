"""isolation of vertebrae on real CT from drawn seeds, against reference labels"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.model import other_patient
from bench.model.report import Line, table
from bench.model.studies import DRAWS, SPINE, Study, drawn_seeds, likeness, studies
from service.errors import GeometryError
from service.geometry.anatomy import Isolation
from service.geometry.isolation import IsolationSettings, isolate_vertebra

NAME = "isolation"
OTHER = "another patient's shapes"
GROUPS = {"L1-L5": ("L1", "L2", "L3", "L4", "L5"), "T11-T12": ("T11", "T12"), "T10": ("T10",)}
BARS = {"L1-L5": (0.92, 0.90), "T11-T12": (0.90, 0.88), "T10": (0.88, 0.0)}
#: Averages in the template file that a level's own shape is part of, and shapes made from it.
MEANS = {
    "T9": ["mean_T9_T11"],
    "T10": ["mean_T9_T11"],
    "T11": ["mean_T9_T11", "mean_T11_L1"],
    "T12": ["mean_T11_L1", "mean_T12_L2"],
    "L1": ["mean_T11_L1", "mean_T12_L2", "L3", "L4", "L5"],
    "L2": ["mean_T12_L2", "L3", "L4", "L5"],
}


#: Runs that are no measure of the patient whose shapes ship, nor of his own.
OUT_OF_SAMPLE = {"L1-L5": "three seeds", "T11-T12": OTHER, "T10": OTHER}
#: What the first draw from three seeds gave, for the part that builds the solids of the same run.
FOUND: dict[tuple[str, str], Isolation] = {}


def add_options(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--only", default="", help="study:level,level;... (default: all)")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--add", action="store_true", help="keep the runs that the JSON holds already")
    parser.add_argument("--quick", action="store_true", help="three seeds, one draw")


def run(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    kept = options.out / f"{NAME}.json"
    old = json.loads(kept.read_text("utf-8"))["runs"] if options.add and kept.exists() else []
    runs: list[dict[str, Any]] = []
    chosen = _chosen(options.only)
    for study in studies(work):
        for level in study.levels:
            if chosen and level not in chosen.get(study.name, ()):
                continue
            for kind, draw in _plan(study, level, options):
                runs.append(one_run(study, level, kind, draw))
                print("  " + _shown(runs[-1]), flush=True)
    again = {_key(r) for r in runs}
    return {"runs": sorted([*(r for r in old if _key(r) not in again), *runs], key=_key)}


def _key(run: dict[str, Any]) -> tuple[Any, ...]:
    return run["in_sample"], run["study"], SPINE.index(run["level"]), run["seeds"], run["draw"]


def _chosen(only: str) -> dict[str, list[str]]:
    pairs = [part.split(":") for part in only.split(";") if part]
    return {name: levels.split(",") for name, levels in pairs}


def _plan(study: Study, level: str, options: argparse.Namespace) -> Iterable[tuple[str, int]]:
    if options.quick:
        return [("three seeds", 0)]
    kinds = ["three seeds", *(["own shape left out"] if study.in_sample else [])]
    if study.in_sample and level in other_patient.LEVELS and other_patient.MASK.is_file():
        kinds.append(OTHER)
    return [*((kind, draw) for kind in kinds for draw in range(options.draws)), ("one seed", 0)]


def one_run(study: Study, level: str, kind: str, draw: int) -> dict[str, Any]:
    """Isolate one level; a refusal is a result, with its words."""
    seeds = drawn_seeds(study, level, draw)
    settings = IsolationSettings()
    if kind == "one seed":
        seeds = replace(seeds, above=None, below=None)
    if kind == "own shape left out":
        settings = replace(
            settings, fit=replace(settings.fit, exclude_templates=(level, *MEANS.get(level, [])))
        )
    if kind == OTHER:
        settings = replace(settings, fit=replace(settings.fit, templates=other_patient.shapes()))
    about = {
        "study": study.name,
        "in_sample": study.in_sample and kind != OTHER,
        "level": level,
        "seeds": kind,
        "draw": draw,
    }
    began = time.process_time()
    try:
        found = isolate_vertebra(study.ct, level, seeds, settings=settings)
    except GeometryError as refusal:
        return about | {"refused": refusal.code, "words": refusal.message}
    if (kind, draw) == ("three seeds", 0):
        FOUND[study.name, level] = found
    return about | {
        "cpu_s": round(time.process_time() - began, 1),
        **asdict(likeness(found.outer, study.reference(level))),
        "confidence": found.quality.confidence,
        "reasons": list(found.quality.reasons),
        "measures": found.quality.measures,
    }


def _shown(row: dict[str, Any]) -> str:
    head = f"{row['study']} {row['level']} {row['seeds']} #{row['draw']}: "
    if "refused" in row:
        return head + f"refused ({row['refused']})"
    return head + (
        f"Dice {row['dice']:.3f}, surface {row['surface_mm']:.2f} mm, h95 {row['h95_mm']:.1f} mm, "
        f"confidence {row['confidence']:.2f}, {row['cpu_s']:.0f} s CPU"
    )


def _dices(runs: list[dict[str, Any]], **wanted: Any) -> list[float]:
    """Dice of the runs that match; a refusal counts as nothing found."""
    levels = wanted.pop("levels")
    return [
        r.get("dice", 0.0)
        for r in runs
        if r["level"] in levels and all(r[key] == value for key, value in wanted.items())
    ]


def lines(result: dict[str, Any]) -> list[Line]:
    found = []
    for in_sample, kinds in (
        (False, OUT_OF_SAMPLE),
        (True, dict.fromkeys(GROUPS, "three seeds")),
        (True, dict.fromkeys(GROUPS, "own shape left out")),
    ):
        for group, levels in GROUPS.items():
            kind = kinds[group]
            values = _dices(result["runs"], levels=levels, in_sample=in_sample, seeds=kind)
            mean_bar, every_bar = BARS[group]
            sample = "out of sample" if not in_sample else f"in-sample, {kind}" if kind[0] == "t" else kind
            if not values:
                why = "not run for this page"
                found.append(Line(f"{group} Dice, {sample}: mean at least {mean_bar:.2f}", why, False))
                continue
            found.append(
                Line(
                    f"{group} Dice, {sample}: mean at least {mean_bar:.2f}, every run {every_bar:.2f}",
                    f"mean {np.mean(values):.3f}, worst {min(values):.3f} ({len(values)} runs)",
                    bool(np.mean(values) >= mean_bar and min(values) >= every_bar),
                )
            )
    found.extend(_one_seed_line(result["runs"]))
    return found


def _one_seed_line(runs: list[dict[str, Any]]) -> Iterable[Line]:
    one = {(r["study"], r["level"]): r.get("dice", 0.0) for r in runs if r["seeds"] == "one seed"}
    three = {
        (r["study"], r["level"]): r.get("dice", 0.0)
        for r in runs
        if r["seeds"] == "three seeds" and r["draw"] == 0
    }
    losses = {key: three[key] - value for key, value in one.items() if key in three}
    if losses:
        worst = max(losses, key=lambda k: losses[k])
        yield Line(
            "one seed within 0.02 of three (same draw)",
            f"largest loss {losses[worst]:+.3f} ({' '.join(worst)}), mean {np.mean(list(losses.values())):+.3f}",
            max(losses.values()) <= 0.02,
        )


def page(result: dict[str, Any]) -> str:
    keys = list(dict.fromkeys((r["study"], r["level"], r["seeds"]) for r in result["runs"]))
    rows = []
    for study, level, kind in keys:
        own = [r for r in result["runs"] if (r["study"], r["level"], r["seeds"]) == (study, level, kind)]
        good = [r for r in own if "dice" in r]
        sample = "in" if own[0]["in_sample"] else "out"
        if not good:
            rows.append([study, level, sample, kind, "refused", "", "", "", str(len(own))])
            continue
        dice = [r["dice"] for r in good]
        rows.append(
            [
                study,
                level,
                sample,
                kind,
                f"{np.mean(dice):.3f} ({min(dice):.3f})",
                f"{np.mean([r['surface_mm'] for r in good]):.2f}",
                f"{np.mean([r['h95_mm'] for r in good]):.1f}",
                f"{np.mean([r['confidence'] for r in good]):.2f}",
                f"{len(own)}" + (f", {len(own) - len(good)} refused" if len(good) < len(own) else ""),
            ]
        )
    head = [
        "study",
        "level",
        "sample",
        "seeds",
        "Dice mean (worst)",
        "surface mm",
        "h95 mm",
        "confidence",
        "runs",
    ]
    return table(head, rows) + "\n\n" + _confidence_table(result["runs"])


def _confidence_table(runs: list[dict[str, Any]]) -> str:
    good = [r for r in runs if "dice" in r]
    rows = []
    for low, high in ((0.0, 0.5), (0.5, 0.7), (0.7, 0.9), (0.9, 1.01)):
        own = [r["dice"] for r in good if low <= r["confidence"] < high]
        if own:
            share = f"{sum(d < 0.88 for d in own)} of {len(own)}"
            rows.append([f"{low:.1f}-{min(high, 1.0):.1f}", f"{np.mean(own):.3f}", f"{min(own):.3f}", share])
    refused = sum("refused" in r for r in runs)
    note = f"Refused outright: {refused} of {len(runs)} runs."
    head = ["confidence", "mean Dice", "worst Dice", "Dice below 0.88"]
    return f"Confidence against Dice, all runs above:\n\n{table(head, rows)}\n\n{note}"
