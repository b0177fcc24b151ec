"""The printer's JSON, as told and as it might be told, in our words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.ultimaker.reading import job_from, job_from_history, reading_from, second_core_missing
from service.ports import PrinterState

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "status", "heads", "extruders", "hotend", "id", "active_material", "guid", "GUID",
                    "temperature", "current", "bed", "uuid", "name", "state", "result", "progress",
                    "time_elapsed", "time_total", "pause_source", "datetime_cleaned",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)  # fmt: skip


def job(**changes: object) -> dict[str, Any]:
    return {"uuid": "u-1", "name": "case-1", "state": "printing", "result": "", "pause_source": "", **changes}


@pytest.mark.parametrize(
    ("status", "document", "state"),
    [
        ("idle", None, PrinterState.IDLE),
        ("printing", None, PrinterState.BUSY),
        ("maintenance", None, PrinterState.BUSY),
        ("waiting_for_peripherals", None, PrinterState.BUSY),
        ("booting", None, PrinterState.BOOTING),
        ("error", None, PrinterState.ERROR),
        ("error", job(state="wait_cleanup"), PrinterState.ERROR),
        ("", None, PrinterState.BUSY),
        ("resting", None, PrinterState.BUSY),
        ("printing", job(state="none"), PrinterState.BUSY),
        ("printing", job(state=""), PrinterState.BUSY),
        ("printing", job(state="pre_print"), PrinterState.BUSY),
        ("printing", job(state="post_print", result="Finished"), PrinterState.BUSY),
        ("printing", job(state="wait_cleanup", result="Finished"), PrinterState.AWAITING_REMOVAL),
        ("idle", job(state="wait_cleanup", result="Aborted"), PrinterState.AWAITING_REMOVAL),
        ("idle", job(state="printing"), PrinterState.BUSY),
        ("idle", job(state="none"), PrinterState.BUSY),
        ("idle", job(state="shimmering"), PrinterState.BUSY),
        ("idle", job(state="none", uuid="", name=""), PrinterState.IDLE),
        ("idle", job(state="none", datetime_cleaned="2026-01-02T03:04:05"), PrinterState.IDLE),
        ("printing", job(state="wait_user_action"), PrinterState.NEEDS_PERSON),
        ("printing", job(state="message"), PrinterState.NEEDS_PERSON),
        ("printing", job(state="paused", pause_source="api"), PrinterState.BUSY),
        ("printing", job(state="paused", pause_source="flowsensor"), PrinterState.NEEDS_PERSON),
    ],
)
def test_state_from_status_and_job(status: str, document: object, state: PrinterState) -> None:
    assert reading_from({"status": status}, document, NOW).state is state


@settings(deadline=None, derandomize=True, max_examples=100)
@given(printer=JSON, document=JSON)
def test_odd_content_never_breaks_and_is_never_idle(printer: object, document: object) -> None:
    reading = reading_from(printer, document, NOW)
    job_from_history(document)
    second_core_missing(printer)
    if reading.state is PrinterState.IDLE:
        assert isinstance(printer, dict)
        assert printer["status"] == "idle"


@settings(deadline=None, derandomize=True, max_examples=100)
@given(progress=st.floats() | st.integers() | st.none() | st.booleans() | st.text(max_size=3))
def test_progress_is_a_fraction_or_nothing(progress: object) -> None:
    found = job_from(job(progress=progress))
    assert found is not None
    assert found.progress is None or 0.0 <= found.progress <= 1.0


def test_the_printers_tree_is_read() -> None:
    extruders = [
        {
            "active_material": {"GUID": "506C9F0D-e3aa-4bd4-b2d2-23e2425b1aa9"},
            "hotend": {"id": "AA 0.4", "temperature": {"current": 209.5, "target": 210.0}},
        },
        {"hotend": {"id": ""}},
    ]
    tree = {
        "status": "printing",
        "bed": {"temperature": {"current": 60.1}},
        "heads": [{"extruders": extruders}],
    }
    reading = reading_from(tree, job(progress=0.5, time_elapsed=3011, time_total=7140.0), NOW)
    assert (reading.nozzle_id, reading.nozzle_c, reading.bed_c) == ("AA 0.4", 209.5, 60.1)
    assert reading.material_guid == "506c9f0d-e3aa-4bd4-b2d2-23e2425b1aa9"
    assert second_core_missing(tree)
    assert reading.job is not None
    assert (reading.job.progress, reading.job.time_elapsed_s, reading.job.time_total_s) == (0.5, 3011, 7140)


def test_history_says_null_where_the_job_says_nothing() -> None:
    found = job_from_history({"uuid": "u", "name": "n", "result": None, "datetime_cleaned": None})
    assert found is not None
    assert (found.result, found.cleared, found.state) == ("", False, "")
