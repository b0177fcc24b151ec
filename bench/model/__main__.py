"""python -m bench.model PART [PART ...] | all [--write]: figures as JSON, and in docs/accuracy.md.

Exit code 1 when an acceptance line is not met. Real CT comes from $SPINEPRINT_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from bench.model import broken, gcode, isolation, phantom, shapes, solid, speed, wedge
from bench.model.report import acceptance, write_section

_PARTS = {module.NAME: module for module in (shapes, isolation, wedge, phantom, solid, gcode, broken, speed)}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.model", description=__doc__)
    parser.add_argument("parts", nargs="+", choices=[*_PARTS, "all"], help="one after the other")
    parser.add_argument("--out", type=Path, default=Path("bench-output/model"), help="folder for the JSON")
    parser.add_argument("--write", action="store_true", help="rewrite the measured part of docs/accuracy.md")
    parser.add_argument(
        "--from-json", action="store_true", help="measure nothing: take the figures in the JSON"
    )
    for name, module in _PARTS.items():
        module.add_options(parser.add_argument_group(name))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="bench-model-"))
    good = True
    try:
        for name, module in _PARTS.items():
            if not {name, "all"} & set(options.parts):
                continue
            print(f"== {name}: {module.__doc__}", flush=True)
            kept = options.out / f"{name}.json"
            result = json.loads(kept.read_text("utf-8")) if options.from_json else module.run(options, work)
            lines = module.lines(result)
            document = result | {"cores": os.cpu_count(), "lines": [str(line) for line in lines]}
            kept.write_text(json.dumps(document, indent=1), "utf-8")
            print("\n".join(str(line) for line in lines), flush=True)
            if options.write:
                write_section(name, f"{acceptance(lines)}\n\n{module.page(result)}")
            good &= all(line.met for line in lines)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
