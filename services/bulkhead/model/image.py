"""An image's configuration, and what a container takes from it.

`image_config` reads the decoded JSON of an OCI or Docker image config; every field of it is hostile.
`merge` fills what a client left open in a ContainerSpec, by Docker's rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NoReturn, TypeVar

from bulkhead.errors import InvalidArgument
from bulkhead.model.container import ContainerSpec, Healthcheck
from bulkhead.model.digest import Digest
from bulkhead.model.replacing import replace

T = TypeVar("T")
MAX_ENTRIES = 10_000
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHistory:
    """One step of how an image was made; `created` as written (RFC 3339)."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """An image's configuration; `None` means "not said", as in ContainerSpec."""

    os: str = ""
    architecture: str = ""
    variant: str = ""
    created: str = ""
    author: str = ""
    user: str = ""
    exposed_ports: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: tuple[str, ...] = ()
    working_dir: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    stop_signal: str = ""
    healthcheck: Healthcheck | None = None
    shell: tuple[str, ...] = ()
    on_build: tuple[str, ...] = ()
    diff_ids: tuple[Digest, ...] = ()
    history: tuple[ImageHistory, ...] = ()

    @property
    def platform(self) -> str:
        """`os/architecture[/variant]`."""
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def merge(spec: ContainerSpec, image: ImageConfig) -> ContainerSpec:
    """`spec` with everything that it leaves open taken from `image`.

    The user's variables come first, then those of the image that the user did not name. An entry of
    `env` without `=` stays: it takes the image's variable away here, and the engine's own default of
    that name where the process's environment is made.
    """
    entrypoint, command = _merged_command(spec, image)
    return replace(
        spec,
        entrypoint=entrypoint,
        command=command,
        env=_merged_env(spec.env, image.env),
        labels={**image.labels, **spec.labels},
        exposed_ports=_union(spec.exposed_ports, image.exposed_ports),
        volumes=_union(spec.volumes, image.volumes),
        working_dir=spec.working_dir or image.working_dir,
        user=spec.user or image.user,
        stop_signal=spec.stop_signal or image.stop_signal,
        shell=spec.shell or image.shell,
        healthcheck=_merged_healthcheck(spec.healthcheck, image.healthcheck),
    )


def image_config(document: Mapping[str, object]) -> ImageConfig:
    """Read a decoded config document. Raises InvalidArgument that names the field."""
    process = _Fields(_object(document, "config"), "config.")
    top = _Fields(document, "")
    return ImageConfig(
        os=top.text("os"),
        architecture=top.text("architecture"),
        variant=top.text("variant"),
        created=top.text("created"),
        author=top.text("author"),
        user=process.text("User"),
        exposed_ports=process.keys("ExposedPorts"),
        env=tuple(entry for entry in process.texts("Env") or () if _is_variable(entry)),
        entrypoint=process.texts("Entrypoint"),
        cmd=process.texts("Cmd"),
        volumes=process.keys("Volumes"),
        working_dir=process.text("WorkingDir"),
        labels=process.mapping("Labels"),
        stop_signal=process.text("StopSignal"),
        healthcheck=_healthcheck(_object(process.source, "Healthcheck", "config.")),
        shell=process.texts("Shell") or (),
        on_build=process.texts("OnBuild") or (),
        diff_ids=_diff_ids(_object(document, "rootfs")),
        history=_history(document.get("history")),
    )


