"""The generated parts of the documentation follow the code, and the pages point at things that exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from service.domain.case import RULES, CaseState

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_parts_are_current(generate: ModuleType) -> None:
    behind = [str(p.relative_to(ROOT)) for p in generate.behind()]
    assert not behind, f"{behind}: run `.venv/bin/python docs/generate.py`"


def test_every_part_is_used_once(generate: ModuleType) -> None:
    text = "\n".join(p.read_text("utf-8") for p in generate.pages())
    used = re.findall(r"<!-- generated: ([a-z-]+) -->", text)
    assert sorted(used) == sorted(generate.PARTS)


def test_a_changed_part_is_noticed(generate: ModuleType) -> None:
    text = "before\n<!-- generated: print-states -->\nsomething old\n<!-- end generated -->\nafter"
    new = generate.renewed(text)
    assert "something old" not in new and "AWAITING_REMOVAL" in new
    assert new.startswith("before\n") and new.endswith("\nafter")
    assert generate.renewed(new) == new


def test_tables_of_the_case_name_every_event_and_state(generate: ModuleType) -> None:
    text = generate.case_events()
    assert all(f"`{event.value}`" in text for event in RULES)
    assert all(state.value in text for state in CaseState)


def test_error_codes_are_found_with_message_and_next_step(generate: ModuleType) -> None:
    rows = {
        line.split("`")[1]: line for line in generate.error_codes().splitlines() if line.startswith("| `")
    }
    assert len(rows) > 80
    assert "build plate" not in rows["print.not_started"]
    assert "Resume the case and start the print again." in rows["print.not_started"]  # by keyword
    assert "Register the patient at the O-arm" in rows["scan.no_patient"]  # as a tuple
    assert "Export the mask with the geometry of this CT." in rows["imaging.mask_place"]  # by position


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) + re.findall(
        r'(?:src|href|srcset)="([^"#]+)"', text
    )
    local = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    missing = [link for link in local if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_tests_named_in_code_style_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:service|adapters|simulators|tests|deploy|docs|bench)/[A-Za-z0-9_./-]+?)`",
        page.read_text("utf-8"),
    )
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing
