"""The bundle's config.json: what the container shall be (OCI runtime specification)."""

from __future__ import annotations

import json
from typing import Any

from bulkhead.errors import InvalidArgument
from bulkhead.linux import atomicfile

_LIMIT = 4 << 20
_TERMINAL = b'"terminal"'


def read(data_dir: str) -> dict[str, Any]:
    """The whole config; InvalidArgument when it is not one with a process."""
    text = _text(data_dir)
    try:
        config = json.loads(text)
    except ValueError as error:
        raise InvalidArgument(f"cannot read {data_dir}/config.json: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("process"), dict):
        raise InvalidArgument(f"cannot read {data_dir}/config.json: not a configuration with a process")
    # The shim's own score is lowered; a container must not inherit that.
    if config["process"].get("oomScoreAdj") is None:
        config["process"]["oomScoreAdj"] = 0
    return config


def wants_terminal(data_dir: str) -> bool:
    """Whether the process asks for a terminal, without parsing the config.

    Parsing it in the shim itself would cost 400 KB that it keeps for life. Only process.terminal has this key
    and a bare true; inside a string the quotes would be escaped. Who launches compares it with the parsed one.
    """
    text = _text(data_dir)
    place = text.find(_TERMINAL)
    while place >= 0:
        if text[place - 1 : place] != b"\\":
            return text[place + len(_TERMINAL) :].lstrip(b" \t\r\n:")[:4] == b"true"
        place = text.find(_TERMINAL, place + 1)
    return False


def has_terminal(config: dict[str, Any]) -> bool:
    """process.terminal of a parsed config."""
    return bool(config["process"].get("terminal", False))


def _text(data_dir: str) -> bytes:
    path = f"{data_dir}/config.json"
    try:
        text = atomicfile.read(path, _LIMIT + 1)
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror}") from error
    if len(text) > _LIMIT:
        raise InvalidArgument(f"cannot read {path}: it is longer than {_LIMIT} bytes")
    return text
