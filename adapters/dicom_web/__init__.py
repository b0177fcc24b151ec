"""DICOMweb as a client: `StowSender` is a `service.ports.ImageSender`."""

from adapters.dicom_web.stow import StowSender, StowTarget

__all__ = ["StowSender", "StowTarget"]
