"""Dockerfile instructions that change an image's configuration, as `commit --change` and `import --change` take them.

Dockerfile reference: CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER VOLUME WORKDIR; variables
are expanded in all but CMD, ENTRYPOINT, HEALTHCHECK and ONBUILD.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from bulkhead.errors import InvalidArgument
from bulkhead.manager.signals import parse_signal
from bulkhead.model.container import Healthcheck
from bulkhead.model.image import ImageConfig

_DEFAULT_SHELL = ("/bin/sh", "-c")
_MAX_CHANGES, _MAX_LENGTH = 1000, 64 << 10
_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_FLAG = re.compile(r"--([a-z-]+)=(\S*)\s*")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def apply_changes(config: ImageConfig, changes: Iterable[str]) -> ImageConfig:
    """`config` after the instructions. Raises InvalidArgument with Docker's texts where there are known ones."""
    changes = tuple(changes)
    told = [line for change in changes for line in _lines(change)]
    if changes and not told:
        raise InvalidArgument("file with no instructions")
    if len(told) > _MAX_CHANGES:
        raise InvalidArgument(f"cannot apply changes: more than {_MAX_CHANGES} instructions")
    command_told = False
    for line in told:
        name, arguments = _instruction(line)
        if name == "ENTRYPOINT" and not command_told:
            # A command that was meant for another entry point is none for this.
            config = replace(config, cmd=None)
        command_told = command_told or name == "CMD"
        config = _APPLY[name](config, arguments)
    return config


def _lines(change: str) -> Iterator[str]:
    """One change may hold several lines; a backslash at the end of one joins the next."""
    if len(change) > _MAX_LENGTH or "\0" in change:
        raise InvalidArgument("cannot apply changes: an instruction is too long or has a NUL character")
    for line in change.replace("\\\n", "").splitlines():
        if (text := line.strip()) and not text.startswith("#"):
            yield text


def _instruction(line: str) -> tuple[str, str]:
    name, _, arguments = line.partition(" ")
    name, arguments = name.upper(), arguments.strip()
    if name not in _APPLY:
        raise InvalidArgument(f"{name.lower()} is not a valid change command")
    if not arguments and name not in ("CMD", "ENTRYPOINT"):
        raise InvalidArgument(f"dockerfile parse error on line 1: {name} requires at least one argument")
    return name, arguments


def _argv(config: ImageConfig, text: str) -> tuple[str, ...]:
    """The JSON form as it is, anything else for the shell."""
    if not text:
        return ()
    listed = _json_list(text)
    return listed if listed is not None else (*(config.shell or _DEFAULT_SHELL), text)


def _json_list(text: str) -> tuple[str, ...] | None:
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return tuple(found) if isinstance(found, list) and all(isinstance(word, str) for word in found) else None


def _cmd(config: ImageConfig, text: str) -> ImageConfig:
    return replace(config, cmd=_argv(config, text))


def _entrypoint(config: ImageConfig, text: str) -> ImageConfig:
    return replace(config, entrypoint=_argv(config, text))


def _env(config: ImageConfig, text: str) -> ImageConfig:
    known = dict(entry.partition("=")[::2] for entry in config.env)
    told = _pairs(text, "ENV", known)
    return replace(config, env=tuple(f"{name}={value}" for name, value in (known | told).items()))


def _label(config: ImageConfig, text: str) -> ImageConfig:
    return replace(config, labels={**config.labels, **_pairs(text, "LABEL", _variables(config))})


def _expose(config: ImageConfig, text: str) -> ImageConfig:
    ports = [port for word in _words(text, _variables(config)) for port in _ports(word)]
    return replace(config, exposed_ports=tuple(dict.fromkeys((*config.exposed_ports, *ports))))


def _ports(word: str) -> Iterator[str]:
    match = _PORT.fullmatch(word)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if match is None or not first <= last <= 65535:
        raise InvalidArgument(f"invalid containerPort: {word}")
    for port in range(first, last + 1):
        yield f"{port}/{(match[3] or 'tcp').lower()}"


def _user(config: ImageConfig, text: str) -> ImageConfig:
    return replace(config, user=_single("USER", text, _variables(config)))


def _stop_signal(config: ImageConfig, text: str) -> ImageConfig:
    name = _single("STOPSIGNAL", text, _variables(config))
    parse_signal(name)
    return replace(config, stop_signal=name)


def _workdir(config: ImageConfig, text: str) -> ImageConfig:
    path = _expanded(text, _variables(config))
    joined = posixpath.normpath(posixpath.join("/", config.working_dir, path))
    return replace(config, working_dir="/" + joined.lstrip("/"))


def _volume(config: ImageConfig, text: str) -> ImageConfig:
    listed = _json_list(text)
    known = _variables(config)
    paths = [_expanded(path, known) for path in listed] if listed is not None else _words(text, known)
    if not all(path.strip() for path in paths):
        raise InvalidArgument("VOLUME specified can not be an empty string")
    return replace(config, volumes=tuple(dict.fromkeys((*config.volumes, *paths))))


