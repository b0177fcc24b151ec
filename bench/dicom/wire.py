"""A few PDUs as bytes, made with pynetdicom's classes, for clients that DCMTK's programs cannot play."""

from __future__ import annotations

from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import build_context

VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"


def associate_request(called: str, calling: str, *classes: str, max_pdu: int = 131072) -> bytes:
    """An A-ASSOCIATE-RQ for these classes in Explicit and Implicit VR."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = calling, called
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = max_pdu
    implementation.implementation_class_uid = "1.2.826.0.1.3680043.10.9999.3"
    primitive.user_information = [length, implementation]
    contexts = [build_context(name, [EXPLICIT, IMPLICIT]) for name in classes]
    for number, context in enumerate(contexts):
        context.context_id = 2 * number + 1
    primitive.presentation_context_definition_list = contexts
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    return bytes(pdu.encode())


def echo_only(called: str, calling: str) -> bytes:
    return associate_request(called, calling, VERIFICATION)
