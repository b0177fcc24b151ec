"""What is done to one print: the fault, the instant of the kill, how the print ends. Tables, and a draw from them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.printing.wire import ANSWERED, ASKED, BODY, PASSED, Seen

_JOB = "/api/v1/print_job"
#: Where a file is sent to, by either interface.
_UPLOAD_PATHS = frozenset({_JOB, "/cluster-api/v1/print_jobs/"})
_UPLOAD = {"match": "/print_job", "method": "POST", "count": 1}

#: Faults of the simulator's panel (simulators/ultimaker/faults.py) that are there when the print is started.
SENDING_FAULTS: Mapping[str, Sequence[Mapping[str, object]]] = {
    "none": (),
    "answer to the upload lost": ({"kind": "drop_reply", **_UPLOAD},),
    "upload cut off": ({"kind": "drop_upload", "seconds": 4000, **_UPLOAD},),
    "500 instead of the work": ({"kind": "error_500", **_UPLOAD},),
    "500 after the work": ({"kind": "work_then_500", **_UPLOAD},),
    "garbage instead of the work": ({"kind": "garbage", **_UPLOAD},),
    "upload read slowly": ({"kind": "slow", "seconds": 3, **_UPLOAD},),
    "upload digested for long": ({"kind": "slow", "seconds": 16, **_UPLOAD},),
    "silent from the upload on": (
        {"kind": "silent", "seconds": 3, **_UPLOAD}, {"kind": "refuse_connection", "match": "/history"},
    ),
    "no connection at all": ({"kind": "refuse_connection"},),
    "pairing not checked": ({"kind": "error_500", "match": "/auth/verify", "count": 1},),
    "nonce expired at the upload": ({"kind": "nonce_expired", **_UPLOAD},),
    "header check answers garbage": ({"kind": "garbage", "match": "validate_header", "count": 1},),
    "answer lost, history empty": ({"kind": "drop_reply", **_UPLOAD}, {"kind": "history_empty"}),
    "answer lost, job denied": ({"kind": "drop_reply", **_UPLOAD}, {"kind": "job_404"}),
    "answer lost, job and history denied": (
        {"kind": "drop_reply", **_UPLOAD}, {"kind": "job_404"}, {"kind": "history_empty"}, {"kind": "queue_empty"},
    ),
    "answer lost, printer lies altogether": (
        {"kind": "drop_reply", **_UPLOAD}, {"kind": "job_404"}, {"kind": "history_empty"}, {"kind": "queue_empty"},
        {"kind": "false_idle"},
    ),
}  # fmt: skip

#: Faults that come when the print runs.
PRINTING_FAULTS: Mapping[str, Sequence[Mapping[str, object]]] = {
    "silent while printing": ({"kind": "silent"},),
    "no connection while printing": ({"kind": "refuse_connection"},),
    "500 while printing": ({"kind": "error_500"},),
    "garbage while printing": ({"kind": "garbage"},),
    "idle told while printing": ({"kind": "false_idle"},),
    "job denied while printing": ({"kind": "job_404"},),
    "job and history denied while printing": (
        {"kind": "job_404"}, {"kind": "history_empty"}, {"kind": "queue_empty"},
    ),
    "all denied while printing": (
        {"kind": "job_404"}, {"kind": "history_empty"}, {"kind": "queue_empty"}, {"kind": "false_idle"},
    ),
    "odd state told while printing": ({"kind": "odd_state", "value": "dancing"},),
    "odd status told while printing": ({"kind": "odd_status", "value": "dreaming"},),
    "slow answers while printing": ({"kind": "slow", "seconds": 1.0},),
    "paused at the panel": ({"kind": "panel_pause"},),
    "reboot": ({"kind": "reboot"},),
    "power cut": ({"kind": "power_cut"},),
    "stopped at the panel": ({"kind": "panel_abort"},),
}  # fmt: skip

#: Moment on the wire at which the service is killed; `None`: it is not. Counted after the start of the scenario.
INSTANTS: Mapping[str, tuple[str, str, str] | None] = {
    "no kill": None,
    "printer asked": (ASKED, "GET", "/api/v1/printer"),
    "credentials checked": (ANSWERED, "GET", "/api/v1/auth/verify"),
    "header being checked": (ASKED, "POST", "/api/v1/printer/validate_header"),
    "header checked": (PASSED, "POST", "/api/v1/printer/validate_header"),
    "upload asked": (ASKED, "POST", _JOB),
    "upload under way": (BODY, "POST", _JOB),
    "started, answer held": (ANSWERED, "POST", _JOB),
    "answer passed": (PASSED, "POST", _JOB),
    "poll under way": (ANSWERED, "GET", _JOB),
    "poll passed": (PASSED, "GET", "/api/v1/printer"),
    "history asked": (ASKED, "GET", "/api/v1/history/print_jobs"),
}
#: Which stretch of the print the instant is waited for in.
STRETCHES = ("sending", "printing", "ended", "cleared")
_OF_SENDING = frozenset(
    {"credentials checked", "header being checked", "header checked", "upload asked", "upload under way",
     "started, answer held", "answer passed"}
)  # fmt: skip
ENDINGS = ("finished", "finished", "finished", "aborted", "power cut")
#: Machines of different firmware and habits (simulators/ultimaker/options.py). One with `cluster_size` is sent its jobs
#: by the queue of the cluster firmware: every other one, and so about half of the scenarios.
MACHINES: Sequence[Mapping[str, object]] = (
    {"denied_status": 403, "busy_status": 400, "nonce_lifetime_wall_s": 2.0},
    {"cluster_size": 1},
    {"firmware": "3.7.8.20170308"},
    {"cluster_size": 2, "cluster_same_uuid": False, "cluster_old_words": True, "cluster_sent_s": 20.0,
     "after_power_cut": "reboot_job", "keeps_file_ending": True},
    {"stale_flag": True, "none_s": 4.0, "after_power_cut": "reboot_job"},
    {"cluster_size": 1, "cluster_recent": 0, "cluster_deleted_shown": True},
)  # fmt: skip
#: Printers beside those that scenarios begin on: for attempts that are made again elsewhere.
SPARES: Sequence[Mapping[str, object]] = ({"cluster_size": 1}, {})


@dataclass(frozen=True)
class Scenario:
    number: int
    fault: str
    instant: str
    stretch: str
    delay_s: float
    """From the instant to the signal."""
    body_bytes: int
    """For an instant in the upload: how much of it has passed."""
    hold_s: float
    """How long the printer goes on lying, or not answering, afterwards."""
    ending: str
    elsewhere: bool = False
    """A further attempt, after one that certainly started nothing, goes to another printer."""

    @property
    def faults(self) -> Sequence[Mapping[str, object]]:
        return SENDING_FAULTS.get(self.fault) or PRINTING_FAULTS.get(self.fault, ())

    @property
    def fault_while_printing(self) -> bool:
        return self.fault in PRINTING_FAULTS

    def is_instant(self, seen: Seen) -> bool:
        wanted = INSTANTS[self.instant]
        path = seen.path.partition("?")[0]
        if seen.method == "POST" and path in _UPLOAD_PATHS:
            path = _JOB
        if wanted is None or (seen.what, seen.method, path) != wanted:
            return False
        return seen.what != BODY or seen.count >= self.body_bytes


def draw(seed: int, count: int) -> list[Scenario]:
    """`count` scenarios; every fault and every instant comes up equally often, in every run of the same seed alike."""
    rng = random.Random(seed)
    faults = _dealt(rng, [*SENDING_FAULTS, *PRINTING_FAULTS], count)
    instants = _dealt(rng, list(INSTANTS), count)
    found = []
    for number, (fault, instant) in enumerate(zip(faults, instants, strict=True)):
        stretch = "sending" if instant in _OF_SENDING else rng.choice(STRETCHES)
        found.append(
            Scenario(
                number=number,
                fault=fault,
                instant=instant,
                stretch=stretch,
                delay_s=rng.choice((0.0, 0.0, rng.uniform(0.0, 0.05), rng.uniform(0.0, 0.5))),
                body_bytes=rng.randint(1, 20_000),
                hold_s=rng.uniform(0.0, 6.0),
                ending=rng.choice(ENDINGS),
                elsewhere=rng.random() < 0.6,
            )
        )
    return found


def _dealt(rng: random.Random, words: list[str], count: int) -> list[str]:
    dealt: list[str] = []
    while len(dealt) < count:
        rng.shuffle(words)
        dealt += words
    return dealt[:count]
