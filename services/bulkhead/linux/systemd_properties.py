"""OCI resources and annotations as properties of a systemd unit (systemd.resource-control(5)), and the units' names.

systemd writes limits into the cgroup again whenever it reloads: what it is not told of, it takes away.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bulkhead.linux.cgroup_limits import Resources, weight_from_shares
from bulkhead.linux.systemd import Property

_INFINITY = (1 << 64) - 1
_ANNOTATION = "org.systemd.property."


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """A transient unit of foreign processes, in a slice. `group` is its cgroup from the root of a hierarchy."""

    unit: str
    slice: str

    @property
    def group(self) -> str:
        return f"{_slice_path(self.slice)}/{self.unit}"


def parse_scope(path: str, container_id: str, *, rootless: bool = False) -> Scope:
    """From a cgroupsPath of the form slice:prefix:name; empty parts have runc's defaults. ValueError for another."""
    parts = (path or f":runc:{container_id}").split(":")
    if len(parts) != 3:
        text = f'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got "{path}" instead'
        raise ValueError(text)
    above, prefix, name = parts
    above = above or ("user.slice" if rootless else "system.slice")
    _slice_path(above)
    unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    if not re.fullmatch(r"[A-Za-z0-9:_.\\@-]+", unit) or unit.startswith(".") or len(unit) > 255:
        raise ValueError(f"invalid unit name {unit!r}")
    return Scope(unit=unit, slice=above)


def _slice_path(name: str) -> str:
    """ "a-b.slice" is below a.slice: the dashes are the tree."""
    stem = name.removesuffix(".slice")
    if stem == "-" and name != stem:
        return ""
    if stem == name or not re.fullmatch(r"[A-Za-z0-9:_.\\@]+(-[A-Za-z0-9:_.\\@]+)*", stem) or stem.startswith("."):
        raise ValueError(f"invalid slice name: {name}")
    words = stem.split("-")
    return "".join(f"/{'-'.join(words[: end + 1])}.slice" for end in range(len(words)))


def scope_properties(scope: Scope, container_id: str, pids: Iterable[int], *, v2: bool) -> list[Property]:
    """Of the unit itself, accounting on: its controllers are then enabled on the way down."""
    kinds = ("CPU", "Memory", "IO" if v2 else "BlockIO", "Tasks")
    kind = [("PIDs", "au", list(pids))] if scope.unit.endswith(".scope") else []
    return [
        ("Description", "s", f"bulkhead container {container_id}"),
        ("Slice" if scope.unit.endswith(".scope") else "Wants", *_slice_value(scope)),
        *kind,
        ("Delegate", "b", True),
        ("DefaultDependencies", "b", False),
        *((f"{each}Accounting", "b", True) for each in kinds),
    ]


def _slice_value(scope: Scope) -> tuple[str, Any]:
    return ("s", scope.slice) if scope.unit.endswith(".scope") else ("as", [scope.slice])


def resource_properties(resources: Resources, *, v2: bool, version: int = 252) -> list[Property]:
    """Those limits that systemd knows; the control files are written directly as well."""
    found = list(_v2(resources, version) if v2 else _v1(resources))
    limit = (resources.get("pids") or {}).get("limit")
    if limit is not None:
        found.append(("TasksMax", "t", _INFINITY if limit < 0 else max(limit, 1)))
    return found


def _v1(resources: Resources) -> Iterator[Property]:
    memory, cpu = resources.get("memory") or {}, resources.get("cpu") or {}
    if memory.get("limit"):
        yield "MemoryLimit", "t", _amount(memory["limit"])
    if cpu.get("shares"):
        yield "CPUShares", "t", cpu["shares"]
    yield from _quota(cpu.get("quota") or 0, cpu.get("period") or 0)
    weight = (resources.get("blockIO") or {}).get("weight")
    if weight:
        yield "BlockIOWeight", "t", weight
    yield from _devices(resources)


def _v2(resources: Resources, version: int) -> Iterator[Property]:
    memory, cpu = resources.get("memory") or {}, resources.get("cpu") or {}
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if limit:
        yield "MemoryMax", "t", _amount(limit)
    if memory.get("reservation"):
        yield "MemoryLow", "t", _amount(memory["reservation"])
    if swap or limit < 0:
        yield "MemorySwapMax", "t", _INFINITY if swap < 0 or limit < 0 else max(0, swap - limit)
    if cpu.get("idle") and version >= 252:
        yield "CPUWeight", "t", 0
    elif cpu.get("shares"):
        yield "CPUWeight", "t", weight_from_shares(cpu["shares"])
    yield from _quota(cpu.get("quota") or 0, cpu.get("period") or 0)
    for key, name in (("cpus", "AllowedCPUs"), ("mems", "AllowedMemoryNodes")):
        if cpu.get(key) and version >= 244:
            yield name, "ay", _mask(cpu[key])
    yield from _unified(resources.get("unified") or {}, version)


