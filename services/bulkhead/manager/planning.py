"""Launches worked out for shims (`runtime.planned`): what a config or a process comes to, as bytes.

It saves the shim the time and saves nobody from being refused: what cannot be worked out here, for whatever reason, is
left to the shim, which has the words for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import structlog

from bulkhead.errors import BulkheadError
from bulkhead.runtime import planned
from bulkhead.runtime.planned import Planned
from bulkhead.runtime.rootfs import OverlayRootfs

log = structlog.get_logger()
# It goes with other things in a message of 4 MiB at most (wire.ttrpc): without a plan the order still arrives.
_LARGEST = 1 << 20
_TROUBLE = (BulkheadError, OSError, ValueError, TypeError, KeyError, AttributeError)


def of_container(container_id: str, text: bytes, rootfs: OverlayRootfs | None) -> bytes:
    """The launch of the container whose config.json is `text`; empty where the shim must work it out."""
    try:
        config = msgspec.json.decode(text, type=dict[str, Any])
        # As the shim reads it: its own score must not be inherited.
        if config["process"].get("oomScoreAdj") is None:
            config["process"]["oomScoreAdj"] = 0
        return _packed(planned.container(container_id, config, rootfs))
    except _TROUBLE as error:
        log.debug("launch not planned", container=container_id, reason=str(error))
        return b""


def of_process(bundle: Path, process: dict[str, Any], size: tuple[int, int]) -> bytes:
    """The launch of a further process in the container of `bundle`; empty where the shim must work it out."""
    try:
        config = msgspec.json.decode((bundle / "config.json").read_bytes(), type=dict[str, Any])
        height, width = size
        sized = {"consoleSize": {"height": height, "width": width}} if height and width else {}
        score = {"oomScoreAdj": 0} if process.get("oomScoreAdj") is None else {}
        return _packed(planned.further_process(config, {**process, **sized, **score}))
    except _TROUBLE as error:
        log.debug("launch not planned", bundle=str(bundle), reason=str(error))
        return b""


def _packed(found: Planned | None) -> bytes:
    packed = b"" if found is None else found.pack()
    return packed if len(packed) <= _LARGEST else b""
