"""C-FIND and C-MOVE as a client, Study Root (PS3.4 annex C)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
)

from adapters.dicom_node.outgoing import LOST, Caller, close, nothing_accepted, why_not_established
from adapters.dicom_node.tls import TlsFiles
from service.errors import DeviceError
from service.ports import Destination, FoundStudy, MoveProgress, MoveResult, MoveWatcher, StudyFinder

_MOST_MATCHES = 200
"""A PACS that ignores the key answers with everything it has."""
_PENDING = (0xFF00, 0xFF01)
_SEE_LOG = "See the log of the PACS, then repeat."


class DicomFinder(StudyFinder):
    """`response_timeout_s` is for one response; during C-MOVE a PACS may send none until the end."""

    def __init__(
        self,
        ae_title: str = "SPINEPRINT",
        *,
        tls: TlsFiles | None = None,
        connect_timeout_s: float = 10.0,
        find_timeout_s: float = 60.0,
        move_timeout_s: float = 900.0,
    ) -> None:
        self._find = Caller(ae_title, tls, connect_timeout_s, dimse_timeout_s=find_timeout_s)
        self._move = Caller(ae_title, tls, connect_timeout_s, dimse_timeout_s=move_timeout_s)

    def find(self, accession_number: str, destination: Destination) -> Sequence[FoundStudy]:
        """Studies with exactly this accession number; what a PACS sends besides is left out.

        Raises DeviceError: no connection, no query service, a failure status, too many matches.
        """
        association = _open(self._find, StudyRootQueryRetrieveInformationModelFind, destination)
        found: dict[str, FoundStudy] = {}
        try:
            responses = association.send_c_find(
                _key(accession_number), StudyRootQueryRetrieveInformationModelFind
            )
            for n, (status, match) in enumerate(responses):
                code = _code(status)
                if code not in _PENDING:
                    if code != 0:
                        raise _failed("the query", code, str(status.get("ErrorComment", "") or ""))
                    break
                if n >= _MOST_MATCHES:
                    association.abort()
                    raise DeviceError(
                        f"The PACS answered with more than {_MOST_MATCHES} studies.",
                        next_step="It seems to ignore the accession number; its query service must support it.",
                        code="pull.too_many",
                    )
                study = _study(match, accession_number)
                if study is not None:
                    found[study.study_uid] = study
        except LOST as error:
            raise _lost(error) from error
        finally:
            close(association)
        return list(found.values())

    def move(self, study_uid: str, destination: Destination, to_ae: str, watch: MoveWatcher) -> MoveResult:
        """Have the study sent to `to_ae`, which the PACS must know. Raises DeviceError when it cannot be asked."""
        association = _open(self._move, StudyRootQueryRetrieveInformationModelMove, destination)
        wanted = Dataset()
        wanted.QueryRetrieveLevel = "STUDY"
        wanted.StudyInstanceUID = study_uid
        last = MoveProgress()
        try:
            responses = association.send_c_move(wanted, to_ae, StudyRootQueryRetrieveInformationModelMove)
            for status, identifier in responses:
                code = _code(status)
                last = _progress(status, last)
                if code in _PENDING:
                    watch(last)
                    continue
                comment = str(status.get("ErrorComment", "") or "")
                return MoveResult(code, last, _failed_uids(identifier), comment)
        except LOST as error:
            return MoveResult(None, last, detail=f"the association was lost ({type(error).__name__})")
        finally:
            close(association)
        return MoveResult(None, last, detail="no response any more")


def _key(accession_number: str) -> Dataset:
    key = Dataset()
    key.QueryRetrieveLevel = "STUDY"
    key.AccessionNumber = accession_number
    for keyword in ("StudyInstanceUID", "StudyDate", "StudyDescription", "ModalitiesInStudy", "PatientID",
                    "NumberOfStudyRelatedInstances"):  # fmt: skip
        setattr(key, keyword, None)
    return key


def _study(match: Dataset | None, accession_number: str) -> FoundStudy | None:
    if match is None or accession_number not in _texts(match, "AccessionNumber"):
        return None
    uid = "".join(_texts(match, "StudyInstanceUID"))
    if not uid:
        return None
    count = "".join(_texts(match, "NumberOfStudyRelatedInstances"))
    return FoundStudy(
        study_uid=uid,
        study_date="".join(_texts(match, "StudyDate"))[:8],
        description=" ".join(_texts(match, "StudyDescription"))[:200],
        modalities=_texts(match, "ModalitiesInStudy"),
        instances=int(count) if count.isdecimal() and len(count) < 10 else None,
        patient_id="".join(_texts(match, "PatientID"))[:64],
    )


def _texts(match: Dataset, keyword: str) -> tuple[str, ...]:
    """The values of one key; none when it is missing, empty or nothing that its type allows."""
    try:
        value = match.get(keyword, None)
    except (ValueError, TypeError, OverflowError, ArithmeticError):
        return ()
    values = [] if value is None else value if isinstance(value, MultiValue) else [value]
    return tuple(text for v in values if (text := str(v).strip()))


def _progress(status: Dataset, before: MoveProgress) -> MoveProgress:
    def number(keyword: str, default: int) -> int:
        value = status.get(keyword, None)
        return default if value is None else int(value)

    remaining = status.get("NumberOfRemainingSuboperations", None)
    return MoveProgress(
        completed=number("NumberOfCompletedSuboperations", before.completed),
        failed=number("NumberOfFailedSuboperations", before.failed),
        warned=number("NumberOfWarningSuboperations", before.warned),
        remaining=None if remaining is None else int(remaining),
    )


def _failed_uids(identifier: Dataset | None) -> tuple[str, ...]:
    return _texts(identifier, "FailedSOPInstanceUIDList") if identifier is not None else ()


def _open(caller: Caller, model: str, destination: Destination) -> Any:
    entity = caller.entity()
    entity.add_requested_context(model)
    association = caller.associate(entity, destination)
    if nothing_accepted(association):
        raise DeviceError(
            f"{destination.ae_title} does not offer query/retrieve (Study Root) to us.",
            next_step="Let the PACS administrator allow it for our AE title.",
            code="pull.not_offered",
        )
    why = why_not_established(association, destination)
    if why:
        raise DeviceError(
            f"{destination.ae_title} cannot be asked: {why}.",
            next_step="Check address, port and AE titles on both sides, then repeat.",
            code="pull.no_connection",
        )
    return association


def _code(status: Dataset) -> int | None:
    return int(status.Status) if "Status" in status else None


def _failed(what: str, code: int | None, comment: str) -> DeviceError:
    words = "no answer" if code is None else f"status {code:04X} {comment}".strip()
    return DeviceError(f"The PACS failed {what}: {words}.", next_step=_SEE_LOG, code="pull.query_failed")


def _lost(error: Exception) -> DeviceError:
    return DeviceError(
        f"The connection to the PACS was lost ({type(error).__name__}).",
        next_step="Repeat; if it lasts, look at the network and the log of the PACS.",
        code="pull.lost",
    )
