"""A small PACS: sends studies by C-STORE as auto-routing does, and takes results in; independent of the service."""

from simulators.pacs.send import SendResult, send_directory
from simulators.pacs.sink import Faults, PacsSink

__all__ = ["Faults", "PacsSink", "SendResult", "send_directory"]
