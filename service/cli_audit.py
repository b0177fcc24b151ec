"""Commands on the audit chain: write it to a file, prove a file, read a file into a new database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from service.cli_common import ConfigOption, config_of
from service.errors import ConflictError

console = Console(highlight=False)
audit_app = typer.Typer(help="The hash-chained history: export, check, import.", no_args_is_help=True)
_Source = Annotated[Path, typer.Argument(exists=True, dir_okay=False)]


@audit_app.command("export")
def export(file: Path, config: ConfigOption = None) -> None:
    """Write the whole chain as JSON lines to a new file."""
    from service.bootstrap import open_app
    from service.store.audit_export import export_lines
    from service.store.database import reading

    if file.exists():
        raise ConflictError(
            f"{file.name} exists already.", next_step="Choose another name.", code="audit.exists"
        )
    app = open_app(config_of(config))
    with reading(app.engine) as connection, file.open("x", encoding="utf-8", newline="") as out:
        out.writelines(export_lines(connection))
    console.print(f"Audit chain written: {file}")


@audit_app.command("check")
def check(file: _Source) -> None:
    """Compute every hash of an exported chain again; needs no database."""
    from service.store.audit_export import check_lines

    with file.open(encoding="utf-8", newline="\n") as lines:
        console.print(f"The chain is whole: {check_lines(lines)} rows.")


@audit_app.command("import")
def import_(file: _Source, config: ConfigOption = None) -> None:
    """Read an exported chain into a database that has none; every row is checked first."""
    from service.bootstrap import open_app
    from service.store.audit_export import import_lines
    from service.store.database import transaction

    app = open_app(config_of(config))
    with transaction(app.engine) as connection, file.open(encoding="utf-8", newline="\n") as lines:
        count = import_lines(connection, lines)
    console.print(f"{count} rows read in; the chain is whole.")
