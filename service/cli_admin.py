"""Commands for the hospital's IT: users, tokens, printers, configuration, database, backup."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from service.cli_common import ConfigOption, config_of, read_password
from service.errors import NotFoundError

console = Console(highlight=False)
user_app = typer.Typer(help="Named users and their roles.", no_args_is_help=True)
token_app = typer.Typer(
    help="Tokens for screens (board, or_terminal, metrics) and machines (dicom_web, steriliser).",
    no_args_is_help=True,
)
printer_app = typer.Typer(help="Printers: list and pair.", no_args_is_help=True)


@user_app.command("add")
def user_add(
    username: str,
    role: Annotated[list[str], typer.Option("--role", help="may be given several times")],
    name: Annotated[str, typer.Option(help="display name")] = "",
    password_stdin: Annotated[bool, typer.Option("--password-stdin")] = False,
    config: ConfigOption = None,
) -> None:
    """Create a user on this machine's database."""
    from service.bootstrap import open_app
    from service.workflow import identity

    app = open_app(config_of(config))
    person = identity.add_user(app, username=username, display_name=name, roles=role,
                               password=read_password(password_stdin), by="cli")  # fmt: skip
    console.print(f"{person.username}: {', '.join(sorted(r.value for r in person.roles))}")


@user_app.command("list")
def user_list(config: ConfigOption = None) -> None:
    from service.bootstrap import open_app
    from service.store import people
    from service.store.database import reading

    app = open_app(config_of(config))
    table = Table("user", "name", "roles", "active")
    with reading(app.engine) as connection:
        for row in people.list_users(connection):
            roles = ", ".join(sorted(r.value for r in row.person.roles))
            table.add_row(row.person.username, row.person.display_name, roles, "yes" if row.active else "no")
    console.print(table)


@token_app.command("add")
def token_add(
    name: str,
    scope: Annotated[list[str], typer.Option("--scope")],
    steriliser: Annotated[
        str, typer.Option(help="the device a token with --scope steriliser speaks for")
    ] = "",
    config: ConfigOption = None,
) -> None:
    """Make a token and print it once."""
    from service.bootstrap import open_app
    from service.workflow import identity

    print(identity.add_token(open_app(config_of(config)), name, scope, "cli", steriliser=steriliser))


@printer_app.command("list")
def printer_list(config: ConfigOption = None) -> None:
    """What each configured printer says now."""
    from service.bootstrap import open_app

    app = open_app(config_of(config))
    table = Table("printer", "state", "nozzle", "material", "detail")
    for printer in app.printers.values():
        seen = printer.read()
        table.add_row(printer.name, seen.state.value, seen.nozzle_id, seen.material_guid, seen.detail)
    console.print(table)


@printer_app.command("discover")
def printer_discover(
    seconds: Annotated[float, typer.Option(help="how long to listen, at most 15")] = 4.0,
    interface: Annotated[
        list[str] | None, typer.Option(help="own IPv4 address to look from; repeatable (all)")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Printers that announce themselves on this network, and whether they are configured."""
    from adapters.ultimaker.discovery import MdnsDiscovery

    configured = {p.url.rstrip("/"): p.name for p in config_of(config).printers}
    found = MdnsDiscovery(interface or ()).discover(seconds)
    # three columns, so that the address, which is there to be copied, stays whole in 80 characters
    table = Table(Column("address", no_wrap=True), "configured as", "what it says it is")
    for printer in found:
        model = printer.model or f"unknown ({printer.machine})"
        queue = ("with a queue",) if printer.cluster else ()
        told = (printer.name, model, f"firmware {printer.firmware}", *printer.cores, *queue)
        known = configured.get(printer.url, "-")
        table.add_row(*map(escape, (printer.url, known, ", ".join(told))))
    console.print(
        table if found else "No printer announced itself. Its address on the display works all the same."
    )


@printer_app.command("pair")
def printer_pair(name: str, wait_s: float = 120.0, config: ConfigOption = None) -> None:
    """Ask a printer for access; press 'allow' on its screen."""
    from adapters.ultimaker import pair

    settings = next((p for p in config_of(config).printers if p.name == name), None)
    if settings is None:
        raise NotFoundError(
            f"There is no printer '{name}' in the configuration.",
            next_step="Add [[printers]] first.",
            code="printer.not_found",
        )
    settings.credentials_file.parent.mkdir(parents=True, exist_ok=True)
    pair(settings.url, settings.credentials_file, user=name, wait_s=wait_s, on_prompt=console.print)
    console.print(f"{name} is paired.")


def register(main_app: typer.Typer) -> None:
    """Attach the commands that have no group of their own."""

    @main_app.command("check-config")
    def check_config(config: ConfigOption = None) -> None:
        """Show the whole configuration in force, or all its faults at once."""
        print(config_of(config).model_dump_json(indent=2))

    @main_app.command("migrate")
    def migrate(config: ConfigOption = None) -> None:
        """Bring the database to this version's schema (also done at every start)."""
        from service.bootstrap import open_app

        open_app(config_of(config))
        console.print("The database is up to date.")

    @main_app.command("backup")
    def backup(to: Annotated[Path, typer.Argument(help="file.tar")], config: ConfigOption = None) -> None:
        """Copy database and files while the service runs; the copy is consistent."""
        from service.ops.backup import make_backup

        console.print(make_backup(config_of(config), to))

    @main_app.command("restore")
    def restore(source: Annotated[Path, typer.Argument(exists=True)], config: ConfigOption = None) -> None:
        """Put a backup into an empty data folder; the service must not run."""
        from service.ops.backup import restore_backup

        console.print(restore_backup(config_of(config), source))

    @main_app.command("selftest")
    def selftest(config: ConfigOption = None) -> None:
        """Check what this installation needs: database, disk, slicer, printers, PACS."""
        from service.bootstrap import self_test

        table = Table("check", "result", "detail")
        results = self_test(config_of(config))
        for name, good, detail in results:
            table.add_row(name, "ok" if good else "FAILED", detail)
        console.print(table)
        raise typer.Exit(0 if all(good for _, good, _ in results) else 1)
