"""The table [supervisor] of the settings."""

from __future__ import annotations

from typing import Annotated

import msgspec


class SupervisorConfig(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """`spares` is how many forked shims wait for a container."""

    spares: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
