"""Cases run one after the other or in two processes; rows are kept as JSON lines while the run goes on."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bench.verify.cases import Case

Row = dict[str, Any]


def run_all(
    work: Callable[[Case, Path], Row], cases: list[Case], folder: Path, jobs: int, out: Path | None
) -> list[Row]:
    """Rows in the order of the cases; a line is printed for each.

    Cases that have a row in `out` already are not run again: a run that was cut short goes on where it stopped.
    """
    rows = _kept(out, cases)
    known = {(r["case"], r["anatomy"], r["seed_set"], r["kind"]) for r in rows}
    # Neighbouring cases of one anatomy share what was loaded.
    ordered = sorted(cases, key=lambda c: (c.anatomy, c.index))
    ordered = [c for c in ordered if (c.index, c.anatomy, c.chosen, c.kind) not in known]
    if rows:
        print(f"{len(rows)} scans are in {out} already")
    started = time.monotonic()
    for row in _results(partial(work), ordered, folder, jobs):
        rows.append(row)
        if out is not None:
            with out.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
        print(f"{len(rows):3d}/{len(cases)} {time.monotonic() - started:5.0f} s  {_line(row)}", flush=True)
    return sorted(rows, key=lambda r: r["case"])


def _kept(out: Path | None, cases: list[Case]) -> list[Row]:
    """Rows of earlier runs that belong to these cases."""
    if out is None or not out.is_file():
        return []
    wanted = {(c.index, c.anatomy, c.chosen, c.kind) for c in cases}
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    return [r for r in rows if (r["case"], r["anatomy"], r["seed_set"], r["kind"]) in wanted]


def _results(work: Callable[[Case, Path], Row], cases: list[Case], folder: Path, jobs: int) -> Iterator[Row]:
    call = partial(_call, work, folder)
    if jobs <= 1:
        yield from map(call, cases)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(call, cases, chunksize=max(1, len(cases) // (4 * jobs)))


def _call(work: Callable[[Case, Path], Row], folder: Path, case: Case) -> Row:
    return {"seed_set": case.chosen, "kind": case.kind} | work(case, folder)


def _line(row: Row) -> str:
    text = f"{row['anatomy']:<15} {row.get('tip_shape') or row['kind']:<16} "
    if not row["measured"]:
        return text + f"not measurable: {row['reason']}"
    parts = [f"TRE {row['tre_mm']:.2f}"] if "tre_mm" in row else ["MEASURED"]
    for n in row.get("found", ()):
        parts.append("needle missed" if n["missed"] else
                     f"tip {n['tip_mm']:.2f} (along {n['along_mm']:+.2f}) axis {n['axis_deg']:.2f} "
                     f"{n['grade']}/{n['true_grade']}")  # fmt: skip
    flags = ("clipped " if row.get("clipped") else "") + ("cement" if row.get("cement") else "")
    return text + ", ".join(parts) + f" {flags}"