def _on_build(config: ImageConfig, text: str) -> ImageConfig:
    trigger = text.partition(" ")[0].upper()
    if trigger == "ONBUILD":
        raise InvalidArgument("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if trigger in ("MAINTAINER", "FROM"):
        raise InvalidArgument(f"{trigger} isn't allowed as an ONBUILD trigger")
    return replace(config, on_build=(*config.on_build, text))


def _healthcheck(config: ImageConfig, text: str) -> ImageConfig:
    flags: dict[str, str] = {}
    while match := _FLAG.match(text):
        flags[match[1]] = match[2]
        text = text[match.end() :]
    kind, _, command = text.partition(" ")
    if kind.upper() == "NONE" and not command:
        return replace(config, healthcheck=Healthcheck(test=("NONE",)))
    if kind.upper() != "CMD" or not command.strip():
        raise InvalidArgument(f'Unknown type "{kind}" in HEALTHCHECK (try CMD)')
    if unknown := flags.keys() - _HEALTH_FLAGS.keys() - {"retries"}:
        raise InvalidArgument(f"unknown flag: {min(unknown)}")
    listed = _json_list(command.strip())
    test = ("CMD", *listed) if listed is not None else ("CMD-SHELL", command.strip())
    durations = {field: _duration(flag, flags[flag]) for flag, field in _HEALTH_FLAGS.items() if flag in flags}
    retries = flags.get("retries", "0")
    if not retries.isdigit() or len(retries) > 9:
        raise InvalidArgument(f"--retries must be at least 1 (not {retries})")
    return replace(config, healthcheck=Healthcheck(test=test, retries=int(retries), **durations))


_HEALTH_FLAGS = {
    "interval": "interval",
    "timeout": "timeout",
    "start-period": "start_period",
    "start-interval": "start_interval",
}


def _duration(flag: str, text: str) -> int:
    parts = _DURATION.findall(text)
    if "".join(number + unit for number, unit in parts) != text or not parts:
        raise InvalidArgument(f'Flag --{flag}: time: invalid duration "{text}"')
    value = sum(int(float(number) * _UNITS[unit]) for number, unit in parts)
    if 0 < value < 10**6:
        raise InvalidArgument(f"Interval '{flag}' cannot be less than 1ms")
    return value


def _single(name: str, text: str, known: Mapping[str, str]) -> str:
    words = _words(text, known)
    if len(words) != 1:
        raise InvalidArgument(f"dockerfile parse error on line 1: {name} requires exactly one argument")
    return words[0]


def _variables(config: ImageConfig) -> dict[str, str]:
    return dict(entry.partition("=")[::2] for entry in config.env)


def _pairs(text: str, name: str, known: Mapping[str, str]) -> dict[str, str]:
    """`k=v k2="v 2"`, or the old form `k all the rest`."""
    words = _split(text)
    if "=" not in words[0]:
        first = text.split(None, 1)
        if len(words) < 2:
            raise InvalidArgument(f"dockerfile parse error on line 1: {name} must have two arguments")
        return {_expanded(first[0], known): _expanded(first[1], known)}
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise InvalidArgument(f"Syntax error - can't find = in {json.dumps(word)}. Must be of the form: name=value")
        if not key:
            raise InvalidArgument(f"{name} names can not be blank")
        found[_expanded(key, known)] = _expanded(value, known)
    return found


def _words(text: str, known: Mapping[str, str]) -> list[str]:
    return [_expanded(word, known) for word in _split(text)]


@dataclass(slots=True)
class _Quotes:
    """Where in a text quotes are open."""

    open: str = ""

    def take(self, before: str, char: str) -> None:
        if before == "\\" and self.open != "'":
            return
        if self.open:
            self.open = "" if char == self.open else self.open
        elif char in "\"'":
            self.open = char


def _split(text: str) -> list[str]:
    """Words as they are written, quotes included."""
    words, word, quotes = [], "", _Quotes()
    for before, char in pairwise(" " + text):
        quotes.take(before, char)
        if char.isspace() and not quotes.open and before != "\\":
            words.append(word)
            word = ""
        else:
            word += char
    return [each for each in (*words, word) if each]


def _expanded(text: str, known: Mapping[str, str]) -> str:
    """A word without its quotes and backslashes, its variables replaced, as the builder does."""
    found, position, quote = [], 0, ""
    while position < len(text):
        char = text[position]
        if quote != "'" and char == "\\" and position + 1 < len(text):
            found.append(text[position + 1] if not quote or text[position + 1] in '"$\\' else text[position:][:2])
            position += 2
        elif quote and char == quote:
            quote, position = "", position + 1
        elif not quote and char in "\"'":
            quote, position = char, position + 1
        elif char == "$" and quote != "'":
            value, position = _variable(text, position + 1, known)
            found.append(value)
        else:
            found.append(char)
            position += 1
    return "".join(found)


def _variable(text: str, position: int, known: Mapping[str, str]) -> tuple[str, int]:
    """What stands for the variable that begins at `position`, and where it ends."""
    if text[position : position + 1] == "{":
        end = text.find("}", position)
        match = _NAME.match(text, position + 1)
        if end < 0 or match is None:
            raise InvalidArgument(f"failed to process {json.dumps(text)}: missing ':' or '}}' in substitution")
        rest = text[match.end() : end]
        value = known.get(match[0], "")
        if rest.startswith(":-"):
            value = value or rest[2:]
        elif rest.startswith(":+"):
            value = rest[2:] if value else ""
        elif rest:
            raise InvalidArgument(f"failed to process {json.dumps(text)}: unsupported modifier in substitution")
        return value, end + 1
    match = _NAME.match(text, position)
    return (known.get(match[0], ""), match.end()) if match is not None else ("$", position)


_APPLY: dict[str, Callable[[ImageConfig, str], ImageConfig]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "ONBUILD": _on_build,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
