"""The figures at the end: what was made, and how it compares with what the simulators know to be true."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Figure:
    name: str
    value: str
    good: bool | None = None
    """None: for information; else whether the demonstration's promise holds."""


@dataclass
class Figures:
    rows: list[Figure] = field(default_factory=list)

    def add(self, name: str, value: str, good: bool | None = None) -> None:
        self.rows.append(Figure(name, value, good))

    @property
    def all_good(self) -> bool:
        return all(r.good is not False for r in self.rows)


def of_model(figures: Figures, report: Mapping[str, Any]) -> None:
    check = report["check"]
    wall = check["wall"]
    sound = check["watertight"] and check["bodies"] == 1 and check["closed_voids"] == 0 and report["passed"]
    figures.add("model", f"{check['volume_ml']:.1f} mL of plastic, {check['faces']} faces, watertight, one body, "
                f"{check['closed_voids']} sealed cavities", sound)  # fmt: skip
    if wall["mean_mm"] is not None:
        figures.add(
            "wall", f"{wall['mean_mm']:.3f} ± {wall['sd_mm']:.3f} mm, 1st percentile {wall['p1_mm']:.3f}"
        )
    for channel in check["channels"]:
        figures.add(
            f"{channel['pedicle']} channel",
            f"Ø {channel['diameter_mm']:.3f} mm, off plan by {channel['axis_mm']:.3f} mm, {channel['axis_deg']:.3f}°",
            bool(channel["open"]),
        )
    gas = report["gas_path"]
    narrowest = gas["narrowest_opening_mm"]
    figures.add("gas path", f"{gas['openings_per_cavity']} openings per cavity, narrowest "
                + (f"{narrowest:.2f} mm" if narrowest else "none"))  # fmt: skip
    figures.add(
        "isolation",
        f"confidence {report['isolation']['confidence']:.2f}, {report['isolation']['volume_ml']:.1f} mL",
    )
    figures.add("model build", " + ".join(f"{k} {v:.1f} s" for k, v in report["timings_s"].items()))


def of_print(figures: Figures, audit: Mapping[str, Any], ledger: list[dict[str, Any]]) -> None:
    cost = audit.get("cost")
    plastic = f"{audit['weight_g']:.1f} g PLA" + (
        f", about {cost['total']:.2f} {cost['currency']}" if cost else ""
    )
    figures.add("G-code audit", f"{'passed' if audit['passed'] else 'failed'}, {audit['layers']} layers, "
                f"{audit['print_time_s'] / 3600:.1f} h, {plastic}", audit["passed"])  # fmt: skip
    figures.add("prints started", f"{len(ledger)} (by the printer's own count)", len(ledger) == 1)


def of_verification(figures: Figures, report: Mapping[str, Any], truth: Mapping[str, Any]) -> None:
    """Compare with the simulator's truth: tip within 1 mm, axis within 1°."""
    if report["status"] != "measured":
        figures.add("O-arm report", f"not measurable: {report['reason']}", False)
        return
    measured, true = report["needles"][0], truth["needles"][0]["preop"]
    tip_error = float(np.linalg.norm(np.array(measured["tip"]) - np.array(true["tip"])))
    cosine = float(np.clip(abs(np.dot(measured["axis"], true["axis"])), -1.0, 1.0))
    axis_error = float(np.degrees(np.arccos(cosine)))
    figures.add("verdict", f"{report['verdict']}: {report['advice']}")
    figures.add("tip to target", f"{measured['tip_to_target_mm']:.2f} ± {measured['uncertainty_mm']:.2f} mm")
    figures.add("tip against truth", f"{tip_error:.2f} mm (promised within 1 mm)", tip_error <= 1.0)
    figures.add("axis against truth", f"{axis_error:.2f}° (promised within 1°)", axis_error <= 1.0)
    figures.add(
        "last image to report", f"{report['timings_s'].get('total', float('nan')):.1f} s of computing"
    )
