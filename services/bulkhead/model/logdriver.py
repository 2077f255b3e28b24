"""Log drivers and their options: which there are, what each takes, in dockerd's words. Pure.

A tag is a template of Go's with the fields that Docker's have; functions and pipelines of templates are not understood.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from bulkhead.errors import InvalidArgument
from bulkhead.model import patterns

DEFAULT_TAG = "{{.ID}}"
_BUFFER = frozenset(("mode", "max-buffer-size"))
_CACHE = frozenset(("cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"))
_FILE = frozenset(("max-size", "max-file", "compress"))
_PATTERNS = ("labels-regex", "env-regex")
_ABOUT = frozenset(("labels", "env", "tag", *_PATTERNS))
_SYSLOG = frozenset(
    [
        "syslog-address",
        "syslog-facility",
        "syslog-format",
        "syslog-tls-ca-cert",
        "syslog-tls-cert",
        "syslog-tls-key",
        "syslog-tls-skip-verify",
    ]
)
OPTIONS: Mapping[str, frozenset[str]] = {
    "json-file": _FILE | _ABOUT,
    "local": _FILE,
    "syslog": _SYSLOG | _ABOUT,
    "journald": _ABOUT,
    "none": frozenset(),
}
_FACILITY_NAMES = [
    "kern",
    "user",
    "mail",
    "daemon",
    "auth",
    "syslog",
    "lpr",
    "news",
    "uucp",
    "cron",
    "authpriv",
    "ftp",
    "-",
    "-",
    "-",
    "-",
    "local0",
    "local1",
    "local2",
    "local3",
    "local4",
    "local5",
    "local6",
    "local7",
]
_FACILITIES = {name: number for number, name in enumerate(_FACILITY_NAMES) if name != "-"}
_FORMATS = ("", "rfc3164", "rfc5424", "rfc5424micro")
_TRANSPORTS = ("udp", "tcp", "tcp+tls", "unix", "unixgram")
_SYSLOG_PORT = 514
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgtp]?)i?b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_FIELD = re.compile(r"\{\{\s*(.*?)\s*\}\}")


def check(driver: str, options: Mapping[str, str]) -> None:
    """Raises InvalidArgument with dockerd's texts (daemon/logger/factory.go and each driver's ValidateLogOpt)."""
    if driver == "none":
        return
    if driver not in OPTIONS:
        raise InvalidArgument(f'error looking up logging plugin {driver}: plugin "{driver}" not found')
    _check_mode(options)
    for option in options:
        if option not in OPTIONS[driver] | _BUFFER | _CACHE:
            words = f"log driver {driver}" if driver == "local" else f"{driver} log driver"
            raise InvalidArgument(f"unknown log opt '{option}' for {words}")
    for option in _PATTERNS:
        if pattern := options.get(option):
            patterns.check(pattern)
    if driver == "syslog":
        address(options.get("syslog-address", ""))
        facility(options.get("syslog-facility", ""))
        if options.get("syslog-format", "") not in _FORMATS:
            raise InvalidArgument("Invalid syslog format")


def _check_mode(options: Mapping[str, str]) -> None:
    mode = options.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise InvalidArgument(f"logger: logging mode not supported: {mode}")
    if "max-buffer-size" in options:
        if mode != "non-blocking":
            raise InvalidArgument("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
        try:
            size(options["max-buffer-size"])
        except InvalidArgument as error:
            raise InvalidArgument(f"error parsing option max-buffer-size: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a syslog server is; no transport: the machine's own."""

    transport: str = ""
    host: str = ""
    port: int = 0
    path: str = ""


def address(text: str) -> Address:
    """`syslog-address`. Raises InvalidArgument."""
    if not text:
        return Address()
    found = urlsplit(text)
    if "://" not in text or found.scheme not in _TRANSPORTS:
        raise InvalidArgument(f"syslog-address should be in form proto://address, got {text}")
    if found.scheme in ("unix", "unixgram"):
        return Address(transport=found.scheme, path=found.path)
    try:
        host, port = found.hostname, found.port or _SYSLOG_PORT
    except ValueError as error:
        raise InvalidArgument(f"invalid syslog-address {text}: {error}") from error
    if not host:
        raise InvalidArgument(f"syslog-address should be in form proto://address, got {text}")
    return Address(transport=found.scheme, host=host, port=port)


def facility(text: str) -> int:
    """A facility's number, by name or number; the default is daemon. Raises InvalidArgument."""
    if not text:
        return _FACILITIES["daemon"]
    if text in _FACILITIES:
        return _FACILITIES[text]
    if text.isdecimal() and int(text) <= _FACILITIES["local7"]:
        return int(text)
    raise InvalidArgument("invalid syslog facility")


def size(text: str) -> int:
    """Bytes, as go-units reads them: 10, 10k, 1.5m, 2GiB. Raises InvalidArgument."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"invalid size: '{text}'")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def truth(options: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    """A boolean option as Go's ParseBool reads it. Raises InvalidArgument."""
    text = options.get(name, "")
    if not text:
        return default
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise InvalidArgument(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def tag(template: str, fields: Mapping[str, str]) -> str:
    """`template` with {{.Name}} and the like filled in. Raises InvalidArgument for anything else in braces."""

    def value(match: re.Match[str]) -> str:
        name = match[1].removeprefix(".")
        if not match[1].startswith(".") or name not in fields:
            raise InvalidArgument(f"cannot make a log tag of {template!r}: {{{{{match[1]}}}}} is not known")
        return fields[name]

    return _FIELD.sub(value, template)


def extra(options: Mapping[str, str], labels: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
    """The labels and variables that each line shall bear. Raises InvalidArgument for a bad pattern."""
    return _chosen(options, "labels", labels) | _chosen(options, "env", env)


def _chosen(options: Mapping[str, str], name: str, values: Mapping[str, str]) -> dict[str, str]:
    wanted = options.get(name, "").split(",")
    found = {each: values[each] for each in wanted if each in values}
    pattern = options.get(f"{name}-regex", "")
    if pattern:
        patterns.check(pattern)
        search = patterns.Search()
        found |= {each: value for each, value in values.items() if search.finds(pattern, each)}
    return found