def chain_ids(diff_ids: tuple[Digest, ...]) -> tuple[Digest, ...]:
    """The name of each layer on top of those below it, base first (OCI image-spec, config.md)."""
    chain: list[Digest] = []
    for diff_id in diff_ids:
        chain.append(Digest.of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return tuple(chain)


def _merged_command(spec: ContainerSpec, image: ImageConfig) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    entrypoint, command = spec.entrypoint, spec.command
    if not entrypoint:
        if not command:
            command = image.cmd
        if entrypoint is None:
            entrypoint = image.entrypoint
    # `--entrypoint ""` arrives as [""]: it drops the image's entrypoint and its command.
    return (None if entrypoint == ("",) else entrypoint), command


def _merged_env(user: tuple[str, ...], image: tuple[str, ...]) -> tuple[str, ...]:
    named = {entry.partition("=")[0] for entry in user}
    return user + tuple(entry for entry in image if entry.partition("=")[0] not in named)


def _merged_healthcheck(user: Healthcheck | None, image: Healthcheck | None) -> Healthcheck | None:
    if user is None or image is None:
        return user or image
    return Healthcheck(
        test=user.test or image.test,
        interval=user.interval or image.interval,
        timeout=user.timeout or image.timeout,
        start_period=user.start_period or image.start_period,
        start_interval=user.start_interval or image.start_interval,
        retries=user.retries or image.retries,
    )


def _union(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(first + second))


@dataclass(frozen=True, slots=True)
class _Fields:
    """Typed reading of an untyped object; null is absence, as in Go."""

    source: Mapping[str, object]
    prefix: str

    def text(self, name: str) -> str:
        value = self.source.get(name)
        return "" if value is None else _text(value, self.prefix + name)

    def texts(self, name: str) -> tuple[str, ...] | None:
        value = self.source.get(name)
        if value is None:
            return None
        return tuple(_text(entry, self.prefix + name) for entry in _list(value, self.prefix + name))

    def keys(self, name: str) -> tuple[str, ...]:
        return tuple(sorted(_text(key, self.prefix + name) for key in _object(self.source, name, self.prefix)))

    def mapping(self, name: str) -> Mapping[str, str]:
        given = _object(self.source, name, self.prefix)
        label = self.prefix + name
        return MappingProxyType({_text(key, label): _text(value, label) for key, value in given.items()})

    def number(self, name: str) -> int:
        value = self.source.get(name)
        if value is None:
            return 0
        if type(value) is not int or not -(2**63) <= value < 2**63:
            _refuse(self.prefix + name, "an integer")
        return value


def _healthcheck(given: Mapping[str, object]) -> Healthcheck | None:
    if not given:
        return None
    fields = _Fields(given, "config.Healthcheck.")
    return Healthcheck(
        test=fields.texts("Test") or (),
        interval=fields.number("Interval"),
        timeout=fields.number("Timeout"),
        start_period=fields.number("StartPeriod"),
        start_interval=fields.number("StartInterval"),
        retries=fields.number("Retries"),
    )


def _diff_ids(rootfs: Mapping[str, object]) -> tuple[Digest, ...]:
    if rootfs.get("type") not in (None, "layers"):
        _refuse("rootfs.type", '"layers"')
    return tuple(Digest.parse(text) for text in _Fields(rootfs, "rootfs.").texts("diff_ids") or ())


def _history(value: object) -> tuple[ImageHistory, ...]:
    if value is None:
        return ()
    return _each(_list(value, "history"), _history_entry)


def _history_entry(value: object) -> ImageHistory:
    if not isinstance(value, dict):
        _refuse("history", "a list of objects")
    fields = _Fields(value, "history.")
    return ImageHistory(
        created=fields.text("created"),
        created_by=fields.text("created_by"),
        author=fields.text("author"),
        comment=fields.text("comment"),
        empty_layer=value.get("empty_layer") is True,
    )


def _each(values: list[object], read: Callable[[object], T]) -> tuple[T, ...]:
    return tuple(read(value) for value in values)


def _object(source: Mapping[str, object], name: str, prefix: str = "") -> Mapping[str, object]:
    value = source.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        _refuse(prefix + name, "an object")
    if len(value) > MAX_ENTRIES:
        _refuse(prefix + name, f"shorter than {MAX_ENTRIES} entries")
    return value


def _list(value: object, name: str) -> list[object]:
    if not isinstance(value, list):
        _refuse(name, "a list")
    if len(value) > MAX_ENTRIES:
        _refuse(name, f"shorter than {MAX_ENTRIES} entries")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        _refuse(name, "text")
    # These become arguments, variables and paths of a process: execve(2) ends them at a NUL.
    if "\0" in value:
        _refuse(name, "free of NUL characters")
    # JSON can spell halves of surrogate pairs, which no process and no other program can be told.
    if not value.isascii() and not value.isprintable() and any("\ud800" <= char <= "\udfff" for char in value):
        _refuse(name, "valid Unicode")
    return value


def _is_variable(entry: str) -> bool:
    return entry != "" and not entry.startswith("=")


def _refuse(name: str, wanted: str) -> NoReturn:
    raise InvalidArgument(f"cannot use image config: {name} must be {wanted}")
