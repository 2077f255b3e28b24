"""The table [api] of the config file."""

from __future__ import annotations

from typing import Annotated

import msgspec


class ApiConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """`group`: who besides root may use the socket (a group that does not exist is nobody).

    `max_connections`: how many clients the socket has at once, and as many TCP; one more is answered 503. 0: any
    number. Handshakes of TLS have a bound of their own (`relay.MOST_HANDSHAKES`).

    `body_timeout`: seconds within which the body of a request must come, where it is none of those that stream
    (load, import, build, copying into a container): these may take as long as they like if they get on
    (`call.PROGRESS`).

    `listen`: `tcp://host:port` beside the socket, for clients with a certificate of `tlscacert`; `tlscert` and
    `tlskey` are what the daemon shows them. `hosts`: names besides the certificate's by which clients may call it.
    """

    group: str = "docker"
    listen: str = ""
    tlscacert: str = ""
    tlscert: str = ""
    tlskey: str = ""
    hosts: tuple[str, ...] = ()
    max_connections: Annotated[int, msgspec.Meta(ge=0)] = 4096
    body_timeout: Annotated[float, msgspec.Meta(gt=0)] = 300.0
