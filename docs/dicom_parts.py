"""The tables of the DICOM conformance statement that follow from the code; used by `generate.py`.

Where a table explains numbers (statuses, failure reasons), the numbers come from the code and the words from here: a
name that the code no longer has stops the generation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Head and rows."""
Part = Callable[[], Table]


def storage_classes() -> Table:
    from pydicom.uid import UID

    from adapters.dicom_node.contexts import STORAGE_CLASSES

    classes = sorted(STORAGE_CLASSES, key=lambda uid: [int(n) for n in uid.split(".")])
    return ("SOP class", "UID"), [(UID(c).name, f"`{c}`") for c in classes]


def transfer_syntaxes() -> Table:
    from pydicom.uid import UID

    from adapters.dicom_node.contexts import STORAGE_SYNTAXES
    from service.imaging import pixels
    from service.imaging.headers import LOSSY_SYNTAXES

    rows = []
    for syntax in STORAGE_SYNTAXES:
        name = UID(syntax).name
        read = "yes" if syntax in pixels._DECODER or syntax in pixels._NATIVE else "no"
        if read == "yes" and syntax in LOSSY_SYNTAXES:
            read = "yes, marked as lossy"
        rows.append((name, f"`{syntax}`", read))
    return ("transfer syntax", "UID", "pixels are read"), rows


def node_limits() -> Table:
    from dataclasses import fields

    from adapters.dicom_node import commitment, commitment_content, listener, negotiation
    from adapters.dicom_node.receiver import NodeConfig
    from service.config import DicomConfig

    node = {f.name: f.default for f in fields(NodeConfig)}
    keys = {name: field.default for name, field in DicomConfig.model_fields.items()}
    rows = [
        ("AE title", f"`{keys['ae_title']}`", "`ae_title`"),
        ("port", str(keys["port"]), "`port`"),
        ("port for TLS", "none", "`tls_port`, with `tls_certificate`, `tls_key`, `tls_ca`"),
        ("only listed callers are let in", str(keys["require_known_peers"]).lower(), "`require_known_peers`"),
        (
            "associations at work at a time (silent ones do not count)",
            str(keys["max_associations"]),
            "`max_associations`",
        ),
        ("free space kept on the disk", f"{keys['disk_reserve_mb']} MB", "`disk_reserve_mb`"),
        ("connections at a time, of any kind", str(listener._MOST_CONNECTIONS), "-"),
        ("presentation contexts in one request", str(negotiation._MOST_CONTEXTS), "-"),
        ("PDU size received, as announced", f"{node['max_pdu_bytes']} bytes", "-"),
        ("longest PDU taken", f"{node['longest_pdu_bytes']} bytes", "-"),
        ("connection to association request", f"{node['acse_timeout_s']:g} s", "-"),
        ("TLS handshake", f"{node['handshake_timeout_s']:g} s", "-"),
        ("silence on an association", f"{node['network_timeout_s']:g} s", "-"),
        ("one PDU, first to last byte", f"{node['pdu_timeout_s']:g} s", "-"),
        ("largest instance", f"{node['max_instance_bytes'] >> 30} GiB", "-"),
        ("references in one commitment request", str(commitment_content.MOST_REFERENCES), "-"),
        ("commitment requests of one caller not yet reported", str(commitment._MOST_PENDING), "-"),
    ]
    return ("limit", "default", "key in `[dicom]`"), rows


#: What each status of the node means here, by its name in the code; the numbers come from there.
_STORE_MEANINGS = {
    "SUCCESS": ("Success", "the instance is on stable storage. Also for one that is here already, and for other "
                "content under a known UID, which is kept in quarantine and reported to the administrator"),
    "OUT_OF_RESOURCES": ("Refused: out of resources", "free space is below the reserve, the disk is full, or the "
                         "instance is larger than the limit; the sender can send again later"),
    "CLASS_MISMATCH": ("Error: data set does not match SOP class", "the class of the request is not that of its "
                       "presentation context"),
    "CANNOT_UNDERSTAND": ("Error: cannot understand", "no data set, or a UID that is none"),
    "CLASS_NOT_SUPPORTED": ("Refused: SOP class not supported", "the context is not one of a storage class"),
    "PROCESSING_FAILURE": ("Processing failure", "the store cannot be written"),
}  # fmt: skip
_COMMITMENT_MEANINGS = {
    "SUCCESS": ("Success", "the request is on stable storage", "the outcome was taken"),
    "PROCESSING_FAILURE": ("Processing failure", "-", "the outcome could not be kept; it has to be repeated"),
    "NO_SUCH_INSTANCE": ("No such SOP instance", "not the well-known instance", "as for N-ACTION"),
    "NO_SUCH_EVENT": ("No such event type", "-", "an event type other than 1 and 2"),
    "INVALID_ARGUMENT": ("Invalid argument value", "Transaction UID or Referenced SOP Sequence missing, empty or "
                         "malformed; Transaction UID in use for another request",
                         "Transaction UID missing or malformed; no instance named"),
    "NO_SUCH_CLASS": ("No such SOP class", "not the Push Model", "as for N-ACTION"),
    "NO_SUCH_ACTION": ("No such action", "an action type other than 1", "-"),
    "NOT_AUTHORISED": ("Refused: not authorised", "the caller is not listed with an address and a port to report to",
                       "the caller is not listed, or this node asked for nothing"),
    "MISTYPED_ARGUMENT": ("Mistyped argument", "the data set cannot be read", "as for N-ACTION"),
    "RESOURCE_LIMITATION": ("Resource limitation", "too many references or waiting requests, or the disk is full",
                            "too many references"),
}  # fmt: skip
_FAILURE_MEANINGS = {
    "FAILED_PROCESSING": "the stored file is damaged, or other content came under the same UID and waits in quarantine",
    "FAILED_ABSENT": "no such instance is stored",
    "FAILED_CLASS_CONFLICT": "an instance of another class is stored under this UID",
    "FAILED_CLASS_UNSUPPORTED": "not stored, and of a class that the node does not take",
}


