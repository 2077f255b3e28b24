"""Launches worked out for shims (`runtime.planned`): what a config or a process comes to, as bytes.

It saves the shim the time and saves nobody from being refused: what cannot be worked out here, for whatever reason, is
left to the shim, which has the words for it.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog

from bulkhead.errors import BulkheadError
from bulkhead.model.ids import short
from bulkhead.runtime import planned
from bulkhead.runtime.planned import Planned
from bulkhead.runtime.rootfs import OverlayRootfs

log = structlog.get_logger()
# It goes with other things in a message of 4 MiB at most (wire.ttrpc): without a plan the order still arrives.
_LARGEST = 1 << 20
# Some 60 KB each, and some 6 KB each.
_MOST_CONFIGS, _MOST_PLANS = 8, 64
# Some 20 KB each.
_MOST_KNOWN = 32
_ORDINARY = 32 << 10
K = TypeVar("K")
V = TypeVar("V")
# A file's inode, time of change and size.
_Version = tuple[int, int, int]
# For an id, and for the beginning of one.
_BLANKS = (b"\x01" * 64, b"\x02" * 12)
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


class ProcessPlans:
    """Launches of further processes. Health checks and the like ask for the same again and again: the configs and the
    plans that were used last are remembered, for as long as the config is the same file."""

    def __init__(self) -> None:
        self._configs: OrderedDict[str, tuple[_Version, dict[str, Any]]] = OrderedDict()
        self._plans: OrderedDict[tuple[str, _Version, bytes, tuple[int, int]], bytes] = OrderedDict()

    def of(self, bundle: Path, process: dict[str, Any], size: tuple[int, int]) -> bytes:
        """The launch of a further process in the container of `bundle`; empty where the shim must work it out."""
        path = f"{bundle}/config.json"
        try:
            version = _version(path)
            key = path, version, msgspec.json.encode(process), size
            found = self._plans.get(key)
            if found is None:
                found = _packed(planned.further_process(self._config(path, version), _sized(process, size)))
            if len(key[2]) + len(found) <= _ORDINARY:
                _remember(self._plans, key, found, _MOST_PLANS)
            return found
        except _TROUBLE as error:
            log.debug("launch not planned", bundle=str(bundle), reason=str(error))
            return b""

    def _config(self, path: str, version: _Version) -> dict[str, Any]:
        known = self._configs.get(path)
        if known is None or known[0] != version:
            known = version, msgspec.json.decode(Path(path).read_bytes(), type=dict[str, Any])
        _remember(self._configs, path, known, _MOST_CONFIGS)
        return known[1]


def _version(path: str) -> _Version:
    """Which file it is: whoever changes a config puts a new file in its place."""
    about = os.stat(path)  # noqa: PTH116 -- for each exec
    return about.st_ino, about.st_mtime_ns, about.st_size


def _sized(process: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    height, width = size
    sized = {"consoleSize": {"height": height, "width": width}} if height and width else {}
    score = {"oomScoreAdj": 0} if process.get("oomScoreAdj") is None else {}
    return {**process, **sized, **score}


def _remember(known: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    """As the one that was used last."""
    known[key] = value
    known.move_to_end(key)
    if len(known) > most:
        known.popitem(last=False)


class Plans:
    """Launches of new containers, remembered: containers made alike differ in their ids alone, and so do their plans.

    An id is as long as another, and means nothing to the runtime. What stands for it is in no JSON text.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[bytes, OverlayRootfs | None], bytes] = OrderedDict()

    def of_container(self, container_id: str, text: bytes, rootfs: OverlayRootfs | None) -> bytes:
        """As the function of this name."""
        names = (container_id.encode(), short(container_id).encode())
        key = (_nameless(text, names), _nameless_rootfs(rootfs, names))
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return _named(known, names)
        plan = of_container(container_id, text, rootfs)
        template = _nameless(plan, names)
        if plan and len(text) + len(plan) <= 2 * _ORDINARY and _named(template, names) == plan:
            _remember(self._known, key, template, _MOST_KNOWN)
        return plan


def _nameless(text: bytes, names: tuple[bytes, bytes]) -> bytes:
    for name, blank in zip(names, _BLANKS, strict=True):
        text = text.replace(name, blank[: len(name)])
    return text


def _named(template: bytes, names: tuple[bytes, bytes]) -> bytes:
    for name, blank in zip(names, _BLANKS, strict=True):
        template = template.replace(blank[: len(name)], name)
    return template


def _nameless_rootfs(rootfs: OverlayRootfs | None, names: tuple[bytes, bytes]) -> OverlayRootfs | None:
    if rootfs is None:
        return None
    upper, work = (_nameless(os.fsencode(path), names).decode("latin-1") for path in (rootfs.upper, rootfs.work))
    return replace(rootfs, upper=upper, work=work)


def _packed(found: Planned | None) -> bytes:
    packed = b"" if found is None else found.pack()
    return packed if len(packed) <= _LARGEST else b""
