"""The one typed configuration: a TOML file, every key also as `SPINEPRINT_SECTION__KEY` in the environment.

Unknown keys are faults. All faults are reported at once, with their place.
"""

from __future__ import annotations

import copy
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlparse

from pydantic import Field, StringConstraints, ValidationError, model_validator

from service.config_base import Section as _Section
from service.config_sterilisation import SterilisationConfig
from service.errors import ConfigError

AeTitle = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=16, pattern=r"^[ -\[\]-~]+$")
]
Port = Annotated[int, Field(ge=0, le=65535)]
ENV_PREFIX = "SPINEPRINT_"
_BETWEEN = "; "
#: Variables with our prefix that are not configuration keys.
_ENV_OTHER = {"SPINEPRINT_CONFIG", "SPINEPRINT_DATA"}


class WebConfig(_Section):
    host: str = "127.0.0.1"
    port: Port = 8080
    session_hours: float = Field(12.0, gt=0)
    or_poll_s: float = Field(1.0, gt=0, description="Retry-After given to the OR terminal")
    max_upload_mb: int = Field(
        8192, ge=1, description="largest STOW-RS request or upload, and what a zip may unpack to"
    )


class PeerConfig(_Section):
    ae_title: AeTitle
    host: str
    port: Port
    roles: tuple[Literal["planning_ct", "oarm", "pacs"], ...] = ()
    quiet_s: float | None = Field(
        None, gt=0, description="a study from this sender is complete after this long without an image"
    )
    tls: bool = Field(False, description="call this peer over TLS, with our certificate")
    commitment: bool = Field(False, description="ask this PACS to commit to the results it was sent")


class DicomConfig(_Section):
    ae_title: AeTitle = "SPINEPRINT"
    host: str = "127.0.0.1"
    port: Port = 11112
    tls_port: Port | None = None
    tls_certificate: Path | None = Field(None, description="PEM: our certificate, then any intermediates")
    tls_key: Path | None = Field(None, description="PEM: its private key")
    tls_ca: Path | None = Field(None, description="PEM: who signed the certificates of our peers")
    quiet_s: float = Field(30.0, gt=0, description="planning study complete after this long without an image")
    oarm_quiet_s: float = Field(3.0, gt=0)
    require_known_peers: bool = False
    max_associations: int = Field(32, ge=1)
    disk_reserve_mb: int = Field(2048, ge=0)
    peers: tuple[PeerConfig, ...] = ()
    web_destinations: tuple[WebDestinationConfig, ...] = ()


class WebDestinationConfig(_Section):
    """A PACS that takes results over DICOMweb (STOW-RS, PS3.18 section 10.5)."""

    name: AeTitle
    url: str = Field(description="base of the DICOMweb service; results go to URL/studies")
    user: str | None = Field(None, min_length=1)
    password_file: Path | None = None
    ca_file: Path | None = Field(
        None, description="PEM: who signed the server's certificate, if not a public CA"
    )
    roles: tuple[Literal["pacs"], ...] = ("pacs",)

    @model_validator(mode="after")
    def _fits_together(self) -> WebDestinationConfig:
        parsed = urlparse(self.url)
        if parsed.scheme not in ("http", "https") or not parsed.hostname or parsed.query or parsed.fragment:
            raise ValueError(f"url must look like https://pacs/dicom-web, found {self.url!r}")
        if parsed.username or parsed.password:
            raise ValueError("url must not hold a password; use user and password_file")
        if bool(self.user) != (self.password_file is not None):
            raise ValueError("user and password_file belong together")
        if (
            self.user
            and parsed.scheme != "https"
            and parsed.hostname not in ("127.0.0.1", "localhost", "::1")
        ):
            raise ValueError("a password is only sent over https")
        return self


class DeliveryConfig(_Section):
    """Results to the PACS: how long to try. Both must be reached before an object becomes a dead letter."""

    give_up_h: float = Field(72.0, gt=0, description="hours since the first failure")
    give_up_tries: int = Field(10, ge=1)
    commitment_wait_h: float = Field(
        1.0, gt=0, description="without a storage commitment report for this long, ask again"
    )


