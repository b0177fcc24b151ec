"""The conformance statement has the form of PS3.2 annex N, and its tables say what the node really answers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydicom.uid import UID
from pynetdicom.presentation import build_context

from adapters.dicom_node import association, commitment_content, commitment_reports, contexts, part10
from adapters.dicom_node.holdings import Holding
from service.config import PeerConfig

STATEMENT = Path(__file__).parents[2] / "docs" / "dicom-conformance.md"
TEXT = STATEMENT.read_text("utf-8")


def section(title: str) -> str:
    """From a heading to the next one of any level."""
    found = re.search(rf"^#+ {re.escape(title)}.*?(?=^#+ )", TEXT, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[0]


def test_the_chapters_of_the_template_are_there_in_order() -> None:
    chapters = re.findall(r"^## (.+)$", TEXT, re.MULTILINE)
    assert chapters == [
        "1 Overview",
        "2 Contents",
        "3 Introduction",
        "4 Implementation model",
        "5 Service and interoperability description",
        "6 Configuration",
        "7 Network communication details",
        "8 Security",
        "Annex A Information objects",
        "Annex B Structured report",
        "Annex C Mapping of attributes",
        "Annex D Codes",
    ]


def test_no_generated_part_is_empty() -> None:
    assert not re.findall(r"<!-- generated: [a-z-]+ -->\n<!-- end generated -->", TEXT)


def test_every_class_and_syntax_that_is_negotiated_is_stated() -> None:
    stated = set(re.findall(r"`(1\.2\.840\.10008\.[0-9.]+)`", section("5.2.3 Storage as provider")))
    assert stated == contexts.STORAGE_CLASSES | set(contexts.STORAGE_SYNTAXES)
    assert "1.2.840.10008.1.2.4.94" not in stated, "JPIP referenced"


@pytest.mark.parametrize("name", [contexts.VERIFICATION, contexts.COMMITMENT])
def test_syntaxes_of_the_other_classes_are_the_four_stated(name: str) -> None:
    names = {UID(s).name for s in contexts.syntaxes_for(name)}
    assert names == {UID(str(s)).name for s in build_context(name).transfer_syntax}
    assert len(names) == 4


def _numbers(module: object, prefix: str = "") -> set[str]:
    """Values of the upper-case whole-number constants that are DIMSE statuses."""
    return {
        f"{value:04X}"
        for name, value in vars(module).items()
        if name.isupper() and name.startswith(prefix) and isinstance(value, int) and "MOST" not in name
    }


def test_every_commitment_status_and_reason_is_explained() -> None:
    text = section("5.2.4 Storage commitment as provider")
    statuses = set(re.findall(r"^\| ([0-9A-F]{4}) \| [A-Z]", text, re.MULTILINE))
    reasons = set(re.findall(r"^\| ([0-9A-F]{4}) \| [a-z]", text, re.MULTILINE))
    assert reasons == _numbers(commitment_content, "FAILED_")
    of_events = {"0001", "0002"}  # action and event types
    others = _numbers(commitment_content) - of_events
    assert statuses | reasons == others
    used = {f"{reason:04X}" for reason in commitment_reports._REASONS.values()}
    assert used | {"0122"} == reasons
    assert set(commitment_reports._REASONS) == set(Holding) - {Holding.SAFE}


def test_every_storage_status_is_explained() -> None:
    text = section("5.2.3 Storage as provider")
    for name in (
        "SUCCESS",
        "PROCESSING_FAILURE",
        "CLASS_NOT_SUPPORTED",
        "UNRECOGNISED_OPERATION",
        "OUT_OF_RESOURCES",
        "CLASS_MISMATCH",
        "CANNOT_UNDERSTAND",
    ):
        assert f"{getattr(association, name):04X}" in text


def test_figures_in_the_text_are_those_of_the_code() -> None:
    text = section("5.2.4 Storage commitment as provider")
    pauses = [f"{commitment_reports.pause_s(n):g}" for n in (0, 1, 2)]
    assert (
        f"after {', '.join(pauses[:2])}, {pauses[2]} and up to {commitment_reports.pause_s(99):g} s" in text
    )
    assert f"{commitment_reports._KEPT.total_seconds() / 3600:g} hours" in text
    identity = section("7.1 Association acceptance")
    assert part10.IMPLEMENTATION_CLASS_UID in identity and part10.IMPLEMENTATION_VERSION in identity
    for key in ("tls", "commitment", "roles", "port"):
        assert key in PeerConfig.model_fields
