"""Everything about the simulated machine that can be switched, with what the reference sheet says of it."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass
class Options:
    """Switches. Durations end in `_s` (machine time) or `_wall_s` (the time of the person watching)."""

    name: str = "um3-sim"
    auto_allow: bool = False
    """Press "allow" on every pairing prompt."""
    clear_after_wall_s: float | None = None
    """A person takes the part off this long after the print has ended; None waits for the panel."""

    firmware: str = "4.3.3.20180529"
    """Below 4.0 the early shapes are served (no result, no validate_header, short history entries)."""
    variant: str = "Ultimaker 3"
    typeid: int = 9066
    cluster_size: int = 0
    """Printers in the group of the cluster firmware: its queue is served, and the mDNS record says so (sheet, sections
    4.2 and 7); 0: there is none."""
    cluster_mode: str = "open"
    """`open`: anybody on the network may send; `cloud`: nobody without a login (401)."""
    cluster_sent_s: float = 2.0
    """How long a file is on its way from the queue to the machine (`sent_to_printer`)."""
    cluster_same_uuid: bool = True
    """The machine shows a job of the queue under the queue's own identifier; else under one of its own."""
    cluster_old_words: bool = False
    """Without the words that begin with `aborted_` and `failed_`."""
    cluster_recent: int = 20
    """Entries of `recently_completed`."""
    cluster_deleted_shown: bool = False
    """A job taken out of the queue is told there as aborted, never started."""
    cluster_delete_begun_status: int = 405
    """Answer to the wish to take out a job that has begun."""
    cluster_queue_kept: bool = True
    """What waits outlives the power."""
    cluster_after_cut: str = "gone"
    """What the queue makes of a job that the power cut: `gone`, `aborted`, `failed`, or `queued` once more."""

    denied_status: int = 401
    """Answer to credentials that are not allowed (sheet section 3: 401 or 403)."""
    nonce_lifetime_wall_s: float = 300.0
    check_nc: bool = False
    stale_flag: bool = False
    check_window_wall_s: float = 60.0
    """How long `auth/check` says `authorized` after the press."""
    prompt_timeout_wall_s: float = 300.0
    check_after_lapse: str = "unauthorized"
    """What `auth/check` says once the prompt is gone unanswered; or `unknown` for ever."""
    id_length: int = 32
    key_length: int = 64

    keeps_file_ending: bool = False
    """The job is named by its file, ending and all (sheet section 4.1: which name wins differs by firmware)."""
    job_name_rule: str = "any"
    """`any`; `cut` after `job_name_length` characters; `plain`: lower case, other signs become `_`; `refuse` a longer
    one."""
    job_name_length: int = 64
    takes_ufp: bool = False
    """Files that end in `.ufp` at the direct call; else they are refused like a bad header."""
    owner_part: str = "ignore"
    """`keep` the parts `owner` and `created_at` in the history, `ignore` them, or `refuse` an upload with them."""
    ambient_temperature: bool = False
    """Has /ambient_temperature, as later machines do."""

    finding_level: str = ""
    """Of all findings of validate_header, or as CODE=LEVEL,CODE=LEVEL; empty: ours."""
    finding_data: str = "dict"
    """`dict`: a dictionary written as a text; `none`: an empty text; `odd`: a list, with keys nobody knows."""

    busy_status: int = 405
    busy_text: str = "Printer is busy"
    cleanup_status: int = 405
    """While a part lies on the plate."""
    cleanup_text: str = "Printer is busy"
    no_file_status: int = 400
    no_file_text: str = "No file"
    bad_header_status: int = 400
    bad_header_text: str = "Invalid header"
    on_bad_header: str = "refuse"
    """`refuse` with a 4xx, or `fail`: accept, then end at once with result Failed."""
    on_mismatch: str = "prompt"
    """Wrong core or material: `prompt` (wait_user_action), `start` or `refuse`."""
    after_power_cut: str = "history"
    """`history`: an entry without result or end; `reboot_job`: the job waits for clean-up, source Reboot; `nothing`:
    it was never written down (sheet section 5: whether the history is kept at the start or at the end)."""
    ended_job_after_power_cut: str = "kept"
    """A print that had ended, its part on the plate: `kept`, it waits for clean-up again; `gone`: the history keeps its
    result, and nobody ever confirms the plate."""

    after_hardware_error: str = "Failed"
    """The result that a hardware error leaves: `Failed`, `Aborted`, or `none` (no result, no end)."""
    hardware_error_status: str = "error"
    """printer/status from then on, until the power was off."""

    filament_sensor: bool = False
    """A flow sensor, as later machines have one; an Ultimaker 3 goes on without plastic."""

    none_s: float = 1.0
    abort_none_s: float = 3.0
    none_word: str = "none"
    """State of the job in these moments: `none`, or empty."""
    elapsed_from: str = "printing"
    """When time_elapsed begins: `printing` (end of pre_print) or `start`."""
    progress_scale: str = "time"
    """Of what `progress` is the share: `time`, or `bytes` of the file."""
    clock_offset_s: float = 0.0
    """How much the machine's clock is ahead, where nothing sets it; every time it tells is off by that."""
    homing_s: float = 25.0
    levelling_s: float = 110.0
    pausing_s: float = 4.0
    resuming_s: float = 8.0
    post_print_s: float = 60.0
    boot_dead_s: float = 15.0
    """From power on to the first HTTP answer."""
    booting_s: float = 30.0
    """How long the answer then is `booting`."""

    ambient_c: float = 22.0
    width_mm: float = 215.0
    depth_mm: float = 215.0
    height_mm: float = 200.0

    @property
    def early_firmware(self) -> bool:
        return int(self.firmware.split(".")[0]) < 4

    def change(self, name: str, value: object) -> None:
        """Set one switch from text or JSON. Raises ValueError for an unknown name or a value of another kind."""
        known = {f.name: f.type for f in fields(self)}
        if name not in known:
            raise ValueError(f"unknown option {name}; known: {', '.join(sorted(known))}")
        setattr(self, name, _convert(name, str(known[name]), value))


def _convert(name: str, kind: str, value: object) -> object:
    text = str(value)
    try:
        if kind == "bool":
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if kind == "int":
            return int(text)
        if kind.startswith("float"):
            return None if value is None or text.lower() == "none" else float(text)
    except (KeyError, ValueError) as exc:
        raise ValueError(f"option {name} wants {kind}, not {text!r}") from exc
    return text
