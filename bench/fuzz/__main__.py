"""python -m bench.fuzz pdu|dataset [--cases N] [--seed N] [--engine atheris]; exit code 1 for a crash, hang or growth.

The cases run in this process, one after the other. What fails is written to a file; `--replay FILE` runs it again.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import random
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, ModuleType

from bench.fuzz.mutate import Mutator, no_units

HANG_CPU_S, HANG_S = 5.0, 60.0
"""Longest one case may compute, and longest it may take: a busy machine alone is no hang."""
GROWTH_LIMIT_MB = 32.0
_WARM_SHARE = 0.1
"""Caches and allocator pools fill in the first part of a run; growth counts from there."""
_LOOK_EVERY = 500
_STUCK_S = 300.0
"""For so many cases together; only code that never returns to Python can use it up."""


class HangError(Exception):
    """One case took longer than `HANG_CPU_S` or `HANG_S`."""


@dataclass
class Result:
    cases: int = 0
    seconds: float = 0.0
    worst_s: float = 0.0
    worst_case: bytes = b""
    rss_start_mb: float = 0.0
    rss_end_mb: float = 0.0
    failures: list[Path] = field(default_factory=list)

    @property
    def grown_mb(self) -> float:
        return self.rss_end_mb - self.rss_start_mb

    @property
    def good(self) -> bool:
        return not self.failures and self.grown_mb < GROWTH_LIMIT_MB


def target(name: str) -> ModuleType:
    return importlib.import_module(f"bench.fuzz.{name}")


def mutator(module: ModuleType, seed: int) -> Mutator:
    return Mutator(
        random.Random(seed),
        module.seeds(),
        getattr(module, "units", no_units),
        words=getattr(module, "WORDS", ()),
    )


def run(
    name: str, cases: int, seed: int, *, save_to: Path, most_failures: int = 20, progress: bool = False
) -> Result:
    """`cases` cases of one target. Every valid seed comes first; damage begins after them."""
    module = target(name)
    damaged = mutator(module, seed)
    result = Result()
    began = time.monotonic()
    said: Counter[str] = Counter()
    warm = max(int(cases * _WARM_SHARE), 1)
    # the machinery of warnings stays as it is in the service (what it remembers is growth), only unprinted
    warnings.showwarning = lambda *_, **__: None
    with watchdog():
        for number in range(cases):
            data = module.seeds()[number] if number < len(module.seeds()) else damaged.case()
            _one(module.one_case, data, result, save_to / name, said)
            result.cases += 1
            if not number % _LOOK_EVERY:
                faulthandler.dump_traceback_later(_STUCK_S, exit=True)
            if number == warm:
                result.rss_start_mb = rss_mb()
            if progress and number % 20_000 == 0 and number:
                print(
                    f"  {number} cases, {number / (time.monotonic() - began):.0f}/s, {rss_mb():.0f} MB",
                    flush=True,
                )
            if len(result.failures) >= most_failures or _grows(result, number, warm):
                break
    getattr(module, "reset", lambda: None)()
    result.seconds = time.monotonic() - began
    result.rss_end_mb = rss_mb()
    result.rss_start_mb = result.rss_start_mb or result.rss_end_mb
    return result


def _one(
    case: Callable[[bytes], None], data: bytes, result: Result, save_to: Path, said: Counter[str]
) -> None:
    start = time.process_time()
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    signal.setitimer(signal.ITIMER_PROF, HANG_CPU_S)
    try:
        case(data)
    except Exception as error:  # noqa: BLE001 - whatever comes out is what is looked for
        _keep(data, error, result, save_to, said)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
    took = time.process_time() - start
    if took > result.worst_s:
        result.worst_s, result.worst_case = took, data


def _keep(data: bytes, error: Exception, result: Result, save_to: Path, said: Counter[str]) -> None:
    """Save one input for each place that fails; later ones at the same place only count."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
    key = f"{type(error).__name__} at {where}"
    said[key] += 1
    if said[key] > 1:
        return
    save_to.mkdir(parents=True, exist_ok=True)
    path = save_to / f"failure-{len(result.failures) + 1:02}-{type(error).__name__}.bin"
    path.write_bytes(data)
    result.failures.append(path)
    print(f"FAILURE {key}\n  input: {path} ({len(data)} bytes)", file=sys.stderr)
    traceback.print_exception(error, file=sys.stderr)
    sys.stderr.flush()


