"""Pause, go on and stop, with a trace of a stop that is left before the printer is asked.

The printer says 'Aborted' whoever did it. A trace left only after the command would be missing when the process is
killed between the two, or when the printer took the command and its answer was lost.
"""

from __future__ import annotations

from service.domain.people import Actor
from service.errors import DeviceUnsureError, SpineprintError
from service.store import prints
from service.store.database import transaction
from service.workflow import print_settle, print_trace
from service.workflow.app import App


def command(app: App, token: str, target: str, actor: Actor) -> None:
    """'pause' | 'print' (resume) | 'abort', on behalf of a person. Raises DeviceError, ConflictError."""
    with transaction(app.engine) as connection:
        job = prints.get(connection, token)
        stops = target == "abort" and "abort" in print_settle.COMMANDS.get(job.state, ())
        if stops:
            print_trace.leave(connection, app, job, print_trace.STOP_ASKED, actor)
    try:
        print_settle.command(app, token, target, actor)
    except DeviceUnsureError:
        raise  # the printer may have taken it: what was asked stands
    except SpineprintError:
        if stops:
            with transaction(app.engine) as connection:
                print_trace.leave(connection, app, job, print_trace.STOP_REFUSED, actor)
        raise