_GUID = r"^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$"


class PrinterConfig(_Section):
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,32}$")]
    url: str
    credentials_file: Path
    interface: Literal["direct", "cluster"] = Field(
        "direct",
        description="what jobs are sent by: the printer's own interface, which is there on all firmware, or the queue "
        "of the cluster firmware (Cura Connect, Digital Factory); the machine is read through the first either way",
    )
    poll_s: float = Field(2.0, gt=0)
    camera: bool = Field(True, description="keep a picture of the first layer and of the end of each print")
    materials: list[Annotated[str, StringConstraints(pattern=_GUID, to_lower=True)]] = Field(
        [],
        description="GUIDs of further PLA spools that may be loaded, as the printer reports them; those of UltiMaker's "
        "own generic, black, white, silver and transparent PLA are known",
    )

    @model_validator(mode="after")
    def _url_is_http(self) -> PrinterConfig:
        parsed = urlparse(self.url)
        if parsed.scheme not in ("http", "https") or not parsed.hostname:
            raise ValueError(f"url must look like http://printer-address, found {self.url!r}")
        return self


class SlicerConfig(_Section):
    engine: Path | None = None
    resources: Path | None = None
    support: Literal["tree", "normal"] = "tree"
    """`normal` slices in half the time and is harder to remove from between the processes."""


class ModelConfig(_Section):
    """Paper and facts sheet: shell 2.0 mm; 13 G needle 2.413 mm; angle ranges 0-15 and 10-30 degrees."""

    shell_mm: float = Field(2.0, gt=0.8, le=5)
    channel_diameter_mm: float = Field(2.8, gt=2.413, le=6)
    sleeve_wall_mm: float = Field(2.0, gt=0.8, le=5)
    vent_diameter_mm: float = Field(
        3.4, ge=3.2, le=8, description="as modelled; meshing narrows it by up to 0.07 mm, 3.0 mm must remain"
    )
    target: Literal["body_centre", "anterior_third"] = "body_centre"
    surface: Literal["threshold", "corrected"] = Field(
        "corrected",
        description="`corrected` moves the 226 HU surface to the bone's edge where the CT shows it well enough",
    )
    min_confidence: float = Field(0.5, ge=0, le=1)


class IsolationConfig(_Section):
    segmentation_model: Path | None = Field(
        None,
        description="folder with model.onnx and model.json (docs/segmentation-model.md); none: shapes are fitted",
    )


class LabelsConfig(_Section):
    gtin: str = Field("", description="the hospital's own GTIN-14; empty: no GS1 code is printed")

    @model_validator(mode="after")
    def _check_digit(self) -> LabelsConfig:
        """GS1 General Specifications, 7.9: weights 3 and 1 from the left over the first 13 digits."""
        if not self.gtin:
            return self
        if len(self.gtin) != 14 or not (self.gtin.isascii() and self.gtin.isdigit()):
            raise ValueError("gtin must be 14 digits; give the leading zeros too")
        total = sum(int(d) * (3 if n % 2 == 0 else 1) for n, d in enumerate(self.gtin[:13]))
        if (10 - total % 10) % 10 != int(self.gtin[13]):
            raise ValueError("gtin: the check digit is wrong")
        return self


class CostsConfig(_Section):
    """For the estimate of what a print costs; without a price none is shown."""

    currency: str = Field("EUR", min_length=1, max_length=8)
    pla_per_kg: float | None = Field(None, ge=0, description="price of a kilogram of PLA filament")
    printer_per_h: float | None = Field(None, ge=0, description="price of an hour of the printer")


class SimulationConfig(_Section):
    """Only for demonstrations and tests: lets the clock be moved forward. Refused beside real devices."""

    enabled: bool = False


class WorkerConfig(_Section):
    executor_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "worker-1"
    job_timeout_s: float = Field(1800, gt=0)


