"""The command `spineprint`. Exit codes: 0 ok, 2 bad input or refused, 1 failure."""

from __future__ import annotations

import json
import logging
import os
import runpy
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from service import NOTICE, __version__
from service.cli_admin import printer_app, token_app, user_app
from service.cli_admin import register as register_admin
from service.cli_audit import audit_app
from service.cli_case import case_app
from service.cli_common import (
    EDITS_HELP,
    ENDPLATES_HELP,
    HANDED_OUT_HELP,
    KEEP_HELP,
    SEGMENTATION_HELP,
    SURFACE_HELP,
    SURFACE_POINTS_HELP,
    ConfigOption,
    Surface,
    config_of,
    parse_endplates,
    parse_point,
    parse_surface_points,
    read_edits,
    segmentation_folder,
)
from service.errors import InputRefusedError, SpineprintError, StorageError

console = Console(stderr=True, highlight=False)
main_app = typer.Typer(
    help=f"From spine CT to a printed, sterilised vertebra model and back from the O-arm.\n\n{NOTICE}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
main_app.add_typer(case_app, name="case")
main_app.add_typer(user_app, name="user")
main_app.add_typer(token_app, name="token")
main_app.add_typer(printer_app, name="printer")
main_app.add_typer(audit_app, name="audit")
register_admin(main_app)

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
Folder = Annotated[Path, typer.Option(exists=True, file_okay=False)]
PrivateWords = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, help="words (UTF-8) that the G-code must not hold: name, number"
    ),
]


def main() -> None:
    """Entry point: expected errors become one clear paragraph and the right exit code."""
    # What is written here is or names a patient's: for this user only, whatever the shell's setting is.
    os.umask(0o077)
    try:
        main_app()
    except SpineprintError as exc:
        _tell(exc)
    except OSError as exc:
        where = f" '{exc.filename}'" if exc.filename else ""
        _tell(
            StorageError(
                f"A file or folder{where} cannot be used ({exc.strerror or type(exc).__name__}).",
                next_step="Check the path, its permissions and the free space.",
            )
        )


def _tell(error: SpineprintError) -> NoReturn:
    # Escaped: "[dicom] port" is a key of the configuration, not a style of the terminal.
    console.print(f"[bold red]{error.code}[/]: {escape(error.message)}")
    if error.next_step:
        console.print(f"[bold]Next:[/] {escape(error.next_step)}")
    sys.exit(error.exit_code)


@main_app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


@main_app.command()
def serve(
    config: ConfigOption = None,
    role: Annotated[str, typer.Option(help="all | web | dicom | worker")] = "all",
) -> None:
    """Run the service: DICOM node, web and workers."""
    from service.bootstrap import ROLES
    from service.bootstrap import serve as run

    if role not in ROLES:
        raise InputRefusedError(f"There is no role '{role}'.", next_step=f"Use one of: {', '.join(ROLES)}.")
    if config:
        os.environ["SPINEPRINT_CONFIG"] = str(config.resolve())  # the tethered children read the same file
    code = run(config_of(config), role)
    # A model still being computed would keep the interpreter waiting; its job runs again at the next start.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


@main_app.command(name="run-task", hidden=True)
def run_task(kind: str) -> None:
    """One heavy computation, tethered to its parent (used by the service itself)."""
    from service.bootstrap_tasks import tasks
    from service.workflow.tasks import load
    from service.workflow.tether import serve_task

    raise typer.Exit(serve_task(kind, tasks(config_of(None)), load))


