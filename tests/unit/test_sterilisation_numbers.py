"""`[sterilisation]`: values with mark and source, contradictions found at the start, shown, and noted when changed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.config import load_config
from service.domain.sterilisation_settings import SterilisationSettings
from service.domain.sterilisation_settings_check import faults, remarks
from service.errors import ConfigError
from service.store import audit
from service.store.database import reading
from service.workflow import identity, sterile_settings
from tests.support_api import web_over
from tests.support_app import PASSWORD, Rig, add_people, make_rig

OWN = 'mark = "S", source = "report 7"'


def load(tmp_path: Path, text: str, **environ: str) -> SterilisationSettings:
    file = tmp_path / "c.toml"
    file.write_text(text, "utf-8")
    return load_config(file, environ).sterilisation.settings()


def refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    return error.value.message


def test_built_in_numbers_fit_together_and_each_has_mark_and_source() -> None:
    site = SterilisationSettings()
    assert faults(site) == []
    rows = sterile_settings.rows(site)
    assert len(rows) > 50
    assert all(row.mark in sterile_settings.MARKS and row.source and row.value for row in rows)
    # every field of the settings that is a number is a constant with its provenance
    tables = {"cycles", "aeration", "indicators", "materials", "role_holders", "stated"}
    assert set(site.__dataclass_fields__) - tables == set(site.constants())


def test_numbers_without_a_file_are_the_built_in_ones() -> None:
    site = load_config(None, {}).sterilisation.settings()
    built_in = SterilisationSettings()
    for name in built_in.__dataclass_fields__:
        if name != "stated":
            assert getattr(site, name) == getattr(built_in, name), name
    assert site.constants() == built_in.constants()


def test_a_site_sets_values_with_its_own_evidence(tmp_path: Path) -> None:
    text = f"""
