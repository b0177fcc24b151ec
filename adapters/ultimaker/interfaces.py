"""The two interfaces a printer may be sent jobs by, as data (reference sheet sections 2.5, 4.1 and 4.2).

Whatever the interface, the machine itself is read through the direct one: status, plate, temperatures, the file check.
What the cluster firmware adds is a queue, whose words are turned here into those of the direct interface.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

API = "/api/v1"
CLUSTER_API = "/cluster-api/v1"


@dataclass(frozen=True)
class Word:
    """What a job's status word says, in the words of the direct interface. `gone`: off the plate, or never on it."""

    state: str
    result: str = ""
    gone: bool = False


@dataclass(frozen=True)
class Call:
    """One request about a job. `{uuid}` in the path is the job's."""

    method: str
    path: str
    body: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Interface:
    name: str
    label: str
    send: str
    """Path of the POST that brings a file."""
    fields: Mapping[str, str]
    """Form fields beside `file`; `{name}` is the job's name, `{printer}` the printer's own unique one."""
    authenticated: bool
    accepted: frozenset[int]
    """Status of the answer to an accepted file."""
    calls: Mapping[str, Call]
    """What can be done to a job that has begun. Repeating a job (duplicate, reprint) is left out on purpose."""
    withdraw: Call | None = None
    """How a job that waits is taken out of the queue; None: there is no queue."""
    jobs: str = ""
    past: str = ""
    printers: str = ""
    words: Mapping[str, Word] = field(default_factory=dict)

    @property
    def has_queue(self) -> bool:
        return self.withdraw is not None


DIRECT = Interface(
    name="direct",
    label="the printer's own interface",
    send=f"{API}/print_job",
    fields={"jobname": "{name}"},
    authenticated=True,
    accepted=frozenset({200, 201}),
    calls={
        target: Call("PUT", f"{API}/print_job/state", {"target": target})
        for target in ("pause", "print", "abort")
    },
)

_JOBS = f"{CLUSTER_API}/print_jobs"
_BEGUN = ("pre_print", "printing", "pausing", "paused", "resuming", "post_print", "wait_cleanup",
          "wait_user_action", "none")  # fmt: skip
_ENDS = {"aborted": "Aborted", "failed": "Failed"}

#: The queue of the cluster firmware. It has no field for a job's name, which comes from the file's.
CLUSTER = Interface(
    name="cluster",
    label="the queue of the cluster firmware",
    send=f"{_JOBS}/",
    fields={"owner": "spineprint", "require_printer_name": "{printer}"},
    authenticated=False,
    accepted=frozenset({200, 201}),
    calls={
        target: Call("PUT", f"{_JOBS}/{{uuid}}/action", {"action": target})
        for target in ("pause", "print", "abort")
    },
    withdraw=Call("DELETE", f"{_JOBS}/{{uuid}}"),
    jobs=f"{_JOBS}/",
    past=f"{_JOBS}/history/recently_completed",
    printers=f"{CLUSTER_API}/printers/",
    words={
        "queued": Word("queued"),
        "sent_to_printer": Word("sent_to_printer"),
        **{word: Word(word) for word in _BEGUN},
        # later firmware says how it ended where the earlier says only `wait_cleanup` (sheet 4.2)
        **{
            f"{end}_{word}": Word(word, result)
            for end, result in _ENDS.items()
            for word in ("post_print", "wait_cleanup", "wait_user_action")
        },
        "finished": Word("", "Finished", gone=True),
        **{end: Word("", result, gone=True) for end, result in _ENDS.items()},
    },
)

INTERFACES: Mapping[str, Interface] = {interface.name: interface for interface in (DIRECT, CLUSTER)}