@main_app.command()
def model(
    ct: Folder,
    level: Annotated[str, typer.Option(help="T8 ... L5")],
    out: Annotated[Path, typer.Option(help="folder for mask, plan, model and report")],
    target: Annotated[str | None, typer.Option(help="X,Y,Z LPS mm inside the vertebral body")] = None,
    above: Annotated[str | None, typer.Option(help="X,Y,Z inside the body above")] = None,
    below: Annotated[str | None, typer.Option(help="X,Y,Z inside the body below")] = None,
    endplates: Annotated[str | None, typer.Option(help=ENDPLATES_HELP)] = None,
    surface_points: Annotated[str | None, typer.Option(help=SURFACE_POINTS_HELP)] = None,
    edits: Annotated[Path | None, typer.Option(exists=True, help=EDITS_HELP)] = None,
    mask: Annotated[Path | None, typer.Option(exists=True, help="DICOM SEG, NIfTI or NRRD")] = None,
    mask_label: Annotated[int | None, typer.Option(help="value of the vertebra in a label map")] = None,
    plan: Annotated[
        Path | None,
        typer.Option(exists=True, help="plan.json edited by hand, or lines of 3D Slicer (.mrk.json)"),
    ] = None,
    series: Annotated[
        str | None, typer.Option(help="SeriesInstanceUID, when the folder holds several")
    ] = None,
    surface: Annotated[Surface | None, typer.Option(help=SURFACE_HELP)] = None,
    segmentation_model: Annotated[str | None, typer.Option(help=SEGMENTATION_HELP)] = None,
    keep_isolation: Annotated[bool, typer.Option(help=KEEP_HELP)] = True,
    handed_out: Annotated[Path | None, typer.Option(exists=True, help=HANDED_OUT_HELP)] = None,
    dicom_seg: Annotated[bool, typer.Option(help="also write mask.seg.dcm, a DICOM Segmentation")] = False,
    config: ConfigOption = None,
) -> None:
    """CT to a checked, printable model: writes mask.nii.gz, plan.json, model.stl, report.json."""
    from service.bootstrap_tasks import make_segmenter
    from service.workflow.tasks.model_task import model_task

    whole = config_of(config)
    settings = json.loads(whole.model.model_dump_json())
    segmenter = make_segmenter(segmentation_folder(segmentation_model, whole))
    if surface is not None:
        settings["surface"] = surface.value
    out.mkdir(parents=True, exist_ok=True)
    argument: dict[str, Any] = {
        "ct": str(ct), "series_uid": series, "level": level, "target": parse_point("--target", target),
        "above": parse_point("--above", above), "below": parse_point("--below", below),
        "endplates": parse_endplates(endplates), "surface_points": parse_surface_points(surface_points),
        "edits": [e.to_document() for e in read_edits(edits)],
        "mask": str(mask) if mask else None, "mask_label": mask_label, "plan": str(plan) if plan else None,
        "settings": settings, "case_code": "", "out": str(out),
        "keep_isolation": str(out / "kept") if keep_isolation else None,
        "handed_out": str(handed_out) if handed_out else None,
        "dicom_seg_at": datetime.now(UTC).isoformat() if dicom_seg else None,
    }  # fmt: skip
    result = _with_progress(lambda a, p: model_task(a, p, segmenter), argument)
    for warning in result["warnings"]:
        console.print(f"[yellow]look at[/]: {escape(warning['message'])}")
    for failure in result["failures"]:
        console.print(f"[bold red]failed check[/]: {escape(str(failure))}")
    console.print(
        f"Written to {out}: mask.nii.gz, mask.seg.nrrd (for 3D Slicer), plan.json, model.stl, report.json, pictures.\n"
        f"[dim]{NOTICE}[/]"
    )
    raise typer.Exit(0 if result["passed"] else 2)


@main_app.command(name="slice")
def slice_command(
    case: Folder,
    out: Annotated[Path, typer.Option(help="FILE.gcode or FILE.gcode.gz")],
    config: ConfigOption = None,
    private: PrivateWords = None,
) -> None:
    """Slice the model of a case folder for the Ultimaker 3; writes FILE.report.json beside it."""
    import shutil
    import tempfile

    from service.bootstrap_tasks import make_slicer
    from service.cli_case_folder import case_files, require_passed
    from service.workflow.tasks.slice_task import slice_task

    if not out.name.endswith((".gcode", ".gcode.gz")):
        raise InputRefusedError("The output must end in .gcode or .gcode.gz.", next_step="Name it so.")
    require_passed(case)
    settings = config_of(config)
    slicer = make_slicer(settings)
    with tempfile.TemporaryDirectory() as folder:
        argument = case_files(case) | {
            "out": folder,
            "prices": settings.costs.model_dump(),
            "by_hand": str(case),
            "private_words": _private_words(private),
        }
        result = _with_progress(lambda a, p: slice_task(slicer, a, p), argument)
        made = Path(folder) / "print.gcode.gz"
        _place(made, out)
        shutil.copyfile(Path(folder) / "print.report.json", _report_path(out))
        for kind in ("errors", "bone"):
            if (picture := Path(folder) / f"print.{kind}.png").is_file():
                shutil.copyfile(picture, _report_path(out).with_suffix("").with_suffix(f".{kind}.png"))
    hours = result["print_time_s"] / 3600
    cost = result.get("cost")
    price = f", about {cost['total']:.2f} {escape(cost['currency'])}" if cost else ""
    console.print(f"{out}: {hours:.1f} h, {result['weight_g']:.1f} g PLA{price}; audit "
                  + ("passed" if result["audit"]["passed"] else "[bold red]failed[/]"))  # fmt: skip
    for finding in result["audit"]["findings"]:
        console.print(f"  {finding['severity']}: {escape(finding['message'])}")
    raise typer.Exit(0 if result["audit"]["passed"] else 2)


