"""python -m bench.slice [--case DIR] [--runs N]; exit code 1 when an acceptance line fails.

Engine, definitions and kind of support are those of the service's settings (SPINEPRINT_SLICER__...).
Without --case a phantom is written and modelled first; a case folder is what `spineprint model --out` makes. Every run
is the service's own task from the approved mesh to the audited, packed file; the engine runs inside a shell script
that notes when it begins and ends, so both times are of the same run. The prediction of the printed part, a step of
its own after the audit, is timed apart. Then the finished file is audited alone.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import re
import shlex
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from adapters.cura_engine import CuraEngineConfig, CuraEngineSlicer
from adapters.cura_engine.locate import find_install
from bench.slice import slice_argument
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
    options = parser.parse_args()
    _describe_machine()
    work = Path(tempfile.mkdtemp(prefix="bench-slice-"))
    try:
        case = options.case or _phantom_case(work)
        return 0 if _measure(case, work, options.runs) else 1
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _measure(case: Path, work: Path, runs: int) -> bool:
    log = work / "engine.times"
    slicer = CuraEngineSlicer(_timed_engine(work, log))
    print(f"engine: {slicer.describe()}", flush=True)
    whole, prediction = [], []
    for run in range(runs):
        out = work / f"run{run}"
        out.mkdir()
        begin = time.perf_counter()
        marks = _Marks()
        result = slice_task(slicer, slice_argument(case, out), marks)
        audited = marks.first.get("predicting the printed part", time.perf_counter())
        whole.append(audited - begin)
        prediction.append(time.perf_counter() - audited)
        if not result["audit"]["passed"]:
            sys.exit(f"the audit refuses the file: {result['audit']['findings']}")
    engine = [(int(end) - int(begin)) / 1e9 for begin, end in map(str.split, log.read_text().splitlines())]
    ratios = [w / e for w, e in zip(whole, engine, strict=True)]
    _line("engine alone, s", engine)
    _line("STL to audited .gcode.gz, s", whole)
    _line("prediction of the printed part and its picture, s", prediction)
    print(f"predicted: {json.dumps(result['audit']['measures']['printed'])}")
    fast = _verdict("STL to audited over engine", ratios, _MOST_OVER_ENGINE)
    return _measure_audit(case, work / "run0/print.gcode.gz", work, runs) and fast


class _Marks:
    """When each stage was first told."""

    def __init__(self) -> None:
        self.first: dict[str, float] = {}

    def __call__(self, stage: str, fraction: float) -> None:
        self.first.setdefault(stage, time.perf_counter())


def _measure_audit(case: Path, packed: Path, work: Path, runs: int) -> bool:
    plain = work / "plain.gcode"
    plain.write_bytes(gzip.decompress(packed.read_bytes()))
    megabytes = plain.stat().st_size / 1e6
    wall, processor = [], []
    for _ in range(max(runs, 5)):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        proof = PrintProof.read(plain, case / "print.stl", case / "print.json", case / "plan.json")
        report = proof.audit()
        wall.append(time.perf_counter() - begin)
        processor.append(time.process_time() - begin_cpu)
    print(f"audit of {megabytes:.1f} MB; layer_off_most {report.measures['layer_off_most']}")
    _line("audit, s", wall)
    _line("audit, s of processor", processor)
    return _verdict(
        f"audit for {_FILE_MB:.0f} MB, s", [t * _FILE_MB / megabytes for t in wall], _MOST_AUDIT_S
    )


def _phantom_case(work: Path) -> Path:
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


def _timed_engine(work: Path, log: Path) -> CuraEngineConfig:
    wanted = load_config(None).slicer
    install = find_install(wanted.engine, wanted.resources)
    engine, times = shlex.quote(str(install.engine)), shlex.quote(str(log))
    script = work / "CuraEngine"
    script.write_text(
        f'#!/bin/sh\n[ "$1" = slice ] || exec {engine} "$@"\nbegin=$(date +%s%N)\n{engine} "$@"\ncode=$?\n'
        f'echo "$begin $(date +%s%N)" >>{times}\nexit $code\n'
    )
    script.chmod(0o755)
    return CuraEngineConfig(engine=script, resources=install.resources, support_structure=wanted.support)


def _describe_machine() -> None:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    print(
        f"{cpu[1] if cpu else platform.processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"load {os.getloadavg()[0]:.2f}",
        flush=True,
    )


def _line(words: str, values: Sequence[float]) -> None:
    spread = f"{min(values):.2f} to {max(values):.2f}, {len(values)} runs"
    print(f"{words}: median {statistics.median(values):.2f} ({spread})")


def _verdict(words: str, values: Sequence[float], most: float) -> bool:
    _line(words, values)
    good = statistics.median(values) <= most
    print(f"  {'PASS' if good else 'FAIL'}: at most {most:g} wanted", flush=True)
    return good


if __name__ == "__main__":
    raise SystemExit(main())