class Config(_Section):
    data_dir: Path = Path("spineprint-data")
    database_url: str = ""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    web: WebConfig = WebConfig()
    dicom: DicomConfig = DicomConfig()
    delivery: DeliveryConfig = DeliveryConfig()
    printers: tuple[PrinterConfig, ...] = ()
    slicer: SlicerConfig = SlicerConfig()
    model: ModelConfig = ModelConfig()
    isolation: IsolationConfig = IsolationConfig()
    sterilisation: SterilisationConfig = SterilisationConfig()
    labels: LabelsConfig = LabelsConfig()
    costs: CostsConfig = CostsConfig()
    simulation: SimulationConfig = SimulationConfig()
    worker: WorkerConfig = WorkerConfig()

    @model_validator(mode="after")
    def _check_whole(self) -> Config:
        faults = []
        names = [p.name for p in self.printers]
        faults += [
            f"printers: name {n!r} is used twice" for n in sorted({n for n in names if names.count(n) > 1})
        ]
        faults += self._tls_faults()
        titles = [p.ae_title for p in self.dicom.peers]
        faults += [
            f"dicom.peers: {t!r} is listed twice" for t in sorted({t for t in titles if titles.count(t) > 1})
        ]
        faults += [
            f"dicom.web_destinations: name {n!r} is used twice, or is a peer's AE title"
            for n in _repeated([w.name for w in self.dicom.web_destinations], titles)
        ]
        if self.database_url and not self.database_url.startswith(("sqlite://", "postgresql")):
            faults.append("database_url: expected sqlite:///... or postgresql+psycopg://...")
        faults += self._model_faults()
        if self.simulation.enabled:
            urls = [p.url for p in self.printers] + [w.url for w in self.dicom.web_destinations]
            hosts = [urlparse(url).hostname or "" for url in urls] + [p.host for p in self.dicom.peers]
            real = [h for h in hosts if h not in ("127.0.0.1", "localhost", "::1")]
            if real:
                faults.append(
                    "simulation.enabled: not allowed beside devices that are not on this machine: "
                    + ", ".join(real)
                )
        if faults:
            raise ValueError(_BETWEEN.join(faults))
        return self

    def _tls_faults(self) -> list[str]:
        dicom = self.dicom
        files = {"tls_certificate": dicom.tls_certificate, "tls_key": dicom.tls_key, "tls_ca": dicom.tls_ca}
        missing = ", ".join(key for key, path in files.items() if path is None)
        faults = []
        if dicom.tls_port is not None and missing:
            faults.append(f"dicom.tls_port: DICOM over TLS also needs {missing}")
        if any(peer.tls for peer in dicom.peers) and missing:
            faults.append(f"dicom.peers: a peer with tls needs {missing} in [dicom]")
        return faults

    def _model_faults(self) -> list[str]:
        """Sizes that would be built and printed only to be refused by sterile services."""
        (low, high), opening = self.sterilisation.channel_mm.value, self.sterilisation.min_opening_mm.value
        faults = []
        if not low <= self.model.channel_diameter_mm <= high:
            faults.append(
                f"model.channel_diameter_mm: {self.model.channel_diameter_mm:g} is outside the range validated for "
                f"sterilisation, {low:g} to {high:g} (sterilisation.channel_mm)"
            )
        if self.model.vent_diameter_mm < opening:
            faults.append(
                f"model.vent_diameter_mm: {self.model.vent_diameter_mm:g} is below {opening:g} "
                "(sterilisation.min_opening_mm)"
            )
        return faults

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite:///{(self.data_dir / 'spineprint.sqlite3').resolve()}"

    @property
    def queue_database_url(self) -> str:
        """The job engine's own database: disposable, rebuilt from the case states."""
        if self.database_url.startswith("postgresql"):
            return self.database_url
        return f"sqlite:///{(self.data_dir / 'queue.sqlite3').resolve()}"