@main_app.command(name="audit-gcode")
def audit_gcode(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    case: Folder,
    private: PrivateWords = None,
) -> None:
    """Read a G-code file independently of the slicer; non-zero when it must not be printed."""
    from service.cli_case_folder import case_files
    from service.workflow.print_proof import PrintProof
    from service.workflow.tasks.slice_task import bone_files

    files = case_files(case)
    filler = Path(files["filler"]) if files["filler"] else None
    proof = PrintProof.read(file, case / "print.stl", case / "print.json", case / "plan.json", filler)
    report = proof.audit(_private_words(private))
    if report.passed:
        report = proof.with_prediction(report, bone=bone_files(files))
    print(json.dumps(report.to_document(), indent=2, sort_keys=True))
    raise typer.Exit(0 if report.passed else 2)


@main_app.command()
def verify(
    case: Folder,
    ct: Folder,
    scan: Folder,
    out: Annotated[Path, typer.Option(help="report.json")],
) -> None:
    """Measure the needle in an O-arm scan against the plan of a case folder."""
    from service.workflow.tasks.verify_task import verify_task

    outer, prepared, plates = (case / n for n in ("outer.nii.gz", "registration.npz", "plates.npz"))
    report_file = case / "report.json"
    argument = {
        "ct_files": [str(f) for f in sorted(ct.rglob("*")) if f.is_file() and f.suffix != ".json"],
        "scan_files": [str(f) for f in sorted(scan.rglob("*")) if f.is_file() and f.suffix != ".json"],
        "mask": str(case / "mask.nii.gz"),
        "plan": str(case / "plan.json"),
        "outer": str(outer) if outer.is_file() else None,
        "prepared": str(prepared) if prepared.is_file() else None,
        "plates": str(plates) if plates.is_file() else None,
        "model_report": str(report_file) if report_file.is_file() else None,
    }
    report = _with_progress(verify_task, argument)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2, sort_keys=True), "utf-8")
    console.print(
        f"{report['status']}: {report.get('verdict') or report.get('reason')}. {report.get('advice') or ''}"
    )
    raise typer.Exit(0 if report["status"] == "measured" else 2)


@main_app.command(context_settings=_PASS_ON)
def phantom(ctx: typer.Context) -> None:
    """Write a synthetic CT study with known truth (all options: `spineprint phantom --help`)."""
    _run_module("simulators.phantom", ctx.args)


@main_app.command(context_settings=_PASS_ON)
def simulate(
    device: Annotated[str, typer.Argument(help="ultimaker | oarm | pacs")], ctx: typer.Context
) -> None:
    """Run a simulated device (all options: `spineprint simulate DEVICE --help`)."""
    if device not in ("ultimaker", "oarm", "pacs"):
        raise InputRefusedError(
            f"There is no simulator '{device}'.", next_step="Use ultimaker, oarm or pacs."
        )
    _run_module(f"simulators.{device}", ctx.args)


@main_app.command()
def send(
    folder: Annotated[Path, typer.Argument(exists=True)],
    to: Annotated[str, typer.Option(help="AE@host:port")],
    calling_ae: Annotated[str, typer.Option(help="our AE title")] = "SPINEPRINT",
) -> None:
    """C-STORE a folder of DICOM files."""
    from adapters.dicom_node import DicomSender
    from service.cli_common import parse_destination
    from service.imaging.scan import scan_directory

    destination = parse_destination(to)
    found = scan_directory(folder)
    files = [f for s in found.series for f in s.files]
    if not files:
        raise InputRefusedError(
            f"There is no DICOM image in {folder}.",
            next_step="Name the folder that holds the images.",
            code="imaging.no_dicom",
        )
    statuses = DicomSender(calling_ae).send(files, destination)
    refused = [s for s in statuses if not s.accepted]
    console.print(f"{len(files) - len(refused)} of {len(files)} stored")
    for status in refused[:5]:
        console.print(f"  [red]{escape(status.detail or f'status {status.status}')}[/]")
    raise typer.Exit(1 if refused else 0)


def _with_progress(task: Any, argument: dict[str, Any]) -> dict[str, Any]:
    columns = (TextColumn("{task.description:<48.48}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
               TimeElapsedColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        row = bar.add_task("starting", total=1.0)
        result: dict[str, Any] = task(
            argument, lambda stage, f: bar.update(row, description=stage, completed=f)
        )
    return result


def _private_words(path: Path | None) -> tuple[str, ...]:
    """From a file: a name on the command line would stay in the shell's history."""
    from service.gcode.private_words import private_words

    return private_words(other=path.read_text("utf-8").split()) if path else ()


def _place(made: Path, out: Path) -> None:
    import gzip
    import shutil

    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.tmp")
    if out.name.endswith(".gz"):
        shutil.copyfile(made, temporary)
    else:
        with gzip.open(made, "rb") as read, temporary.open("wb") as write:
            shutil.copyfileobj(read, write)
    temporary.replace(out)


def _report_path(out: Path) -> Path:
    return out.with_name(out.name.removesuffix(".gz").removesuffix(".gcode") + ".report.json")


def _run_module(name: str, arguments: list[str]) -> None:
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
