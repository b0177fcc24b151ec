"""The wire of DICOM: durable C-STORE receiver with C-ECHO, and the sender.

`DicomNode` is a `service.ports.ImageNode`, `DicomSender` a `service.ports.ImageSender`.
"""

from adapters.dicom_node.receiver import DicomNode, NodeConfig
from adapters.dicom_node.sender import DicomSender

__all__ = ["DicomNode", "DicomSender", "NodeConfig"]
