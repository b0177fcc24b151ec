"""The Ultimaker 3 over its local HTTP API (`/api/v1`): pairing, reading, preflight, a start at most once."""

from adapters.ultimaker.client import PrinterClient, Timeouts
from adapters.ultimaker.credentials import Credentials, load_credentials, store_credentials
from adapters.ultimaker.pairing import pair
from adapters.ultimaker.printer import PrinterSettings, UltimakerPrinter

__all__ = [
    "Credentials",
    "PrinterClient",
    "PrinterSettings",
    "Timeouts",
    "UltimakerPrinter",
    "load_credentials",
    "pair",
    "store_credentials",
]
