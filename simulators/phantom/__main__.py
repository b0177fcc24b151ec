"""`python -m simulators.phantom --out DIR [--level L1 --wedge 0.3 --seed 1 --small ...]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from simulators.phantom.anatomy import PhantomParameters, small_parameters
from simulators.phantom.study import STUDY_DATE, generate, write_study

_SKIPPED = ("centre_lps_mm",)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="simulators.phantom", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for dicom/, truth.json and labels")
    parser.add_argument("--small", action="store_true", help="coarse and fast: 0.8 mm pixels, 1 mm slices")
    parser.add_argument("--patient-id", default="PH-0001")
    parser.add_argument("--patient-name", default="PHANTOM^ONE")
    parser.add_argument("--study-date", default=STUDY_DATE, help="YYYYMMDD")
    kinds = {"str": str, "int": int}
    for item in fields(PhantomParameters):
        if item.name not in _SKIPPED:
            flag = "--" + item.name.replace("_", "-")
            parser.add_argument(flag, type=kinds.get(str(item.type), float), default=None)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a study; returns the exit code (0 ok, 2 bad input)."""
    options = vars(_parser().parse_args(arguments))
    changes = {
        item.name: options[item.name]
        for item in fields(PhantomParameters)
        if options.get(item.name) is not None
    }
    try:
        parameters = small_parameters(**changes) if options["small"] else PhantomParameters(**changes)
    except ValueError as fault:
        sys.stderr.write(f"phantom: {fault}\n")
        return 2
    phantom = generate(parameters)
    folder = write_study(
        phantom,
        options["out"],
        patient_id=options["patient_id"],
        patient_name=options["patient_name"],
        study_date=options["study_date"],
    )
    sys.stdout.write(f"{len(phantom.hu)} slices in {folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
