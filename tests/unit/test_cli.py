"""What somebody at the terminal is told when a command cannot do its work."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trimesh

from service.geometry.mesh import write_stl


def _run(*arguments: str, folder: Path) -> tuple[int, str]:
    """Exit code and all text of one command, on one line."""
    done = subprocess.run(
        [sys.executable, "-m", "service.cli", *arguments],
        cwd=folder, text=True, capture_output=True, check=False, timeout=280,
        env={k: v for k, v in os.environ.items() if not k.startswith("SPINEPRINT_")} | {"COLUMNS": "500"},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        # A name in square brackets is text, not a style.
        (("printer", "pair", "p1"), 2, "Add [[printers]] first."),
        (("audit-gcode", "file.gcode", "--case", "empty"), 2, "lacks print.stl"),
        (("send", "empty", "--to", "PACS@127.0.0.1:99999"), 2, "AE@host:port"),
        (("send", "empty", "--to", "PACS@127.0.0.1:104"), 2, "no DICOM image in empty"),
        (("backup", "missing/b.tar"), 1, "'missing"),
    ],
)
def test_a_command_says_what_where_and_the_next_step(
    tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.gcode").write_text("G28\n", "utf-8")
    if arguments[0] == "backup":
        assert _run("migrate", folder=tmp_path)[0] == 0
    found, text = _run(*arguments, folder=tmp_path)
    assert found == code, text
    assert said in text and "Next:" in text and "Traceback" not in text


def test_the_database_is_for_its_user_only(tmp_path: Path):
    assert _run("migrate", folder=tmp_path)[0] == 0
    mode = (tmp_path / "spineprint-data" / "spineprint.sqlite3").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_a_taken_web_port_is_named(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "c.toml").write_text(f"[web]\nport = {port}\n", "utf-8")
        code, text = _run("serve", "--role", "web", "--config", "c.toml", folder=tmp_path)
    assert code == 2
    assert f"The web port {port} cannot be opened." in text and "[web]" in text


def test_slicing_without_an_engine_names_the_meshes_and_writes_the_settings_beside_them(tmp_path: Path):
    case = tmp_path / "case"
    case.mkdir()
    part = trimesh.creation.box((20, 12, 8)).apply_translation((0, 0, 4))
    for name in ("model.stl", "print.stl"):
        write_stl(part.vertices, part.faces, case / name)
    matrix = trimesh.transformations.identity_matrix().tolist()
    (case / "print.json").write_text(json.dumps({"print_from_lps": matrix}), "utf-8")
    (case / "plan.json").write_text("{}", "utf-8")
    report = {"passed": True, "failures": [], "plan_sha256": hashlib.sha256(b"{}").hexdigest()}
    (case / "report.json").write_text(json.dumps(report), "utf-8")
    (tmp_path / "c.toml").write_text(f'[slicer]\nengine = "{tmp_path}/none"\n', "utf-8")
    code, text = _run("slice", "--case", str(case), "--out", "o.gcode", "--config", "c.toml", folder=tmp_path)
    assert code == 1, text
    assert "apt-get install cura-engine" in text
    assert (
        f"slice print.stl by hand in Cura with the settings in print.settings.json; all are in {case}."
        in text
    )
    assert json.loads((case / "print.settings.json").read_text("utf-8"))["print"]["bed_c"] == 60
    assert not (tmp_path / "o.gcode").exists()


@pytest.mark.parametrize(
    ("report", "words"),
    [
        ({"passed": False, "failures": ["1 sealed cavity."], "plan_sha256": ""}, "checks. 1 sealed cavity."),
        ({"passed": True, "failures": [], "plan_sha256": "0" * 64}, "about another plan"),
        ({"passed": True}, "cannot be read"),
        ([], "cannot be read"),
        (None, "lacks report.json"),
    ],
)
def test_a_model_that_failed_its_checks_is_not_sliced(tmp_path: Path, report: object, words: str):
    for name in ("plan.json", "print.json", "model.stl", "print.stl"):
        (tmp_path / name).write_text("{}", "utf-8")
    if report is not None:
        (tmp_path / "report.json").write_text(json.dumps(report), "utf-8")
    code, text = _run("slice", "--case", str(tmp_path), "--out", "o.gcode", folder=tmp_path)
    assert code == 2 and words in text, text
    assert not (tmp_path / "o.gcode").exists()
