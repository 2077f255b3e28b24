"""What an installation is told: one TOML file, and the environment above it.

    [engine]      run, data, registry, bridge, subnet, subnet6: fields of `model.instance.Instance`; the
                  environment's BULKHEAD_RUN, _DATA, _REGISTRY, _BRIDGE, _SUBNET and _SUBNET6 win over them
    [api] [manager] [supervisor] [registry]
                  each read by its own service, as a type that the service owns

The file is `BULKHEAD_CONFIG`, else /etc/bulkhead/config.toml; only the default may be absent. An
unknown table or key and a wrong type are errors that name the key and the file.
"""

from __future__ import annotations

import ipaddress
import os
import re
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from bulkhead.errors import InvalidArgument
from bulkhead.model.instance import DEFAULT_DATA, DEFAULT_RUN, LONGEST_RUN_PATH, SERVICES, Instance

DEFAULT_CONFIG = Path("/etc/bulkhead/config.toml")
CONFIG_VARIABLE = "BULKHEAD_CONFIG"
ENGINE_VARIABLES = MappingProxyType(
    {
        "run": "BULKHEAD_RUN",
        "data": "BULKHEAD_DATA",
        "registry": "BULKHEAD_REGISTRY",
        "bridge": "BULKHEAD_BRIDGE",
        "subnet": "BULKHEAD_SUBNET",
        "subnet6": "BULKHEAD_SUBNET6",
    }
)
# A bridge with fewer addresses than gateway + one container is a mistake; /29 leaves five.
SMALLEST_PREFIX = 29
LARGEST_PREFIX = 8
SMALLEST_PREFIX6 = 125

ConfigT = TypeVar("ConfigT", bound=msgspec.Struct)
_DEFAULTS = Instance()


