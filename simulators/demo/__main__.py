"""`make demo`: the whole journey, on simulators, through the real interfaces."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from simulators.demo.client import Service, ServiceError
from simulators.demo.figures import Figures, of_model, of_print, of_verification
from simulators.demo.journey import CAST, Journey, JourneyError
from simulators.demo.processes import StartError, end_orderly_on_sigterm
from simulators.demo.stage import Stage, StageError, first_header

NOTICE = "Research and engineering software. Not a medical device. Patients and devices here are simulated."
console = Console(highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; 0 when every promise of the figures holds."""
    options = _parser().parse_args(arguments)
    if options.ct and not (options.level and (options.target or options.mask)):
        console.print("With CT= give LEVEL= and either TARGET=x,y,z or MASK=file.")
        return 2
    end_orderly_on_sigterm()
    out = Path(options.out).resolve()
    if out.exists():
        shutil.rmtree(out)
    stage = Stage(out, printer_speed=options.speed, small=options.small)
    started = time.monotonic()
    try:
        return _Demo(stage, options, started).play()
    except (JourneyError, StageError, StartError, ServiceError) as fault:
        console.print(f"[bold red]The demonstration stopped:[/] {fault}")
        console.print(f"Logs: {out / 'logs'}")
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if options.keep and stage.daemon is not None:
            console.print("Everything keeps running; press Ctrl-C to end it.")
            _wait_for_interrupt()
        stage.stop()


