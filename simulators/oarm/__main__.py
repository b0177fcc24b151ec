"""`python -m simulators.oarm scan --preop DIR --needle EX,EY,EZ,TX,TY,TZ --out DIR [--send AE@host:port]`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from simulators.oarm.motion import Motion
from simulators.oarm.needle import NEEDLE_13G_MM, TIP_SHAPES, Cement, Needle
from simulators.oarm.physics import PhysicsMissingError, PhysicsSettings, small_physics
from simulators.oarm.scan import make_scan, write_scan
from simulators.oarm.settings import ScanSettings, small_settings
from simulators.pacs.__main__ import peer
from simulators.pacs.send import send_directory


def _numbers(count: int, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as fault:
        raise argparse.ArgumentTypeError(f"expected {count} numbers with commas, not {text}") from fault
    if len(values) != count:
        raise argparse.ArgumentTypeError(f"expected {count} numbers with commas, not {text}")
    return values


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="simulators.oarm", description=__doc__)
    scan = parser.add_subparsers(dest="command", required=True).add_parser("scan", help="make one scan")
    scan.add_argument("--preop", type=Path, required=True, help="folder of the planning CT")
    scan.add_argument("--out", type=Path, required=True, help="folder for dicom/ and truth.json")
    scan.add_argument(
        "--needle",
        action="append",
        default=[],
        type=lambda text: _numbers(6, text),
        metavar="EX,EY,EZ,TX,TY,TZ",
        help="entry and tip, LPS mm of the planning CT; may be given several times",
    )
    scan.add_argument("--tip-shape", choices=TIP_SHAPES, default="cone")
    scan.add_argument("--tip-length", type=float, default=3.0, metavar="MM")
    scan.add_argument("--diameter", type=float, default=NEEDLE_13G_MM)
    scan.add_argument(
        "--cement", action="append", default=[], type=lambda text: _numbers(4, text), metavar="X,Y,Z,R"
    )
    scan.add_argument(
        "--leak-to",
        type=lambda text: _numbers(3, text),
        default=None,
        metavar="X,Y,Z",
        help="a strand of the (last) cement runs to this point, LPS mm of the planning CT",
    )
    scan.add_argument(
        "--motion",
        type=lambda text: _numbers(4, text),
        default=None,
        metavar="X,Y,Z,DEG",
        help="shift in mm and turn of the patient while the gantry turns",
    )
    scan.add_argument("--motion-kind", choices=("drift", "jerk", "breath"), default="drift")
    scan.add_argument("--focus", type=lambda text: _numbers(3, text), default=None, metavar="X,Y,Z")
    scan.add_argument("--shift", type=lambda text: _numbers(3, text), default=None, metavar="X,Y,Z")
    scan.add_argument("--turn-deg", type=float, default=None)
    scan.add_argument("--noise-sd", type=float, default=None)
    scan.add_argument("--streaks", type=float, default=None, help="strength; 0 turns them off")
    scan.add_argument(
        "--grey-maximum", type=float, default=None, help="cut grey values here, for instance 3071"
    )
    scan.add_argument("--neighbour-mm", type=float, default=None)
    scan.add_argument("--neighbour-deg", type=float, default=None)
    scan.add_argument("--seed", type=int, default=1)
    scan.add_argument("--small", action="store_true", help="smaller field and coarser pixels, fast")
    scan.add_argument(
        "--physics",
        action="store_true",
        help="measure projections and reconstruct them (minutes; needs itk-rtk, requirements/physics.txt)",
    )
    scan.add_argument("--views", type=int, default=None, help="projections of one turn, with --physics")
    scan.add_argument("--patient-id", default=None, help="another patient than that of the planning CT")
    scan.add_argument("--patient-name", default=None)
    scan.add_argument("--send", type=peer, default=None, metavar="AE@host:port")
    scan.add_argument("--calling-ae", default="OARM")
    return parser


def join_negative(arguments: Sequence[str]) -> list[str]:
    """Glue `--needle -1,2,3` to `--needle=-1,2,3`, which argparse would take for an unknown option."""
    joined: list[str] = []
    for text in arguments:
        if joined and re.match(r"-[\d.]", text) and re.fullmatch(r"--[a-z-]+", joined[-1]):
            joined[-1] += f"={text}"
        else:
            joined.append(text)
    return joined


def _settings(options: argparse.Namespace) -> ScanSettings:
    names = {"shift": "shift_mm"}
    given = (
        "shift",
        "turn_deg",
        "noise_sd",
        "streaks",
        "grey_maximum",
        "neighbour_mm",
        "neighbour_deg",
        "seed",
    )
    changes = {
        names.get(key, key): getattr(options, key) for key in given if getattr(options, key) is not None
    }
    if options.motion is not None:
        changes["motion"] = Motion(options.motion[:3], options.motion[3], kind=options.motion_kind)
    return small_settings(**changes) if options.small else replace(ScanSettings(), **changes)


def _physics(options: argparse.Namespace) -> PhysicsSettings | None:
    if not options.physics:
        if options.views is not None:
            raise ValueError("--views counts the projections of --physics; give both")
        return None
    machine = small_physics() if options.small else PhysicsSettings()
    return machine if options.views is None else replace(machine, views=options.views)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make, write and perhaps send a scan; returns the exit code (0 ok, 1 not all sent, 2 bad input)."""
    options = _parser().parse_args(join_negative(sys.argv[1:] if arguments is None else arguments))
    try:
        needles = [
            Needle(
                v[:3],
                v[3:],
                diameter_mm=options.diameter,
                tip_shape=options.tip_shape,
                tip_length_mm=options.tip_length,
            )
            for v in options.needle
        ]
        blobs = [Cement(v[:3], radius_mm=v[3], seed=options.seed) for v in options.cement]
        if options.leak_to is not None and blobs:
            blobs[-1] = replace(blobs[-1], leak_to=options.leak_to)
        scan = make_scan(
            options.preop,
            needles=needles,
            cement=blobs,
            settings=_settings(options),
            focus=options.focus,
            physics=_physics(options),
        )
    except (ValueError, PhysicsMissingError) as fault:
        sys.stderr.write(f"oarm: {fault}\n")
        return 2
    folder = write_scan(scan, options.out, patient_id=options.patient_id, patient_name=options.patient_name)
    sys.stdout.write(f"{len(scan.grey)} slices in {folder}\n")
    if options.send is None:
        return 0
    name, host, port = options.send
    results = send_directory(folder, name, host, port, calling_ae=options.calling_ae)
    stored = sum(result.stored for result in results)
    sys.stdout.write(f"{stored} of {len(results)} instances stored\n")
    return 0 if stored == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