def _amount(value: int) -> int:
    return _INFINITY if value < 0 else value


def _quota(quota: int, period: int) -> Iterator[Property]:
    """systemd counts microseconds per second, in steps of ten milliseconds; rounded up, so that nothing is taken."""
    if period:
        yield "CPUQuotaPeriodUSec", "t", period
    if quota:
        per_second = math.ceil(quota * 1_000_000 / (period or 100_000) / 10_000) * 10_000
        yield "CPUQuotaPerSecUSec", "t", per_second if quota > 0 else _INFINITY


def _mask(text: str) -> bytes:
    """ "0-2,5" as bits, the lowest byte first."""
    bits = 0
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        for index in range(int(first), int(last if dash else first) + 1):
            if index > 8191:
                raise ValueError(f"{text!r} is not a list of CPUs")
            bits |= 1 << index
    return bits.to_bytes((bits.bit_length() + 7) // 8 or 1, "little")


_UNIFIED = {
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.max": "MemoryMax",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
    "cpu.weight": "CPUWeight",
}


def _unified(unified: Mapping[str, Any], version: int) -> Iterator[Property]:
    for key, told in unified.items():
        value = str(told).strip()
        if name := _UNIFIED.get(key):
            yield name, "t", _INFINITY if value == "max" else int(value)
        elif key == "cpu.max":
            quota, _, period = value.partition(" ")
            yield from _quota(-1 if quota == "max" else int(quota), int(period or 0))
        elif key in ("cpuset.cpus", "cpuset.mems") and version >= 244:
            yield "AllowedCPUs" if key.endswith("cpus") else "AllowedMemoryNodes", "ay", _mask(value)


def _devices(resources: Resources) -> Iterator[Property]:
    """v1: a reload would open every device again. On v2 our own program stays beside systemd's."""
    rules = resources.get("devices") or ()
    if not rules:
        return
    from bulkhead.linux.cgroup_devices import granted, parse_rules

    everything, exceptions = granted(parse_rules(rules))
    if everything:
        yield "DevicePolicy", "s", "auto"
        yield "DeviceAllow", "a(ss)", []
        return
    yield "DevicePolicy", "s", "strict"
    yield "DeviceAllow", "a(ss)", [(_device(*key), access) for key, access in exceptions.items()]


def _device(kind: str, major: int | None, minor: int | None) -> str:
    word = {"c": "char", "b": "block"}[kind]
    if major is None or minor is None:
        return f"{word}-{'*' if major is None else major}"
    return f"/dev/{word}/{major}:{minor}"


# ---- annotations ----


def annotated_properties(annotations: Mapping[str, str]) -> list[Property]:
    """Of "org.systemd.property.NAME" annotations, whose values are written as GVariant texts. ValueError for others."""
    found = list[Property]()
    for key, text in annotations.items():
        if not key.startswith(_ANNOTATION):
            continue
        name = key.removeprefix(_ANNOTATION)
        if not re.fullmatch(r"[A-Za-z]{3,}", name):
            raise ValueError(f"annotation {key}={text} has an incorrect property name")
        try:
            signature, value = _variant(text.strip())
        except ValueError as error:
            raise ValueError(f"annotation {key}={text} value parse error: {error}") from None
        if (
            name.endswith("Sec") and not name.endswith("USec") and signature in "iuxtd"
        ):  # systemd's own spelling of times on D-Bus
            name, signature, value = name.removesuffix("Sec") + "USec", "t", int(value * 1_000_000)
        found.append((name, signature, value))
    return found


_NUMBERS = {"byte": "y", "int16": "n", "uint16": "q", "int32": "i", "uint32": "u", "int64": "x", "uint64": "t"}


def _variant(text: str) -> tuple[str, Any]:
    kind, _, rest = text.partition(" ")
    if kind in _NUMBERS:
        return _NUMBERS[kind], int(rest, 0)
    if kind == "double":
        return "d", float(rest)
    if text in ("true", "false"):
        return "b", text == "true"
    if text[:1] == "[" and text[-1:] == "]":
        words = [_variant(each.strip()) for each in _split(text[1:-1])]
        if len({signature for signature, _ in words}) != 1:
            raise ValueError("an array has values of one type")
        return f"a{words[0][0]}", [value for _, value in words]
    if text[:1] in ("'", '"') and text[-1:] == text[:1] and len(text) > 1:
        return "s", re.sub(r"\\(.)", r"\1", text[1:-1])
    return ("d", float(text)) if re.fullmatch(r"[+-]?\d+\.\d*", text) else ("i", int(text, 0))


def _split(text: str) -> list[str]:
    """At the commas outside of quotes."""
    return [each for each in re.findall(r"""(?:'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|[^,'"])+""", text) if each.strip()]
