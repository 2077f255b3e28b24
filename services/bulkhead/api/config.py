"""The table [api] of the config file."""

from __future__ import annotations

import msgspec


class ApiConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """`group`: who besides root may use the socket (a group that does not exist is nobody)."""

    group: str = "docker"
