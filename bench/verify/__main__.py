"""python -m bench.verify PART [options], PART a key of `_PARTS` or `all`; exit code 1 when an acceptance line fails."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from pathlib import Path

from bench.verify import accuracy, cement, heights, physics, refusals, service, speed, tips, tips_in_cement
from bench.verify.cases import SEEDS
from bench.verify.page import Tee, put

_PARTS = {
    "tips": tips,
    "tips_in_cement": tips_in_cement,
    "accuracy": accuracy,
    "cement": cement,
    "heights": heights,
    "refusals": refusals,
    "speed": speed,
    "service": service,
    "physics": physics,
}
#: Needs more than the test set-up has, so it is run by its name only.
_APART = ("physics",)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.verify", description=__doc__)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--work", type=Path, help="folder for prepared anatomies, kept for the next run")
    common.add_argument("--set", choices=tuple(SEEDS), default="acceptance")
    common.add_argument("--jobs", type=int, default=1, help="processes (2 at most on a quiet machine)")
    common.add_argument(
        "--rows",
        type=Path,
        help="keep every scan's figures in this file (JSON lines) and go on where it ends",
    )
    common.add_argument(
        "--write", type=Path, help="put the tables into this page, between its markers PART-SET"
    )
    parts = parser.add_subparsers(dest="part", required=True)
    for name, module in _PARTS.items():
        module.add_options(parts.add_parser(name, parents=[common], help=module.__doc__))
    everything = parts.add_parser("all", parents=[common], help="one after the other")
    for name, module in _PARTS.items():
        if name not in _APART:
            module.add_options(everything)
    options = parser.parse_args()
    if options.jobs > 1:
        os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="bench-verify-") as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        results = {}
        for name, module in _PARTS.items():
            if options.part == name or (options.part == "all" and name not in _APART):
                print(f"== {name} ({options.set} set): {module.__doc__}", flush=True)
                tee = Tee()
                with contextlib.redirect_stdout(tee):
                    results[name] = module.run(options, work)
                if options.write:
                    put(options.write, f"{name}-{options.set}", tee.text())
    print("\n" + ", ".join(f"{name}: {'PASS' if good else 'FAIL'}" for name, good in results.items()))
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