def _repeated(names: list[str], taken: list[str]) -> list[str]:
    return sorted({n for n in names if names.count(n) > 1 or n in taken})


def load_config(path: Path | None, environ: dict[str, str] | None = None) -> Config:
    """Read file and environment (environment wins).

    Raises
    ------
    ConfigError
        Naming every fault: unreadable file, unknown key, wrong value, contradiction.
    """
    env = dict(os.environ if environ is None else environ)
    chosen = path or (Path(env["SPINEPRINT_CONFIG"]) if env.get("SPINEPRINT_CONFIG") else None)
    faults: list[str] = []
    document: dict[str, Any] = {}
    if chosen is not None:
        try:
            document = tomllib.loads(chosen.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as exc:
            faults.append(f"{chosen}: cannot be read ({exc})")
        except tomllib.TOMLDecodeError as exc:
            faults.append(f"{chosen}: not valid TOML ({exc})")
    faults += _merge_environment(document, env)
    config = None
    try:
        config = Config.model_validate(document)
    except ValidationError as exc:
        faults += [text for e in exc.errors() for text in _fault_texts(e)]
        faults += _contradictions(document, exc)
    if faults or config is None:
        raise ConfigError(
            "The configuration has faults:\n" + "\n".join(f"  - {f}" for f in faults),
            next_step="Correct the file or the environment; `spineprint check-config` shows all faults at once.",
            details={"faults": faults},
        )
    return config


def _merge_environment(document: dict[str, Any], env: dict[str, str]) -> list[str]:
    faults = []
    for name in sorted(env):
        if not name.startswith(ENV_PREFIX) or name in _ENV_OTHER:
            continue
        parts = name[len(ENV_PREFIX) :].lower().split("__")
        field = Config.model_fields.get(parts[0])
        deep = (
            field is not None
            and isinstance(field.annotation, type)
            and issubclass(field.annotation, _Section)
        )
        if field is None or parts[0] == "printers" or len(parts) > (2 if deep else 1):
            faults.append(f"environment {name}: unknown key")
            continue
        if len(parts) == 1:
            document[parts[0]] = env[name]
        else:
            section = document.setdefault(parts[0], {})
            if isinstance(section, dict):
                section[parts[1]] = env[name]
    return faults


def _contradictions(document: dict[str, Any], refused: ValidationError) -> list[str]:
    """What does not fit together in the rest, once the values that are wrong by themselves are left out.

    Without this a contradiction would show only after every single value is right.
    """
    places = [e["loc"] for e in refused.errors()]
    if () in places:
        return []  # the whole was looked at already
    rest = copy.deepcopy(document)
    # From the back, so that the numbers of list entries that go out do not shift the others.
    paths = {_removable(place) for place in places}
    for path in sorted(paths, key=lambda p: [str(k).zfill(6) for k in p], reverse=True):
        _leave_out(rest, path)
    try:
        Config.model_validate(rest)
    except ValidationError as exc:
        return [text for e in exc.errors() if e["loc"] == () for text in _fault_texts(e)]
    return []


def _removable(place: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The faulty key; in a list (printers, peers) the whole entry, which may need the key."""
    numbered = [n for n, key in enumerate(place) if isinstance(key, int)]
    return place[: numbered[0] + 1] if numbered else place


def _leave_out(document: dict[str, Any], path: tuple[int | str, ...]) -> None:
    inner: Any = document
    for key in path[:-1]:
        inner = inner.get(key) if isinstance(inner, dict) else None
    last = path[-1]
    if isinstance(inner, dict):
        inner.pop(last, None)
    elif isinstance(inner, list) and isinstance(last, int) and last < len(inner):
        del inner[last]


def _fault_texts(error: Any) -> list[str]:
    where = ".".join(str(p) for p in error["loc"])
    if error["type"] == "extra_forbidden":
        return [f"{where}: unknown key"]
    own = error.get("ctx", {}).get("error")
    if not where:
        return str(own or error["msg"]).split(_BETWEEN)
    return [f"{where}: {own or error['msg']}"]
