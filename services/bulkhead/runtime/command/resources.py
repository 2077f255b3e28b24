"""update: limits of a running container, from a LinuxResources object or from options."""

from __future__ import annotations

import json
import sys
from typing import Any

from bulkhead.errors import Conflict, InvalidArgument
from bulkhead.linux import atomicfile
from bulkhead.runtime.command import bundles
from bulkhead.runtime.command.arguments import Arguments
from bulkhead.runtime.command.context import Context
from bulkhead.runtime.state import Container, Record, Status

_LIMIT = 1 << 20
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}

# option -> (group, key) of LinuxResources
_NUMBERS = {
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-idle": ("cpu", "idle"),
    "cpu-share": ("cpu", "shares"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
}
_SIZES = {
    "memory": ("memory", "limit"),
    "memory-swap": ("memory", "swap"),
    "memory-reservation": ("memory", "reservation"),
}
_TEXTS = {"cpuset-cpus": ("cpu", "cpus"), "cpuset-mems": ("cpu", "mems")}


def update(context: Context, arguments: Arguments) -> int:
    container = context.container(arguments.positional[0])
    wanted = _wanted(arguments)
    for option in ("l3-cache-schema", "mem-bw-schema"):
        if arguments.text(option):
            raise InvalidArgument(f"cannot update the container: --{option} needs Intel RDT, which is not supported")
    if arguments.text("kernel-memory") or arguments.text("kernel-memory-tcp"):
        context.log.warning("Kernel memory settings are ignored and will be removed")
    with container.locked():
        record = container.load()
        if container.status(record) is Status.STOPPED:
            raise Conflict("container not running")
        _apply(container, record, wanted)
    return 0


def _apply(container: Container, record: Record, wanted: dict[str, Any]) -> None:
    """To the kernel, then to the config kept, whose other limits stay what they are."""
    config = container.load_config()
    before = (config.get("linux") or {}).get("resources") or {}
    merged = {key: {**before[key], **value} if _both(before, key, value) else value for key, value in wanted.items()}
    _set(record, _with_pair(wanted, before))
    linux = bundles.part(config, "linux")
    config["linux"] = {**linux, "resources": {**before, **merged}}
    container.save_config(json.dumps(config).encode())


def _both(before: dict[str, Any], key: str, value: object) -> bool:
    return isinstance(before.get(key), dict) and isinstance(value, dict)


def _with_pair(wanted: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """cgroup v2 has quota and period in one file: who changes one means the other to stay."""
    cpu, old = wanted.get("cpu") or {}, before.get("cpu") or {}
    pair = {key: old[key] for key in ("quota", "period") if key in old and key not in cpu}
    if {"quota", "period"}.isdisjoint(cpu) or not pair:
        return wanted
    return {**wanted, "cpu": {**cpu, **pair}}


def _set(record: Record, resources: dict[str, Any]) -> None:
    try:
        record.group().update(resources)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidArgument(f"cannot update the container: {error}") from error


def _wanted(arguments: Arguments) -> dict[str, Any]:
    """Only what is asked for: zeros and empty texts mean "as it is". Devices are not updated."""
    source = arguments.text("resources")
    found = _read(source) if source else _from_options(arguments)
    found.pop("devices", None)
    wanted: dict[str, Any] = {}
    for group, value in found.items():
        kept = {key: one for key, one in value.items() if _asks(key, one)} if _plain(group, value) else value
        if kept not in (None, {}, []):
            wanted[group] = kept
    return wanted


def _asks(key: str, value: object) -> bool:
    return value not in (None, "", 0) or (value == 0 and key in ("idle", "burst"))


def _plain(group: str, value: object) -> bool:
    return isinstance(value, dict) and group != "unified"


def _read(source: str) -> dict[str, Any]:
    if source == "-":
        return bundles.parse(sys.stdin.buffer.read(_LIMIT), "the resources")
    try:
        return bundles.parse(atomicfile.read(source, _LIMIT), source)
    except OSError as error:
        raise InvalidArgument(f"open {source}: {(error.strerror or '').lower()}") from error


def _from_options(arguments: Arguments) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {}

    def put(place: tuple[str, str], value: object) -> None:
        found.setdefault(place[0], {})[place[1]] = value

    for option, place in _NUMBERS.items():
        if text := arguments.text(option):
            put(place, _number(option, text))
    for option, place in _SIZES.items():
        if text := arguments.text(option):
            put(place, _size(option, text))
    for option, place in _TEXTS.items():
        put(place, arguments.text(option))
    put(("blockIO", "weight"), arguments.number("blkio-weight"))
    put(("pids", "limit"), arguments.number("pids-limit"))
    return found


def _number(option: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidArgument(f'invalid value for {option}: parsing "{text}": invalid syntax') from None


def _size(option: str, text: str) -> int:
    """Bytes, with units of 1024; -1 is no limit."""
    if text == "-1":
        return -1
    lowered = text.lower().removesuffix("ib").removesuffix("b")
    digits = lowered.rstrip("kmgtp")
    unit = _UNITS.get(lowered[len(digits) :])
    if unit is None or not digits.strip().replace(".", "", 1).isdigit():
        raise InvalidArgument(f"invalid value for {option}: invalid size: '{text}'")
    return int(float(digits) * unit)
