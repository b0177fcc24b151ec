"""The configuration: every fault at once, unknown keys are faults, the environment wins."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.config import Config, load_config
from service.errors import ConfigError

GOOD = """
data_dir = "here"
[web]
port = 9000
[dicom]
ae_title = "SPINE"
[[dicom.peers]]
ae_title = "PACS"
host = "10.0.0.5"
port = 104
roles = ["planning_ct", "pacs"]
[[printers]]
name = "um3"
url = "http://10.0.0.9"
credentials_file = "um3.json"
"""


def _load(tmp_path: Path, text: str, **environ: str) -> Config:
    path = tmp_path / "spineprint.toml"
    path.write_text(text, "utf-8")
    return load_config(path, environ)


def _faults(tmp_path: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text, **environ)
    faults = caught.value.details["faults"]
    assert isinstance(faults, list)
    assert all(fault in caught.value.message for fault in faults)
    assert caught.value.exit_code == 2
    return faults


def test_defaults_need_no_file():
    config = load_config(None, {})
    assert config.dicom.ae_title == "SPINEPRINT"
    assert config.web.host == "127.0.0.1"
    assert config.resolved_database_url.endswith("spineprint-data/spineprint.sqlite3")
    assert config.queue_database_url.endswith("queue.sqlite3")


def test_a_good_file(tmp_path: Path):
    config = _load(tmp_path, GOOD)
    assert (config.web.port, config.dicom.peers[0].roles) == (9000, ("planning_ct", "pacs"))
    assert config.printers[0].credentials_file == Path("um3.json")


def test_the_environment_wins(tmp_path: Path):
    config = _load(tmp_path, GOOD, SPINEPRINT_WEB__PORT="9100", SPINEPRINT_DATA_DIR="there", UNRELATED="1")
    assert (config.web.port, config.data_dir) == (9100, Path("there"))


def test_the_environment_names_the_file(tmp_path: Path):
    (tmp_path / "c.toml").write_text(GOOD, "utf-8")
    assert load_config(None, {"SPINEPRINT_CONFIG": str(tmp_path / "c.toml")}).web.port == 9000


def test_variables_of_the_tests_are_no_keys():
    load_config(None, {"SPINEPRINT_DATA": "/x"})


def test_all_faults_at_once(tmp_path: Path):
    text = """
nonsense = 1
log_level = "loud"
database_url = "mysql://x"
[web]
port = 70000
colour = "red"
[dicom]
ae_title = "A TITLE THAT IS TOO LONG"
[[dicom.peers]]
ae_title = "ONE"
host = "a"
port = 104
[[dicom.peers]]
ae_title = "ONE"
host = "b"
port = 104
roles = ["printer"]
[[printers]]
name = "um 3"
url = "http://10.0.0.9"
credentials_file = "x"
[[printers]]
name = "um3"
url = "10.0.0.9"
[model]
shell_mm = 0.1
"""
    faults = _faults(tmp_path, text, SPINEPRINT_WEB__HEIGHT="3", SPINEPRINT_NOPE="1")
    for place in (
        "nonsense: unknown key",
        "log_level",
        "web.port",
        "web.colour: unknown key",
        "web.height: unknown key",
        "environment SPINEPRINT_NOPE: unknown key",
        "dicom.ae_title",
        "dicom.peers.1.roles.0",
        "printers.0.name",
        "printers.1.credentials_file",
        "model.shell_mm",
        "database_url: expected",
    ):
        assert any(place in fault for fault in faults), (place, faults)


def test_contradictions_are_told_together_with_wrong_values(tmp_path: Path):
    """Whoever corrects the port must not learn only then that a printer's name is used twice."""
    twice = GOOD + '[[printers]]\nname = "um3"\nurl = "http://10.0.0.10"\ncredentials_file = "b.json"\n'
    faults = _faults(
        tmp_path,
        twice,
        SPINEPRINT_WEB__PORT="many",
        SPINEPRINT_SIMULATION__ENABLED="true",
        SPINEPRINT_WEB__X="1",
    )
    assert any(f.startswith("web.port") for f in faults)
    assert "web.x: unknown key" in faults
    assert "printers: name 'um3' is used twice" in faults
    assert any("simulation.enabled: not allowed beside devices" in f for f in faults)
    assert len(faults) == len(set(faults)) == 4


def test_each_contradiction_is_a_fault_of_its_own(tmp_path: Path):
    twice = (
        GOOD.replace("10.0.0", "127.0.0")
        + '[[printers]]\nname = "um3"\nurl = "http://x"\ncredentials_file = "b"\n'
    )
    twice += '[[dicom.peers]]\nae_title = "PACS"\nhost = "x"\nport = 1\n'
    assert _faults(tmp_path, twice) == [
        "printers: name 'um3' is used twice", "dicom.peers: 'PACS' is listed twice"
    ]  # fmt: skip


def test_a_simulation_beside_devices_on_this_machine_is_allowed(tmp_path: Path):
    local = GOOD.replace("10.0.0.5", "localhost").replace("10.0.0.9", "127.0.0.1:8080")
    assert _load(tmp_path, local, SPINEPRINT_SIMULATION__ENABLED="true").simulation.enabled


@pytest.mark.parametrize(
    "text",
    ["not toml at all [", "[web]\nport = 1\n[web]\nport = 2\n", "printers = 3\n", "[[web]]\nport = 1\n"],
)
def test_odd_files_are_faults_not_crashes(tmp_path: Path, text: str):
    assert _faults(tmp_path, text, SPINEPRINT_WEB__HOST="h")


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "missing.toml", {})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "binary.toml", {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SPINEPRINT_PRINTERS__0__URL", "http://x"),
        ("SPINEPRINT_PRINTERS", "[]"),
        ("SPINEPRINT_WEB__PORT__X", "1"),
        ("SPINEPRINT_DATA_DIR__X", "1"),
        ("SPINEPRINT_DICOM__PEERS", "PACS"),
        ("SPINEPRINT_WEB", "x"),
        ("SPINEPRINT_", "x"),
    ],
)
def test_environment_that_fits_nothing_is_a_fault(tmp_path: Path, name: str, value: str):
    assert _faults(tmp_path, GOOD, **{name: value})


def test_postgresql_serves_both_databases():
    config = Config(database_url="postgresql+psycopg://u@h/db")
    assert config.resolved_database_url == config.queue_database_url == "postgresql+psycopg://u@h/db"


def test_a_tls_port_without_its_files_is_refused(tmp_path: Path):
    """Silently ignoring it would let IT believe that images travel encrypted."""
    file = tmp_path / "c.toml"
    file.write_text('[dicom]\ntls_port = 2762\ntls_key = "key.pem"\n')
    with pytest.raises(ConfigError, match=r"tls_port: .*tls_certificate, tls_ca"):
        load_config(file, {})


def test_a_peer_called_over_tls_needs_our_certificate(tmp_path: Path):
    file = tmp_path / "c.toml"
    file.write_text('[[dicom.peers]]\nae_title = "PACS"\nhost = "192.0.2.1"\nport = 2762\ntls = true\n')
    with pytest.raises(ConfigError, match="peer with tls needs tls_certificate, tls_key, tls_ca"):
        load_config(file, {})


def test_further_spools_of_pla_may_be_named(tmp_path: Path) -> None:
    spool = "2780B345-577B-4A24-A2C5-12E6AAD3E690"
    config = _load(tmp_path, GOOD + f'materials = ["{spool}"]\n')
    assert config.printers[0].materials == [spool.lower()]
    with pytest.raises(ConfigError, match="materials"):
        _load(tmp_path, GOOD + 'materials = ["white PLA"]\n')
