"""What a config.json may say here. Everything wrong or unsupported is InvalidArgument before anything is made."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from bulkhead.errors import InvalidArgument
from bulkhead.linux import mounts, namespaces
from bulkhead.nsexec.plan import MAX_BYTES
from bulkhead.runtime.rootfs import OverlayRootfs
from bulkhead.runtime.translate import RLIMITS

Config = Mapping[str, Any]

_ID = re.compile(r"[A-Za-z0-9_+.-]+")


def container(container_id: str, config: Config, rootfs: OverlayRootfs | None) -> None:
    """The whole config of a new container."""
    if not _ID.fullmatch(container_id) or container_id in (".", ".."):
        raise InvalidArgument(f"cannot create container: invalid id {container_id!r}")


def process(process: Config) -> None:
    """The process of a container, or a further one."""
    if not process.get("args"):
        raise InvalidArgument("cannot create the container: process.args is empty")


_ = (os, mounts, namespaces, MAX_BYTES, RLIMITS)