def store_statuses() -> Table:
    from adapters.dicom_node import association

    rows = [(f"{getattr(association, name):04X}", *text) for name, text in _STORE_MEANINGS.items()]
    return ("status", "meaning", "when"), rows


def commitment_statuses() -> Table:
    from adapters.dicom_node import commitment_content as content

    rows = sorted((f"{getattr(content, name):04X}", *text) for name, text in _COMMITMENT_MEANINGS.items())
    return ("status", "meaning", "answer to N-ACTION when", "answer to N-EVENT-REPORT when"), rows


def commitment_failures() -> Table:
    from adapters.dicom_node import commitment_content as content

    rows = sorted((f"{getattr(content, name):04X}", text) for name, text in _FAILURE_MEANINGS.items())
    return ("Failure Reason (0008,1197)", "when"), rows


def stow_reasons() -> Table:
    from service.web.routers import stow

    rows = [(f"{reason:04X}", f"`{code}`") for code, reason in stow._REASONS.items()]
    rows.append((f"{stow._CANNOT_UNDERSTAND:04X}", "any other"))
    return ("Failure Reason (0008,1197)", "error code"), rows


def result_classes() -> Table:
    from pydicom.uid import (
        Comprehensive3DSRStorage,
        ExplicitVRLittleEndian,
        SecondaryCaptureImageStorage,
        SegmentationStorage,
    )

    from service.results.encapsulated import ENCAPSULATED_PDF, ENCAPSULATED_STL

    rows = [
        ("isolated vertebra", SegmentationStorage, "SEG", "after approval"),
        ("hollow model", ENCAPSULATED_STL, "M3D", "after approval"),
        ("views of the model", SecondaryCaptureImageStorage, "OT", "after approval"),
        (
            "needle accuracy, for machines",
            Comprehensive3DSRStorage,
            "SR",
            "after each scan that was assessed",
        ),
        ("needle accuracy, for people", ENCAPSULATED_PDF, "DOC", "after each scan that was assessed"),
        ("pictures of the scan", SecondaryCaptureImageStorage, "OT", "after each scan that was assessed"),
    ]
    return ("object", "SOP class", "UID", "modality", "transfer syntax", "made"), [
        (what, uid.name, f"`{uid}`", modality, ExplicitVRLittleEndian.name, when)
        for what, uid, modality, when in rows
    ]


def private_codes() -> Table:
    from pydicom.sr.coding import Code

    from service.results import codes

    def all_of(value: object) -> Iterator[Code]:
        if isinstance(value, Code):
            yield value
        elif isinstance(value, Mapping):
            for part in value.values():
                yield from all_of(part)
        elif isinstance(value, tuple):
            for part in value:
                yield from all_of(part)

    found = {code for value in vars(codes).values() for code in all_of(value)}
    private = sorted((c.value, c.meaning) for c in found if c.scheme_designator == codes.PRIVATE_SCHEME)
    return ("code value", "meaning"), [(f"`{value}`", meaning) for value, meaning in private]


DICOM_PARTS: Mapping[str, Part] = {
    "storage-classes": storage_classes,
    "transfer-syntaxes": transfer_syntaxes,
    "node-limits": node_limits,
    "store-statuses": store_statuses,
    "commitment-statuses": commitment_statuses,
    "commitment-failures": commitment_failures,
    "stow-reasons": stow_reasons,
    "result-classes": result_classes,
    "private-codes": private_codes,
}
