"""The simulator's own parts: its G-code reader, its heaters, its machine, its digest."""

from __future__ import annotations

import gzip
import hashlib

import pytest

from simulators.ultimaker.auth import DeniedError, Gatekeeper
from simulators.ultimaker.clock import MachineClock
from simulators.ultimaker.gcode import plain_bytes, read_gcode
from simulators.ultimaker.heat import Heater
from simulators.ultimaker.machine import BusyError, Machine
from simulators.ultimaker.options import Options
from tests.support_ultimaker import small_gcode

REQUIRED = [
    line
    for line in small_gcode().split(";END_OF_HEADER")[0].splitlines()
    if not line.startswith(
        (";START_OF", ";EXTRUDER_TRAIN.0.MATERIAL.GUID", ";EXTRUDER_TRAIN.0.NOZZLE.NAME", ";BUILD_PLATE.TYPE",
         ";PRINT.GROUPS")
    )
]  # fmt: skip


def test_gzip_of_many_members_is_read() -> None:
    text = small_gcode()
    packed = b"".join(gzip.compress(line.encode()) for line in text.splitlines(keepends=True))
    assert plain_bytes(packed).decode() == text
    assert plain_bytes(text.encode()).decode() == text
    with pytest.raises(ValueError, match="gzip"):
        plain_bytes(packed[:-5])


@pytest.mark.parametrize("line", REQUIRED)
def test_each_required_header_line_is_missed(line: str) -> None:
    text = small_gcode()
    assert read_gcode(text.encode()).header_faults == ()
    assert read_gcode(text.replace(line + "\n", "", 1).encode()).header_faults != ()


def test_layers_times_and_temperatures_come_from_the_file() -> None:
    text = small_gcode(layers=5, seconds=1000).replace(";LAYER:3\n", "M104 S195\n;LAYER:3\n")
    found = read_gcode(text.encode())
    assert [layer.number for layer in found.layers] == [0, 1, 2, 3, 4]
    assert [layer.end_s for layer in found.layers] == pytest.approx([200, 400, 600, 800, 1000])
    assert found.layers[4].z_mm == pytest.approx(1.0)
    assert found.nozzle_target_at(100) == 210
    assert found.nozzle_target_at(700) == 195
    layer = found.layer_at(450)
    assert layer is not None
    assert layer.number == 2
    assert found.filament_mm == pytest.approx(5.0)


def test_without_the_slicers_times_the_moves_are_timed() -> None:
    text = "\n".join(
        line
        for line in small_gcode(layers=1).splitlines()
        if not line.startswith((";TIME_ELAPSED", ";PRINT.TIME"))
    )
    # 4 sides of 20 mm at 50 mm/s, and the way to the first corner at 150 mm/s
    assert read_gcode(text.encode()).duration_s == pytest.approx(1.6 + 127.28 / 150, abs=0.01)


def test_heaters_climb_steadily_and_cool_slowly() -> None:
    heater = Heater(rate_c_s=2.0, cooling_tau_s=100.0, ambient_c=20.0)
    heater.set_target(100.0, now_s=0.0)
    assert heater.seconds_to(100.0, 0.0) == 40.0
    assert [heater.current_c(t) for t in (0, 10, 40, 90)] == [20.0, 40.0, 100.0, 100.0]
    heater.set_target(0.0, now_s=100.0)
    assert heater.current_c(200.0) == pytest.approx(20 + 80 / 2.71828, abs=0.01)


def _machine(**options: object) -> Machine:
    made = Options()
    for name, value in options.items():
        made.change(name, value)
    return Machine(made, MachineClock(0.0))


def test_one_long_sleep_passes_every_transition_at_its_own_instant() -> None:
    gcode = read_gcode(small_gcode(seconds=600).encode())
    ends = []
    for steps in (1, 400):
        machine = _machine()
        base = machine.now_s()
        machine.start(gcode, "n", "u", "a", {})
        for _ in range(steps):
            machine.clock.advance(2000 / steps)
            machine.advance()
        assert machine.job is not None
        assert machine.job.phase == "wait_cleanup"
        assert machine.job.finished_s is not None
        ends.append(machine.job.finished_s - base)
        assert machine.job.elapsed_s(machine.now_s()) == 600
    assert ends[0] == pytest.approx(ends[1], abs=0.01)


def test_the_plate_keeps_the_machine_until_a_person_clears_it() -> None:
    gcode = read_gcode(small_gcode().encode())
    machine = _machine()
    machine.start(gcode, "n", "u", "a", {})
    machine.clock.advance(1e6)
    with pytest.raises(BusyError):
        machine.start(gcode, "n2", "u", "a", {})
    assert machine.clear_plate()
    assert not machine.clear_plate()
    machine.start(gcode, "n2", "u", "a", {})
    assert [s["name"] for s in machine.ledger] == ["n", "n2"]
    assert [e["type_id"] for e in machine.history.events] == [131072, 131077, 131076, 131072]


