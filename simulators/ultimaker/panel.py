"""The person at the printer, and the experimenter: under /panel, which no real printer has."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request

from simulators.ultimaker import tree
from simulators.ultimaker.auth import Client
from simulators.ultimaker.faults import EVENTS, TOLD, WIRE, Fault
from simulators.ultimaker.job import EVENT_KEY_ADDED
from simulators.ultimaker.machine import BusyError
from simulators.ultimaker.simulator import Simulator
from simulators.ultimaker.web import ApiError, payload, sim_of

router = APIRouter(prefix="/panel")


async def _given(request: Request) -> dict[str, Any]:
    given = await payload(request)
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise ApiError(400, "a JSON object is expected")
    return given


def _done(done: bool, otherwise: str) -> dict[str, bool]:
    if not done:
        raise ApiError(409, otherwise)
    return {"done": True}


@router.get("")
async def overview(request: Request) -> dict[str, Any]:
    """What one sees standing before the machine, and the counters of the experiment."""
    sim = sim_of(request)
    sim.tick()
    job = sim.machine.job
    layer = None if job is None else job.gcode.layer_at(job.file_s(sim.machine.now_s()))
    return {
        "name": sim.options.name,
        "on": sim.machine.on,
        "status": sim.machine.status,
        "prompts": [
            {"id": c.id, "application": c.application, "user": c.user} for c in sim.gatekeeper.prompts()
        ],
        "job": None if job is None else job.view(sim.machine.now_s(), early=False),
        "layer": None if layer is None else layer.number,
        "faults": [asdict(f) for f in sim.faults.active],
        "challenges": sim.gatekeeper.challenges,
        "uploads": len(sim.uploads),
        "starts": len(sim.machine.ledger),
        "queue": [sim.cluster.view(queued) for queued in sim.cluster.jobs],
        "repeats": sim.cluster.repeats,
        "in_hand": sim.faults.in_hand,
        "speed": sim.clock.speed,
        "options": asdict(sim.options),
        "bed_c": tree.printer_tree(sim)["bed"]["temperature"]["current"],
    }


@router.get("/ledger")
async def ledger(request: Request) -> list[dict[str, Any]]:
    """Every start, oldest first; kept over restarts when there is a state file."""
    return sim_of(request).machine.ledger


@router.get("/uploads")
async def uploads(request: Request) -> list[dict[str, Any]]:
    """Every upload that came in whole in this life of the simulator, with the status it got."""
    return sim_of(request).uploads


@router.post("/pairing")
async def pairing(request: Request) -> dict[str, Any]:
    """`{"allow": true|false, "id": optional}`: press allow or deny on the prompt."""
    sim, given = sim_of(request), await _given(request)
    client = sim.gatekeeper.press(allow=bool(given.get("allow", True)), client_id=str(given.get("id", "")))
    if client is None:
        raise ApiError(409, "there is no prompt on the screen")
    if client.answer == "allow":
        note_pairing(sim, client)
    sim.save()
    return {"id": client.id, "answer": client.answer}


@router.post("/clear")
async def clear(request: Request) -> dict[str, bool]:
    """The part is off the plate."""
    sim = sim_of(request)
    done = sim.machine.clear_plate()
    sim.save()
    return _done(done, "nothing waits to be removed")


@router.post("/continue")
async def go_on(request: Request) -> dict[str, bool]:
    return _done(sim_of(request).machine.go_on(), "nothing waits for an answer")


@router.post("/reprint")
async def reprint(request: Request) -> dict[str, bool]:
    """The newest print once more, chosen at the display."""
    try:
        return _done(sim_of(request).machine.reprint(), "nothing was printed yet")
    except BusyError as exc:
        raise ApiError(409, "a print is on") from exc


@router.post("/pause")
async def pause(request: Request) -> dict[str, bool]:
    sim_of(request).machine.pause("display")
    return {"done": True}


@router.post("/resume")
async def resume(request: Request) -> dict[str, bool]:
    sim_of(request).machine.resume()
    return {"done": True}


@router.post("/abort")
async def abort(request: Request) -> dict[str, bool]:
    sim_of(request).machine.abort()
    return {"done": True}


@router.post("/core")
async def core(request: Request) -> dict[str, bool]:
    """`{"slot": 0, "id": "AA 0.4"}`; an empty id takes the core out."""
    given = await _given(request)
    sim_of(request).machine.set_core(_slot(given), str(given.get("id", "")))
    return {"done": True}


@router.post("/material")
async def material(request: Request) -> dict[str, bool]:
    """`{"slot": 0, "guid": "..."}`; an empty guid unloads."""
    given = await _given(request)
    sim_of(request).machine.set_material(_slot(given), str(given.get("guid", "")))
    return {"done": True}


def _slot(given: dict[str, Any]) -> int:
    slot = given.get("slot", 0)
    if slot not in (0, 1):
        raise ApiError(400, "slot is 0 or 1")
    return int(slot)


@router.post("/maintenance")
async def maintenance(request: Request) -> dict[str, bool]:
    """`{"on": true}`: somebody is in a menu."""
    sim_of(request).machine.maintenance = bool((await _given(request)).get("on", True))
    return {"done": True}


@router.post("/power")
async def power(request: Request) -> dict[str, bool]:
    """`{"on": true|false}`."""
    sim = sim_of(request)
    sim.happen(Fault("power_on" if (await _given(request)).get("on", True) else "power_cut"))
    return {"done": True}


@router.post("/clock")
async def clock(request: Request) -> dict[str, float]:
    """`{"speed": 2000}` and/or `{"advance_s": 600}`."""
    sim, given = sim_of(request), await _given(request)
    try:
        if "speed" in given:
            sim.clock.set_speed(float(given["speed"]))
        sim.clock.advance(float(given.get("advance_s", 0.0)))
    except (TypeError, ValueError) as exc:
        raise ApiError(400, str(exc)) from exc
    sim.tick()
    return {"speed": sim.clock.speed, "now_s": sim.clock.now_s()}


@router.post("/options")
async def options(request: Request) -> dict[str, bool]:
    """Any switches of `options.Options`, by name."""
    sim = sim_of(request)
    for name, value in (await _given(request)).items():
        try:
            sim.options.change(name, value)
        except ValueError as exc:
            raise ApiError(400, str(exc)) from exc
    return {"done": True}


@router.get("/faults")
async def faults(request: Request) -> dict[str, Any]:
    return {
        "active": [asdict(f) for f in sim_of(request).faults.active],
        "wire": WIRE,
        "told": TOLD,
        "events": EVENTS,
    }


@router.post("/faults")
async def set_fault(request: Request) -> dict[str, bool]:
    """`{"kind", "match", "method", "count", "seconds", "value"}`; all but `kind` optional."""
    try:
        sim_of(request).happen(_fault(await _given(request)))
    except (TypeError, ValueError) as exc:
        raise ApiError(400, str(exc)) from exc
    return {"done": True}


@router.delete("/faults")
async def lift_faults(request: Request, kind: str = "") -> dict[str, bool]:
    """Lift one kind of fault, or all."""
    sim_of(request).faults.lift(kind)
    return {"done": True}


def _fault(given: dict[str, Any]) -> Fault:
    count = given.get("count")
    return Fault(
        kind=str(given.get("kind", "")),
        match=str(given.get("match", "")),
        method=str(given.get("method", "")),
        count=None if count is None else int(count),
        seconds=float(given.get("seconds", 0.0)),
        value=str(given.get("value", "")),
    )


def auto_answer(sim: Simulator) -> None:
    """With `auto_allow`, prompts that came before the switch was set are answered too."""
    if sim.options.auto_allow:
        while (client := sim.gatekeeper.press(allow=True)) is not None:
            note_pairing(sim, client)


def note_pairing(sim: Simulator, client: Client) -> None:
    """Pairing shows up in the event list."""
    sim.machine.history.event(
        sim.machine.now_s(),
        EVENT_KEY_ADDED,
        "API key added",
        client.id,
        client.application,
        client.user,
    )
