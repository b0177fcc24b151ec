"""TLS for DICOM as the BCP 195 RFC 8996/9325 secure transport profile asks (PS3.15 annex B.12).

TLS 1.2 at least, forward secrecy and authenticated ciphers only, certificates on both sides.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from service.errors import ConfigError

_TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!SHA1"


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: our certificate with any intermediates, its key, and who signed the peers' certificates."""

    certificate: Path
    key: Path
    ca: Path

    @property
    def stamp(self) -> tuple[int, ...]:
        """Changes when a file is replaced, so that a renewed certificate is used without a restart."""
        return tuple(p.stat().st_mtime_ns for p in (self.certificate, self.key, self.ca))


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """For the listener; a client without a certificate of ours is refused. Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    return _filled(context, files)


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """For calls to peers, known by address: the chain is checked, the host name is not. Raises ConfigError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    return _filled(context, files)


def _filled(context: ssl.SSLContext, files: TlsFiles) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_TLS12_CIPHERS)
    try:
        context.load_cert_chain(files.certificate, files.key)
        context.load_verify_locations(files.ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"The TLS files of the DICOM node cannot be used ({error.__class__.__name__}: {error}).",
            next_step="Check [dicom] tls_certificate, tls_key and tls_ca: PEM files that belong together.",
            code="config.tls",
        ) from error
    return context
