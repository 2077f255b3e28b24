"""TCP, for clients that show a certificate: what the daemon listens with, and the names it goes by.

There is no way to have TCP without: who reaches the API is root of the machine, and every web page, container and
neighbour can reach a port.
"""

from __future__ import annotations

import re
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from bulkhead.api.config import ApiConfig
from bulkhead.errors import Conflict, InvalidArgument

_ADDRESS = re.compile(r"tcp://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]*):([0-9]{1,5})")
_BACKLOG = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A bound TCP socket, its TLS context, and the names of the daemon's own certificate."""

    sock: socket.socket
    context: ssl.SSLContext
    names: tuple[str, ...]


def open_remote(config: ApiConfig) -> Remote | None:
    """What `listen` asks for; None when it asks for nothing.

    Raises InvalidArgument for an address or certificates that cannot be used, Conflict when the port is taken.
    """
    if not config.listen:
        return None
    match = _ADDRESS.fullmatch(config.listen)
    if match is None or int(match[2]) > 65535:
        raise InvalidArgument(f"cannot listen on {config.listen}: it is not tcp://host:port")
    missing = [name for name in ("tlscacert", "tlscert", "tlskey") if not getattr(config, name)]
    if missing:
        raise InvalidArgument(
            f"cannot listen on {config.listen}: over TCP clients must show a certificate: "
            f"set {', '.join(missing)} in [api]"
        )
    context = _context(config)
    return Remote(
        sock=_bound(config.listen, match[1].strip("[]") or "0.0.0.0", int(match[2])),
        context=context,
        names=_names(Path(config.tlscert)),
    )


def _context(config: ApiConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["http/1.1"])
    # Sessions would let a client in again whose certificate is no longer looked at.
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    try:
        context.load_cert_chain(config.tlscert, config.tlskey, password=_no_password)
        context.load_verify_locations(config.tlscacert)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InvalidArgument(f"cannot listen on {config.listen}: cannot use its certificates: {reason}") from error
    return context


def _no_password() -> str:
    """A daemon has no terminal to ask at, where OpenSSL would otherwise."""
    raise ValueError("the key is encrypted")


def _bound(listen: str, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise Conflict(f"cannot listen on {listen}: {error.strerror or error}") from error
    return sock


def _names(certificate: Path) -> tuple[str, ...]:
    from cryptography import x509  # 3 MB that only a daemon with a TCP socket needs

    try:
        shown = x509.load_pem_x509_certificate(certificate.read_bytes())
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return ()
    return tuple(names.get_values_for_type(x509.DNSName))
