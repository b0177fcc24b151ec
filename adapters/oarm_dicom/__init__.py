"""Recognise intra-operative scans and compare their header with the nominal O-arm protocol.

Works on `service.domain.series.SeriesInfo`; grey values of such scans are not Hounsfield units.
"""

from adapters.oarm_dicom.nominal import NominalProtocol, ParameterFinding, Verdict, check_nominal
from adapters.oarm_dicom.recognise import HintSettings, Recognition, ScanKind, recognise

__all__ = [
    "HintSettings",
    "NominalProtocol",
    "ParameterFinding",
    "Recognition",
    "ScanKind",
    "Verdict",
    "check_nominal",
    "recognise",
]
