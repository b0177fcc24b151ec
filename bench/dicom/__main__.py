"""python -m bench.dicom [throughput|kill|slow-clients|all] [options]; exit code 1 when an acceptance line fails."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from bench.dicom import kill, slow_clients, throughput

_PARTS = {"throughput": throughput, "kill": kill, "slow-clients": slow_clients}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.dicom", description=__doc__)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--work", type=Path, help="folder on the disk to measure (default: the temporary folder)"
    )
    parts = parser.add_subparsers(dest="part", required=True)
    for name, module in _PARTS.items():
        module.add_options(parts.add_parser(name, parents=[common], help=module.__doc__))
    everything = parts.add_parser("all", parents=[common], help="one after the other")
    for module in _PARTS.values():
        module.add_options(everything)
    options = parser.parse_args()
    # receivers are ended and folders removed also when the run is cut short
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    work = Path(tempfile.mkdtemp(prefix="bench-dicom-", dir=options.work))
    try:
        results = {}
        for name, module in _PARTS.items():
            if options.part in (name, "all"):
                print(f"== {name}: {module.__doc__}", flush=True)
                results[name] = module.run(options, work / name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print("\n" + ", ".join(f"{name}: {'PASS' if good else 'FAIL'}" for name, good in results.items()))
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