class _Demo:
    def __init__(self, stage: Stage, options: argparse.Namespace, started: float) -> None:
        self._stage = stage
        self._options = options
        self._started = started
        self._live: Live | None = None
        self._truth: dict[str, Any] = {}
        self._ct = Path()

    def play(self) -> int:
        console.rule("spineprint")
        console.print(NOTICE)
        self.say("simulated printer and PACS start, users are made, the service comes up")
        service = self._stage.start()
        inputs, patient_id = self._study()
        header = first_header(self._ct)
        self.say("the PACS routes the CT study to the service by C-STORE")
        self._stage.route_from_pacs(self._ct)
        journey = Journey(
            service,
            inputs,
            "um3-sim",
            patient_id,
            self._scan,
            self._stage.clear_plate,
            self.say,
            self._show_state,
        )
        if self._options.mask:
            journey.mask = self._options.mask
        with Live(Spinner("dots", "waiting"), console=console, transient=True, refresh_per_second=8) as live:
            self._live = live
            journey.find_case(str(header.StudyInstanceUID))
            journey.on_look = self._show_progress
            case, ended_early = self._run(journey)
            self._live = None
        return self._finish(service, case, ended_early)

    def _study(self) -> tuple[dict[str, Any], str]:
        if self._options.ct:
            self._ct = Path(self._options.ct)
            points = {k: _point(getattr(self._options, k)) for k in ("target", "above", "below")}
            inputs = {"level": self._options.level} | {k: v for k, v in points.items() if v}
            return inputs, str(first_header(self._ct).PatientID)
        self.say("a phantom spine with a fractured L1 is scanned")
        self._ct, truth = self._stage.make_phantom()
        return {"level": truth["target"], **truth["seeds"]}, str(truth["patient_id"])

    def _run(self, journey: Journey) -> tuple[dict[str, Any], str]:
        """To the end; a CT too old for the door is an end too, and the right one."""
        try:
            return journey.run(), ""
        except ServiceError as refused:
            if self._options.ct and refused.code == "sterilisation.guard":
                return journey.look(), str(refused)
            raise

    def _scan(self, plan: Mapping[str, Any]) -> None:
        self._truth = self._stage.scan_with_needle(self._ct, plan, self._stage.out / "oarm")

    def _finish(self, service: Service, case: dict[str, Any], ended_early: str) -> int:
        figures = Figures()
        of_model(figures, _artifact(service, case, "model_report"))
        of_print(figures, _artifact(service, case, "gcode_report"), self._stage.printer_ledger())
        if self._truth:
            report = service.get(f"/api/v1/cases/{case['id']}/verification", who="sara")["report"]
            of_verification(figures, report, self._truth)
            # SEG, model, views; two slices and a 3-D picture of the scan; then its report and document
            kinds = self._wait_for_pacs(8)
            results = {"SR", "DOC"} <= {str(k) for k in kinds}
            figures.add("in the PACS", ", ".join(sorted(kinds)) or "nothing", results)
        if ended_early:
            figures.add("ended at the door", ended_early)
        figures.add("wall clock", f"{time.monotonic() - self._started:.0f} s")
        self._print_figures(figures)
        self._print_places(case)
        return 0 if figures.all_good else 1

    def _wait_for_pacs(self, wanted: int, timeout_s: float = 120.0) -> list[str]:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            kinds = [str(r.get("modality") or r.get("kind")) for r in self._stage.pacs_received()]
            if len(kinds) >= wanted:
                return kinds
            time.sleep(0.5)
        return [str(r.get("modality") or r.get("kind")) for r in self._stage.pacs_received()]

    def say(self, text: str) -> None:
        console.print(f"[dim]{time.monotonic() - self._started:6.1f} s[/]  {text}")

    def _show_state(self, state: str) -> None:
        console.print(f"[dim]{time.monotonic() - self._started:6.1f} s[/]  [bold green]{state}[/]")

    def _show_progress(self, case: dict[str, Any]) -> None:
        if self._live is None:
            return
        text = str(case["waiting_for"])
        if case.get("progress"):
            text = f"{case['progress']['stage']} · {case['progress']['fraction']:.0%}"
        elif case["state"] == "PRINTING" and case["print_jobs"]:
            job = case["print_jobs"][0]
            text = f"{job['state'].lower()} · {(job['progress'] or 0):.0%}"
        self._live.update(Spinner("dots", f"{case['code']}  {text}"))

    def _print_figures(self, figures: Figures) -> None:
        table = Table("figure", "value", "", title="Figures of this run")
        for row in figures.rows:
            mark = {None: "", True: "[green]✔[/]", False: "[bold red]✘[/]"}[row.good]
            table.add_row(row.name, row.value, mark)
        console.print(table)

    def _print_places(self, case: dict[str, Any]) -> None:
        stage = self._stage
        files = Table("made", "where", title="Files and pages")
        files.add_row(
            "case files (plan, model, G-code, pictures)", str(stage.out / "data" / "cases" / case["id"])
        )
        files.add_row("what the PACS received", str(stage.out / "pacs"))
        files.add_row("logs", str(stage.out / "logs"))
        for name, path in (("cases", "/"), ("this case", f"/cases/{case['id']}"), ("API", "/docs")):
            files.add_row(f"page: {name}", stage.url + path)
        console.print(files)
        people = ", ".join(f"{n} ({'/'.join(roles)})" for n, (_d, roles) in CAST.items())
        console.print(f"Users: {people}")
        (stage.out / "passwords.json").write_text(json.dumps(stage.passwords, indent=2), "utf-8")
        console.print(f"Passwords of this run: {stage.out / 'passwords.json'}. "
                      "Look around with `make demo DEMO_ARGS=--keep`.")  # fmt: skip


def _artifact(service: Service, case: dict[str, Any], kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        service.fetch(f"/api/v1/cases/{case['id']}/artifacts/{kind}", who="sara")
    )
    return found


def _point(text: str | None) -> list[float] | None:
    return [float(v) for v in text.split(",")] if text else None


def _wait_for_interrupt() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="simulators.demo", description=__doc__)
    parser.add_argument("--out", default="demo-output", help="folder, made anew")
    parser.add_argument("--ct", help="folder of a real CT study instead of the phantom")
    parser.add_argument("--level")
    parser.add_argument("--target", help="X,Y,Z LPS mm")
    parser.add_argument("--above")
    parser.add_argument("--below")
    parser.add_argument("--mask", help="DICOM SEG, NIfTI or NRRD instead of points")
    parser.add_argument("--small", action="store_true", help="coarse phantom and scan, for quick tests")
    parser.add_argument(
        "--speed", type=float, default=4000.0, help="how much faster than real the printer prints"
    )
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end")
    return parser


if __name__ == "__main__":
    sys.exit(main())
