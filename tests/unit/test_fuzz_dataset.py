"""A short run of the fuzz target of the data set reader, and proof that its seeds reach what is to be tested."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.fuzz import dataset

ROOT = Path(__file__).resolve().parents[2]
FOUND = sorted((Path(__file__).parents[1] / "fixtures" / "dataset").glob("*.bin"))
"""Inputs that once crashed, hung or were misread."""


def test_damaged_files_do_no_harm(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "bench.fuzz",
            "dataset",
            "--cases",
            "600",
            "--seed",
            "7",
            "--save-to",
            str(tmp_path),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"PASS dataset: 600 cases", done.stdout)


@pytest.mark.filterwarnings("ignore")
def test_every_seed_is_read_to_its_last_pixel() -> None:
    shapes = [dataset.read_seed(seed) for seed in dataset.seeds()]
    assert (
        shapes.count((1, 16, 16)) == 6 and shapes.count((1, 32, 32)) == 4 and shapes.count((4, 16, 16)) == 6
    )
    assert len({dataset.transfer_syntax(seed) for seed in dataset.seeds()}) == 10


def test_the_mutator_knows_where_lengths_are() -> None:
    explicit, nested = dataset.units(dataset.seeds()[1]), dataset.units(dataset.seeds()[10])
    assert len(explicit) > 40 and len(nested) > 80


@pytest.mark.parametrize("name", [f.name for f in FOUND])
def test_what_was_found_once_stays_mended(name: str) -> None:
    dataset.one_case((FOUND[0].parent / name).read_bytes())
