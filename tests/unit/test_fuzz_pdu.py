"""A short run of the fuzz target of the PDU reader, and proof that the driver notices what it is there for."""

from __future__ import annotations

import mmap
import random
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from bench.fuzz import __main__ as driver
from bench.fuzz import pdu
from bench.fuzz.mutate import Mutator, Unit

ROOT = Path(__file__).resolve().parents[2]


def test_damaged_conversations_do_no_harm(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "bench.fuzz",
            "pdu",
            "--cases",
            "3000",
            "--seed",
            "11",
            "--save-to",
            str(tmp_path),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"PASS pdu: 3000 cases", done.stdout)


@pytest.mark.parametrize(
    "found", sorted((Path(__file__).parent / "fuzz_pdu").iterdir()), ids=lambda p: p.stem
)
def test_what_once_went_wrong(found: Path) -> None:
    """Inputs that the fuzzer found, named after what is wrong with them."""
    pdu.one_case(found.read_bytes())


def test_valid_conversations_reach_what_is_to_be_tested() -> None:
    """Otherwise the fuzzer would only ever try the door."""
    pdu.reset()
    for seed in pdu.seeds():
        pdu.one_case(seed)
    counts = pdu.counts()
    assert counts["associations"] == len(pdu.seeds()) - 1  # one calls another title
    assert counts["echoes"] == 4
    assert counts["kept"] == 7
    assert not [kind for kind in counts if kind.startswith("refused") or kind == "faults"]
    pdu.reset()


@pytest.mark.parametrize(
    "answers",
    [
        b"\2",  # cut off in its header
        b"\4\0\0\0\0\x0a" + bytes(9),  # shorter than it says
        b"\1\0\0\0\0\4" + bytes(4),  # a type that only requestors send
        (b"\7\0\0\0\0\4" + bytes(4)) * 2,  # something after the last word
    ],
)
def test_broken_answers_are_noticed(answers: bytes) -> None:
    with pytest.raises(AssertionError):
        pdu.check_answers(answers)


def run_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: object, cases: int = 20) -> driver.Result:
    module = types.SimpleNamespace(one_case=case, seeds=lambda: (b"seed",))
    monkeypatch.setattr(driver, "target", lambda _: module)
    return driver.run("own", cases, 1, save_to=tmp_path)


def test_a_crash_is_kept_once_with_its_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def crash(data: bytes) -> None:
        if data == b"seed":
            raise KeyError(data)

    result = run_on(monkeypatch, tmp_path, crash)
    assert not result.good
    assert [p.read_bytes() for p in result.failures] == [b"seed"]


@pytest.mark.parametrize("limit", ["HANG_S", "HANG_CPU_S"])
def test_a_hang_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str) -> None:
    monkeypatch.setattr(driver, limit, 0.2)

    def hang(_: bytes) -> None:
        while True:
            pass

    result = run_on(monkeypatch, tmp_path, hang, cases=2)
    assert not result.good
    assert "HangError" in result.failures[0].name


def test_growth_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept = []

    def grow(_: bytes) -> None:
        # straight from the kernel: a long-lived test process may have as much free in its heap
        kept.append(mmap.mmap(-1, 4 << 20))
        kept[-1].write(b"x" * (4 << 20))

    result = run_on(monkeypatch, tmp_path, grow)
    assert result.grown_mb > driver.GROWTH_LIMIT_MB
    assert not result.good


def test_the_same_seed_gives_the_same_cases() -> None:
    def cases(seed: int) -> list[bytes]:
        mutator = Mutator(random.Random(seed), pdu.seeds(), pdu.units, words=pdu.WORDS)
        return [mutator.case() for _ in range(50)]

    assert cases(3) == cases(3) != cases(4)


def test_lengths_around_a_change_can_be_kept_right() -> None:
    """A part doubled inside two others: both grow, so that the reader gets as far as the change."""
    data = bytes([6, 1, 3, 1, 2, 3, 9])  # length 6: a byte, a part of length 3, a byte
    units = (Unit(0, 7, 0, 1), Unit(2, 6, 2, 1))
    mutator = Mutator(random.Random(0), [data], lambda _: units)
    damaged = bytearray(data)
    mutator._put(damaged, units, 5, 6, b"\7\7\7", always=True)
    assert bytes(damaged) == bytes([8, 1, 5, 1, 2, 7, 7, 7, 9])