def test_a_bad_header_can_be_accepted_and_fail_at_once() -> None:
    machine = _machine(on_bad_header="fail")
    machine.start(read_gcode(b"G28\n"), "n", "u", "a", {})
    machine.clock.advance(5)
    machine.advance()
    assert machine.job is not None
    assert machine.job.result == "Failed"


def test_after_a_power_cut_the_job_may_come_back_for_clean_up() -> None:
    machine = _machine(after_power_cut="reboot_job")
    machine.start(read_gcode(small_gcode().encode()), "n", "u", "a", {})
    machine.clock.advance(500)
    machine.power_off()
    assert not machine.answering
    machine.power_on()
    machine.clock.advance(100)
    machine.advance()
    assert machine.job is not None
    shown = machine.job.view(machine.now_s(), early=False)
    assert (shown["state"], shown["source"], shown["result"]) == ("wait_cleanup", "Reboot", "")


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def _answer(gate: Gatekeeper, user: str, key: str, *, count: str = "00000001", uri: str = "/u") -> str:
    nonce = gate.challenge().split('nonce="')[1].split('"')[0]
    return _with_nonce(nonce, user, key, count=count, uri=uri)


def _with_nonce(nonce: str, user: str, key: str, *, count: str, uri: str = "/u") -> str:
    response = _md5(f"{_md5(f'{user}:Jedi-API:{key}')}:{nonce}:{count}:abc:auth:{_md5(f'GET:{uri}')}")
    return (
        f'Digest username="{user}", realm="Jedi-API", nonce="{nonce}", uri="{uri}", '
        f'response="{response}", qop=auth, nc={count}, cnonce="abc"'
    )


def test_digest_lets_in_only_the_right_answer() -> None:
    gate = Gatekeeper(Options(auto_allow=True))
    client = gate.request("app", "user")
    assert gate.admit(_answer(gate, client.id, client.key), "GET", "/u") is client
    for header in (
        "",
        "Basic abc",
        "Digest nonsense",
        _answer(gate, client.id, "wrong"),
        _answer(gate, "nobody", client.key),
        _answer(gate, client.id, client.key, uri="/other"),
        _answer(gate, client.id, client.key).replace('realm="Jedi-API"', 'realm="x"'),
    ):
        with pytest.raises(DeniedError):
            gate.admit(header, "GET", "/u")
    with pytest.raises(DeniedError):
        gate.admit(_answer(gate, client.id, client.key), "POST", "/u")


def test_nonces_age_and_counts_may_be_checked() -> None:
    now = [0.0]
    gate = Gatekeeper(Options(auto_allow=True, check_nc=True), now=lambda: now[0])
    client = gate.request("app", "user")
    nonce = gate.challenge().split('nonce="')[1].split('"')[0]
    first = _with_nonce(nonce, client.id, client.key, count="00000001")
    gate.admit(first, "GET", "/u")
    with pytest.raises(DeniedError):
        gate.admit(first, "GET", "/u")
    gate.admit(_with_nonce(nonce, client.id, client.key, count="00000002"), "GET", "/u")
    now[0] = 301.0
    with pytest.raises(DeniedError) as caught:
        gate.admit(_with_nonce(nonce, client.id, client.key, count="00000003"), "GET", "/u")
    assert caught.value.stale


def test_an_exclusion_key_replaces_the_earlier_client() -> None:
    gate = Gatekeeper(Options(auto_allow=True))
    first = gate.request("app", "user", "one-only")
    second = gate.request("app", "user", "one-only")
    other = gate.request("app", "user")
    assert set(gate.clients) == {second.id, other.id}
    assert first.id not in gate.clients


@pytest.mark.parametrize("sensor", [False, True])
def test_an_empty_spool_goes_unnoticed_unless_there_is_a_sensor(sensor: bool) -> None:
    gcode = read_gcode(small_gcode(layers=5, seconds=1000).encode())
    machine = _machine(filament_sensor=sensor)
    machine.start(gcode, "n", "u", "a", {})
    while machine.job is None or machine.job.phase != "printing":
        machine.clock.advance(1)
        machine.advance()
    machine.clock.advance(450)
    machine.filament_out()
    machine.clock.advance(60)
    machine.advance()
    assert machine.ledger[-1]["plastic_until_layer"] == 2
    assert machine.job.phase == ("paused" if sensor else "printing")
    assert machine.slots[0].material, "the chip on the spool is no witness"
    machine.filament_in()
    machine.resume()
    machine.clock.advance(5000)
    machine.advance()
    assert machine.job.result == "Finished"
    assert machine.ledger[-1]["plastic_until_layer"] == 2
    machine.clear_plate()
    machine.filament_out()
    machine.start(gcode, "n", "u", "a", {})
    assert machine.ledger[-1]["plastic_until_layer"] == 0
