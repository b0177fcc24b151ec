"""python -m bench.slice [--case DIR] [--runs N] [--write PAGE]; exit code 1 when an acceptance line fails.

Engine, definitions and kind of support are those of the service's settings (SPINEPRINT_SLICER__...); with --cura5 the
engine and definitions are a Cura 5 fetched from Debian.
Without --case a phantom is written and modelled first; a case folder is what `spineprint model --out` makes. Every run
is the service's own task from the approved mesh to the audited, packed file; the engine runs inside a shell script
that notes when it begins and ends, so both times are of the same run. The prediction of the printed part belongs to
the audit, as a file can fail by it: the acceptance line is for the whole. The time up to it is told besides, and the
processor's time, which other work on the machine changes less. Then the finished file is audited alone.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import platform
import re
import resource
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.cura_engine import CuraEngineConfig, CuraEngineSlicer
from adapters.cura_engine.locate import CuraInstall, find_install
from bench.slice import slice_argument
from bench.slice.charon import NotToBeHadError
from bench.slice.cura5 import installed
from bench.verify.page import Tee, put
from service.config import load_config
from service.geometry.progress import silent
from service.workflow.print_proof import PrintProof
from service.workflow.tasks.model_task import model_task
from service.workflow.tasks.slice_task import slice_task
from simulators.phantom.__main__ import main as write_phantom

_MOST_OVER_ENGINE = 1.3
_MOST_AUDIT_S = 3.0
_FILE_MB = 20.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.slice", description=__doc__)
    parser.add_argument("--case", type=Path, help="case folder (default: a phantom is modelled)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--cura5", action="store_true", help="with Debian's Cura 5, fetched (bench.slice.cura5)"
    )
    parser.add_argument("--write", type=Path, help="page of the documentation whose table is replaced")
    options = parser.parse_args()
    wanted = load_config(None).slicer
    try:
        install = installed() if options.cura5 else find_install(wanted.engine, wanted.resources)
    except NotToBeHadError as why:
        sys.exit(str(why))
    work = Path(tempfile.mkdtemp(prefix="bench-slice-"))
    kept = Tee()
    try:
        with contextlib.redirect_stdout(kept):
            print(f"| {_machine()} | median | from | to | runs |\n|---|---|---|---|---|", flush=True)
            case = options.case or phantom_case(work)
            good = _measure(case, work, install, options.runs)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if options.write:
        put(options.write, "slicing-cura-5" if options.cura5 else "slicing", kept.text())
    return 0 if good else 1


@dataclass
class _Times:
    """Of each run, s. `whole` is from the STL to the file with audit and prediction, `audited` to before the latter."""

    whole: list[float] = field(default_factory=list)
    audited: list[float] = field(default_factory=list)
    engine_cpu: list[float] = field(default_factory=list)
    own_cpu: list[float] = field(default_factory=list)


def _measure(case: Path, work: Path, install: CuraInstall, runs: int) -> bool:
    log = work / "engine.times"
    slicer = CuraEngineSlicer(_timed_engine(work, log, install))
    print(f"engine: {slicer.describe()}", flush=True)
    times = _Times()
    for run in range(runs):
        report = _one_run(slicer, case, work / f"run{run}", times)
    engine = [(int(end) - int(begin)) / 1e9 for begin, end in map(str.split, log.read_text().splitlines())]
    ratios = [w / e for w, e in zip(times.whole, engine, strict=True)]
    without = [w / e for w, e in zip(times.audited, engine, strict=True)]
    _line("engine alone, s", engine)
    _line("STL to audited G-code with the prediction, s", times.whole)
    _line("the same without the prediction, s", times.audited)
    _line("engine alone, s of processor", times.engine_cpu)
    _line("all besides the engine, s of processor", times.own_cpu)
    _line("with the prediction over engine", ratios)
    _line("without the prediction over engine", without)
    print(f"predicted: {json.dumps(report['measures']['printed'])}")
    audit_is_fast = _measure_audit(case, work / "run0/print.gcode.gz", work, runs)
    print()
    fast = _verdict("STL to audited G-code with the prediction, over engine", ratios, _MOST_OVER_ENGINE)
    return _verdict(f"audit for {_FILE_MB:.0f} MB, s", audit_is_fast, _MOST_AUDIT_S) and fast


def _one_run(slicer: CuraEngineSlicer, case: Path, out: Path, times: _Times) -> Mapping[str, Any]:
    out.mkdir()
    marks = _Marks()
    own, children = time.process_time(), _children_cpu_s()
    begin = time.perf_counter()
    audit: Mapping[str, Any] = slice_task(slicer, slice_argument(case, out), marks)["audit"]
    end = time.perf_counter()
    if not audit["passed"]:
        sys.exit(f"the audit refuses the file: {audit['findings']}")
    times.whole.append(end - begin)
    times.audited.append(marks.first["predicting the printed part"] - begin)
    times.own_cpu.append(time.process_time() - own)
    times.engine_cpu.append(_children_cpu_s() - children)
    return audit


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class _Marks:
    """When each stage was first told."""

    def __init__(self) -> None:
        self.first: dict[str, float] = {}

    def __call__(self, stage: str, fraction: float) -> None:
        self.first.setdefault(stage, time.perf_counter())


def _measure_audit(case: Path, packed: Path, work: Path, runs: int) -> list[float]:
    """Seconds for a file of `_FILE_MB`, by each run."""
    plain = work / "plain.gcode"
    plain.write_bytes(gzip.decompress(packed.read_bytes()))
    megabytes = plain.stat().st_size / 1e6
    wall, processor = [], []
    for _ in range(max(runs, 5)):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        meshes = (case / "print.stl", case / "print.json", case / "plan.json", case / "filler.stl")
        proof = PrintProof.read(plain, *meshes)
        report = proof.audit()
        wall.append(time.perf_counter() - begin)
        processor.append(time.process_time() - begin_cpu)
    _line(f"audit alone of {megabytes:.1f} MB, s", wall)
    _line(f"audit alone of {megabytes:.1f} MB, s of processor", processor)
    print(f"layer_off_most {report.measures['layer_off_most']}")
    return [t * _FILE_MB / megabytes for t in wall]


def phantom_case(work: Path) -> Path:
    """A case folder from a phantom of clinical resolution."""
    print("writing and modelling a phantom", flush=True)
    write_phantom(["--out", str(work / "phantom"), "--seed", "1"])
    truth = json.loads((work / "phantom/truth.json").read_text("utf-8"))
    case = work / "case"
    case.mkdir()
    argument = {
        "ct": str(work / "phantom/dicom"),
        "level": truth["target"],
        **truth["seeds"],
        "settings": json.loads(load_config(None).model.model_dump_json()),
        "case_code": "",
        "out": str(case),
    }
    model_task(argument, silent)
    return case


def _timed_engine(work: Path, log: Path, install: CuraInstall) -> CuraEngineConfig:
    wanted = load_config(None).slicer
    engine, times = shlex.quote(str(install.engine)), shlex.quote(str(log))
    script = work / "CuraEngine"
    script.write_text(
        f'#!/bin/sh\n[ "$1" = slice ] || exec {engine} "$@"\nbegin=$(date +%s%N)\n{engine} "$@"\ncode=$?\n'
        f'echo "$begin $(date +%s%N)" >>{times}\nexit $code\n'
    )
    script.chmod(0o755)
    return CuraEngineConfig(engine=script, resources=install.resources, support_structure=wanted.support)


def _machine() -> str:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return (
        f"{cpu[1] if cpu else platform.processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.1f} before"
    )


def _line(words: str, values: Sequence[float]) -> None:
    low, high, middle = min(values), max(values), statistics.median(values)
    print(f"| {words} | {middle:.2f} | {low:.2f} | {high:.2f} | {len(values)} |")


def _verdict(words: str, values: Sequence[float], most: float) -> bool:
    middle = statistics.median(values)
    good = middle <= most
    print(f"{'PASS' if good else 'FAIL'}: {words}: median {middle:.2f}, at most {most:g} wanted", flush=True)
    return good


if __name__ == "__main__":
    raise SystemExit(main())
