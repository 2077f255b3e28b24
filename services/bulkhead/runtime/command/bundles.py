"""A bundle on disk: its config, read once; what it says afterwards is of no account."""

from __future__ import annotations

import json
import os
from typing import Any

from bulkhead.errors import InvalidArgument
from bulkhead.linux import atomicfile, mounts

_LIMIT = 64 << 20


def enter(directory: str) -> str:
    """Make the bundle the working directory, as relative paths in it mean; its absolute path."""
    try:
        os.chdir(directory or ".")
    except OSError as error:
        raise InvalidArgument(f"chdir {directory}: {(error.strerror or '').lower()}") from error
    return os.getcwd()  # noqa: PTH109


def read_config() -> tuple[bytes, dict[str, Any]]:
    """config.json of the working directory, as it stands and parsed. InvalidArgument when it is none."""
    try:
        content = atomicfile.read("config.json", _LIMIT)
    except FileNotFoundError:
        raise InvalidArgument("JSON specification file config.json not found") from None
    return content, parse(content, "config.json")


def parse(content: bytes, name: str) -> dict[str, Any]:
    """A JSON object. InvalidArgument with the parser's reason."""
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"cannot read {name}: {error}") from error
    if not isinstance(config, dict):
        raise InvalidArgument(f"cannot read {name}: not an object")
    return config


def part(config: dict[str, Any], name: str) -> dict[str, Any]:
    """An object in the config, empty when it is absent. InvalidArgument when it is something else."""
    value = config.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidArgument(f"cannot read config.json: {name} is not an object")
    return value


# What every container may use: making nodes harms nobody who cannot open them; the pseudo devices; terminals.
_ALLOWED = (
    *(("c", None, None, "m"), ("b", None, None, "m")),
    *(("c", 1, minor, "rwm") for minor in (3, 5, 7, 8, 9)),
    *(("c", 5, 0, "rwm"), ("c", 5, 2, "rwm"), ("c", 136, None, "rwm"), ("c", 10, 200, "rwm")),
)


def with_default_devices(config: dict[str, Any]) -> dict[str, Any]:
    """The config with the device rules that the command's callers count on (runc's): everything is denied that
    they do not allow, and the harmless devices are allowed whatever they say."""
    linux = part(config, "linux")
    resources = part(linux, "resources")
    given = resources.get("devices") or []
    if not isinstance(given, list):
        raise InvalidArgument("cannot read config.json: linux.resources.devices is not a list")
    rules = [{"allow": False, "access": "rwm"}, *given, *map(_rule, _ALLOWED)]
    return {**config, "linux": {**linux, "resources": {**resources, "devices": rules}}}


def _rule(row: tuple[str, int | None, int | None, str]) -> dict[str, Any]:
    kind, major, minor, access = row
    numbers = {key: value for key, value in (("major", major), ("minor", minor)) if value is not None}
    return {"allow": True, "type": kind, "access": access, **numbers}


def tolerated(config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The config without what the launch refuses because it means nothing, and runc passes over; and warnings."""
    entries = config.get("mounts") or []
    if not isinstance(entries, list):
        return config, []  # the launch says what is wrong with it
    if entries and "mount" not in _kinds(config):
        return {**config, "mounts": []}, ["no mount namespace: the mounts are passed over"]
    warnings = list[str]()
    config = _with_known_access(config, warnings)
    return {**config, "mounts": [_from_bundle(_without_data(entry, warnings)) for entry in entries]}, warnings


def _with_known_access(config: dict[str, Any], warnings: list[str]) -> dict[str, Any]:
    """Device rules without the letters that mean nothing, unless nothing would be left."""
    linux = part(config, "linux")
    resources = part(linux, "resources")
    rules = list(map(_known_access, resources.get("devices") or ()))
    if rules == list(resources.get("devices") or ()):
        return config
    warnings.append("device rules: access other than r, w and m is passed over")
    return {**config, "linux": {**linux, "resources": {**resources, "devices": rules}}}


def _known_access(rule: Any) -> Any:
    access = rule.get("access") if isinstance(rule, dict) else None
    known = "".join(letter for letter in access if letter in "rwm") if isinstance(access, str) else ""
    return {**rule, "access": known} if known else rule


def _kinds(config: dict[str, Any]) -> list[Any]:
    entries = part(config, "linux").get("namespaces") or []
    return [entry.get("type") for entry in entries if isinstance(entry, dict)]


def _from_bundle(entry: Any) -> Any:
    """A bind's relative source is one of the bundle, which is the working directory."""
    source = entry.get("source") if isinstance(entry, dict) else None
    if not isinstance(source, str) or not source or source.startswith("/") or not _is_bind(entry):
        return entry
    return {**entry, "source": f"{os.getcwd()}/{source}"}  # noqa: PTH109


def _is_bind(entry: dict[str, Any]) -> bool:
    options = entry.get("options")
    return entry.get("type") == "bind" or (isinstance(options, list) and ("bind" in options or "rbind" in options))


def _without_data(entry: Any, warnings: list[str]) -> Any:
    """A bind takes no data of a file system."""
    options = entry.get("options") if isinstance(entry, dict) else None
    if not isinstance(options, list) or not all(isinstance(text, str) for text in options):
        return entry
    parsed = mounts.parse_options(options)
    if not parsed.data or not _is_bind(entry):
        return entry
    keys = {key for key, _ in parsed.data}
    warnings.append(f"mount {entry.get('destination')}: options {', '.join(sorted(keys))} mean nothing to a bind")
    return {**entry, "options": [text for text in options if text.partition("=")[0] not in keys]}