def _grows(result: Result, number: int, warm: int) -> bool:
    """Stop long before the machine runs out of memory."""
    return number > warm and not number % _LOOK_EVERY and rss_mb() - result.rss_start_mb > 8 * GROWTH_LIMIT_MB


def rss_mb() -> float:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096 / (1 << 20)


@contextmanager
def watchdog() -> Iterator[None]:
    """A case that hangs in Python is interrupted; one that hangs below it prints its stack and ends the process."""

    def on_alarm(number: int, _: FrameType | None) -> None:
        if number == signal.SIGPROF:
            raise HangError(f"computed for more than {HANG_CPU_S:g} s")
        raise HangError(f"took longer than {HANG_S:g} s")

    before = {number: signal.signal(number, on_alarm) for number in (signal.SIGALRM, signal.SIGPROF)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        faulthandler.cancel_dump_traceback_later()


def replay(module: ModuleType, path: Path) -> int:
    faulthandler.dump_traceback_later(2 * HANG_S, exit=True)
    module.one_case(path.read_bytes())
    faulthandler.cancel_dump_traceback_later()
    print("nothing went wrong")
    return 0


def with_atheris(options: argparse.Namespace) -> int:
    """Coverage-guided, when that package is installed; libFuzzer's own messages and files."""
    try:
        import atheris  # type: ignore[import-not-found]
    except ImportError:
        print("atheris is not installed (pip install atheris); use the default engine", file=sys.stderr)
        return 2
    with atheris.instrument_imports(include=["adapters.dicom_node", "service.imaging", "pynetdicom.pdu"]):
        module = target(options.target)
    warnings.showwarning = lambda *_, **__: None
    damaged = mutator(module, options.seed)

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        if seed % 3:
            return bytes(atheris.Mutate(data, size))
        return damaged.case()[:size]

    folder = options.save_to / options.target
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(module.seeds()):
        (corpus / f"seed-{number}").write_bytes(data)
    arguments = [sys.argv[0], f"-runs={options.cases}", f"-seed={options.seed}", "-max_len=65536",
                 f"-timeout={HANG_S:.0f}", f"-artifact_prefix={folder}/", str(corpus)]  # fmt: skip
    atheris.Setup(arguments, module.one_case, custom_mutator=mutate)
    atheris.Fuzz()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz", description=__doc__)
    parser.add_argument("target", choices=("pdu", "dataset"))
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", choices=("own", "atheris"), default="own")
    parser.add_argument("--save-to", type=Path, default=Path("fuzz-failures"))
    parser.add_argument("--replay", type=Path, help="run one saved input")
    options = parser.parse_args()
    faulthandler.enable()
    if options.replay:
        return replay(target(options.target), options.replay)
    if options.engine == "atheris":
        return with_atheris(options)
    result = run(options.target, options.cases, options.seed, save_to=options.save_to, progress=True)
    print(
        f"{'PASS' if result.good else 'FAIL'} {options.target}: {result.cases} cases, seed {options.seed},"
        f" {result.cases / result.seconds:.0f}/s, slowest {result.worst_s * 1000:.0f} ms CPU,"
        f" RSS {result.rss_start_mb:.0f} MB to {result.rss_end_mb:.0f} MB, {len(result.failures)} failure(s)"
    )
    return 0 if result.good else 1


if __name__ == "__main__":
    raise SystemExit(main())