class _Engine(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """The table [engine] as written."""

    run: str = str(DEFAULT_RUN)
    data: str = str(DEFAULT_DATA)
    registry: str = _DEFAULTS.registry
    bridge: str = _DEFAULTS.bridge
    subnet: str = _DEFAULTS.subnet
    subnet6: str = _DEFAULTS.subnet6


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One installation's settings as a service sees them."""

    instance: Instance
    path: Path
    tables: Mapping[str, Mapping[str, Any]]
    arguments: Namespace = field(default_factory=Namespace)

    def table(self, name: str, kind: type[ConfigT]) -> ConfigT:
        """The table `[name]` as `kind`, whose defaults stand where the file is silent.

        Raises InvalidArgument for an unknown key or a wrong type; `kind` must forbid unknown fields.
        """
        if not kind.__struct_config__.forbid_unknown_fields:
            raise TypeError(f"{kind.__name__} must be declared with forbid_unknown_fields=True")
        return _convert(self.tables.get(name, {}), kind, name, self.path)


def load(environ: Mapping[str, str] = os.environ, path: Path | None = None) -> Settings:
    """Read the settings; `path` (of a `--config` flag) wins over the environment's file.

    Raises InvalidArgument when the file or a value cannot be used.
    """
    named = path or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    file = named or DEFAULT_CONFIG
    tables = _read(file, must_exist=named is not None)
    unknown = sorted(set(tables) - {"engine", *SERVICES})
    if unknown:
        raise InvalidArgument(f"cannot use {file}: unknown table or key {unknown[0]!r}")
    return Settings(instance=_instance(tables.pop("engine", {}), environ, file), path=file, tables=tables)


def environment(instance: Instance, path: Path) -> dict[str, str]:
    """The variables that make another process see the same installation."""
    values = {variable: str(getattr(instance, key)) for key, variable in ENGINE_VARIABLES.items()}
    return values if path == DEFAULT_CONFIG else {**values, CONFIG_VARIABLE: str(path)}


def _read(file: Path, *, must_exist: bool) -> dict[str, dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        if must_exist:
            raise InvalidArgument(f"cannot read {file}: no such file") from None
        return {}
    except OSError as error:
        raise InvalidArgument(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"cannot read {file}: {error}") from error
    return _parsed(text, file)


def _parsed(text: str, file: Path) -> dict[str, dict[str, Any]]:
    import tomllib  # 0.1 MB of each service, and few have a file

    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"cannot read {file}: {error}") from error
    for name, table in parsed.items():
        if not isinstance(table, dict):
            raise InvalidArgument(f"cannot use {file}: {name!r} must be a table")
    return parsed


def _convert(table: Mapping[str, Any], kind: type[ConfigT], name: str, file: Path) -> ConfigT:
    try:
        return msgspec.convert(dict(table), kind, strict=True)
    except msgspec.ValidationError as error:
        reason = str(error).replace("Object contains unknown field", "unknown key").replace("$.", "")
        raise InvalidArgument(f"cannot use {file}: [{name}]: {reason}") from error


def _instance(table: Mapping[str, Any], environ: Mapping[str, str], file: Path) -> Instance:
    written = _convert(table, _Engine, "engine", file)
    values: dict[str, str] = {}
    origins: dict[str, str] = {}
    for key, variable in ENGINE_VARIABLES.items():
        from_environment = environ.get(variable, "")
        values[key] = from_environment or getattr(written, key)
        origins[key] = f"the environment's {variable}" if from_environment else f"{file}: [engine] {key}"
    for key, check in _CHECKS.items():
        problem = check(values[key])
        if problem:
            raise InvalidArgument(f"cannot use {origins[key]}: {problem}")
    run, data = (Path(os.path.normpath(values[key])) for key in ("run", "data"))
    if run == data:
        raise InvalidArgument(f"cannot use {origins['data']}: {data} is the run directory too")
    others = {key: values[key] for key in ("registry", "bridge", "subnet", "subnet6")}
    return Instance(run=run, data=data, **others)


def _check_directory(text: str) -> str | None:
    path = os.path.normpath(text)
    if not text.startswith("/") or "\0" in text or "\n" in text:
        return f"{text!r} is not an absolute path"
    # A whole system directory as state would make `purge` a catastrophe; two levels are the least.
    if len(Path(path).parts) < 3:
        return f"{text!r} is a top directory of the system"
    return None


def _check_run(text: str) -> str | None:
    problem = _check_directory(text)
    if problem:
        return problem
    length = len(os.path.normpath(text).encode())
    if length > LONGEST_RUN_PATH:
        return f"{text!r} is {length} bytes long, the sockets below it leave room for {LONGEST_RUN_PATH}"
    return None


def _check_registry(text: str) -> str | None:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?):([0-9]{1,5})", text)
    if match is None or not 1 <= int(match[3]) <= 65535:
        return f"{text!r} is not host:port"
    return None


def _check_bridge(text: str) -> str | None:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", text) or text in {".", ".."}:
        return f"{text!r} is no interface name (1 to 15 of A-Z a-z 0-9 _ . -)"
    return None


def _check_subnet(text: str) -> str | None:
    try:
        network = ipaddress.IPv4Network(text, strict=True)
    except ValueError as error:
        return f"{text!r} is not an IPv4 network: {error}"
    if not LARGEST_PREFIX <= network.prefixlen <= SMALLEST_PREFIX:
        return f"{text!r} must be between /{LARGEST_PREFIX} and /{SMALLEST_PREFIX}"
    return None


def _check_subnet6(text: str) -> str | None:
    """None is right: without one the default network has no IPv6."""
    try:
        network = ipaddress.IPv6Network(text, strict=True) if text else None
    except ValueError as error:
        return f"{text!r} is not an IPv6 network: {error}"
    if network is not None and network.prefixlen > SMALLEST_PREFIX6:
        return f"{text!r} must not be longer than /{SMALLEST_PREFIX6}"
    return None


_CHECKS = MappingProxyType(
    {
        "run": _check_run,
        "data": _check_directory,
        "registry": _check_registry,
        "bridge": _check_bridge,
        "subnet": _check_subnet,
        "subnet6": _check_subnet6,
    }
)
