"""The table [api] of the config file."""

from __future__ import annotations

import msgspec


class ApiConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """`group`: who besides root may use the socket (a group that does not exist is nobody).

    `listen`: `tcp://host:port` beside the socket, for clients with a certificate of `tlscacert`; `tlscert` and
    `tlskey` are what the daemon shows them. `hosts`: names besides the certificate's by which clients may call it.
    """

    group: str = "docker"
    listen: str = ""
    tlscacert: str = ""
    tlscert: str = ""
    tlskey: str = ""
    hosts: tuple[str, ...] = ()