[sterilisation]
ct_max_age_days = {{ value = 21.0, {OWN} }}
channel_mm = {{ value = [2.6, 3.2], {OWN} }}
[[sterilisation.cycles]]
name = "GS5_COOL"
low_c = 38.0
high_c = 38.0
exposure_min = 280.0
mark = "S"
source = "validation 3"
[[sterilisation.materials]]
name = "PETG"
max_process_c = 60.0
mark = "S"
source = "validation 4"
"""
    site = load(tmp_path, text)
    assert (site.ct_max_age_days, site.channel_mm) == (21.0, (2.6, 3.2))
    assert (site.constants()["ct_max_age_days"].mark, site.constants()["ct_max_age_days"].source) == (
        "S",
        "report 7",
    )
    cycle = site.cycle("GS5_COOL")
    assert cycle is not None and (cycle.exposure_min, cycle.tolerance_c) == (280.0, None)
    assert len(site.cycles) == len(SterilisationSettings().cycles)
    assert {m.name for m in site.materials} == {"PLA", "PETG"}


def test_the_environment_takes_the_same_table_as_json(tmp_path: Path) -> None:
    value = '{"value": 3.5, "mark": "S", "source": "theatre plan"}'
    assert load(tmp_path, "", SPINEPRINT_STERILISATION__ISSUE_H=value).issue_h == 3.5
    rows = '[{"from_c": 37, "hours": 40, "mark": "S", "source": "x"}]'
    site = load(tmp_path, "", SPINEPRINT_STERILISATION__AERATION=rows)
    assert [(r.from_c, r.hours) for r in site.aeration] == [(37.0, 40.0)]  # the whole table is replaced


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ct_max_age_days = 21.0", "ct_max_age_days"),
        ("ct_max_age_days = { value = 21.0 }", "source"),
        ('issue_h = { value = -1.0, mark = "S", source = "x" }', "issue_h"),
        ('issue_h = { value = 3.0, mark = "Z", source = "x" }', "issue_h.mark"),
        ('issue_h = { value = 3.0, mark = "S", source = "our proposal" }', "issue_h: the value is changed"),
        ('channel_mm = { value = [3.0, 2.0], mark = "S", source = "x" }', "channel_mm: the lower end"),
        ('channel_mm = { value = [3.0, 4.0], mark = "S", source = "x" }', "model.channel_diameter_mm: 2.8 is outside"),
        ('min_opening_mm = { value = 3.5, mark = "S", source = "x" }', "model.vent_diameter_mm: 3.4 is below 3.5"),
        ('plan_cycle = { value = "HOT", mark = "S", source = "x" }', "plan_cycle: 'HOT' is not among"),
        ('plan_cycle = { value = "GS5_WARM", mark = "S", source = "x" }', "no material allows more than 45"),
        ('plan_aeration_c = { value = 12.0, mark = "S", source = "x" }', "never complete"),
        ('return_to_service_cycles = { value = 0, mark = "S", source = "x" }', "at least one negative"),
        ("early_release = true", "early_release: unknown key"),
    ],
)  # fmt: skip
def test_contradictions_are_faults_at_the_start(tmp_path: Path, text: str, said: str) -> None:
    assert said in refused(tmp_path, f"[sterilisation]\n{text}\n")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"materials": 'name = "PLA"\nmax_process_c = 60.0\nmark = "P"\nsource = "x"'}, "materials.PLA: above 45"),
        ({"indicators": 'name = "X"\nhours = 4.0\nmark = "S"\nsource = "x"'}, "indicators.X: give the incubation"),
        ({"aeration": 'from_c = 37.0\nhours = 0.0\nmark = "S"\nsource = "x"'}, "must be above 0"),
        ({"cycles": 'name = "X"\nlow_c = 40.0\nhigh_c = 38.0\nexposure_min = 1.0\nmark = "S"\nsource = "x"'},
         "cycles.X: low_c is above"),
        ({"cycles": 'name = "X"\nlow_c = 38.0\nhigh_c = 38.0\nexposure_min = 1.0\nmark = "S"\nsource = "x"\ndose = 1'},
         "unknown key"),
    ],
)  # fmt: skip
def test_contradictions_in_the_tables(tmp_path: Path, table: dict[str, str], said: str) -> None:
    ((key, body),) = table.items()
    assert said in refused(tmp_path, f"[[sterilisation.{key}]]\n{body}\n")


def test_more_hours_when_warmer_is_a_fault(tmp_path: Path) -> None:
    row = '[[sterilisation.aeration]]\nfrom_c = {}\nhours = {}\nmark = "S"\nsource = "x"\n'
    assert "60 °C asks for more hours than 37 °C" in refused(
        tmp_path, row.format("37.0", "10.0") + row.format("60.0", "20.0")
    )


def test_pla_above_its_limit_needs_the_sites_own_evidence(tmp_path: Path) -> None:
    text = '[[sterilisation.materials]]\nname = "PLA"\nmax_process_c = 56.0\nmark = "S"\nsource = "validation 9"\n'
    pla = load(tmp_path, text).material("pla")
    assert pla is not None and (pla.max_process_c, pla.source) == (56.0, "validation 9")


def test_remarks_name_what_the_site_must_supply() -> None:
    site = SterilisationSettings()
    said = {c.name: " ".join(remarks(c)) for c in site.cycles}
    assert said["GS5_COOL"] == said["EOGAS4_3H"] == ""
    assert "refused until the site supplies it" in said["AN75_12H"]
    assert "labelling wins" in said["AN75_12H"]


def page(rig: Rig) -> TestClient:
    add_people(rig.app, "cssd-technician")
    secret, _, _ = identity.log_in(rig.app, "cssd-technician", PASSWORD)
    return TestClient(web_over(rig.app), headers={"Authorization": f"Bearer {secret}"})


def test_page_and_api_show_what_is_in_force(tmp_path: Path) -> None:
    own: dict[str, Any] = {"value": 21.0, "mark": "S", "source": "board <12 May>"}
    rig = make_rig(tmp_path, sterilisation={"ct_max_age_days": own})
    client = page(rig)
    rows = {r["name"]: r for r in client.get("/api/v1/sterilisation/settings").json()}
    assert (rows["ct_max_age_days"]["value"], rows["ct_max_age_days"]["mark"]) == ("21 days", "S")
    html = client.get("/cssd/settings").text
    assert "board &lt;12 May&gt;" in html
    assert len(re.findall(r"<tr data-name=", html)) == len(rows)
    rig.app.engine.dispose()


def test_a_changed_set_of_numbers_is_written_into_the_audit_chain(tmp_path: Path) -> None:
    rig = make_rig(tmp_path)
    assert sterile_settings.note_settings(rig.app) is True
    assert sterile_settings.note_settings(rig.app) is False  # a restart changes nothing
    changed = make_rig(
        tmp_path / "changed", sterilisation={"issue_h": {"value": 3.0, "mark": "S", "source": "x"}}
    )
    other = replace(rig.app, config=changed.app.config)
    changed.app.engine.dispose()
    assert sterile_settings.note_settings(other) is True
    with reading(rig.app.engine) as connection:
        lines = audit.history(connection, "settings:sterilisation")
    assert len(lines) == 2
    assert any(r["name"] == "issue_h" and r["value"] == "3 h" for r in lines[-1].data["rows"])  # type: ignore[attr-defined]
    rig.app.engine.dispose()
