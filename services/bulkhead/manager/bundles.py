"""The directory that is handed to a shim: `config.json`, the files bound over /etc, the log.

<data>/containers/<id>/        0700
  config.json                  OCI runtime config, written anew at each start
  hosts hostname resolv.conf   bound into the container: changed in place, never replaced
  <id>-json.log  exit.json  task.json  shim.log      the shim's
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Container as Having
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import structlog

from bulkhead.content.aside import Apart
from bulkhead.errors import Conflict, Internal, InvalidArgument, ResourceExhausted, Unavailable
from bulkhead.linux import atomicfile, hostmounts
from bulkhead.manager import links, oci, shared_memory
from bulkhead.manager.config import ManagerConfig
from bulkhead.manager.index import Index
from bulkhead.manager.log_options import log_options
from bulkhead.manager.networks import files
from bulkhead.manager.planning import Plans
from bulkhead.manager.ports import Bundle, Dirs
from bulkhead.manager.runtimes import Runtimes
from bulkhead.manager.sharing import Attachment, Namespaces, attachment, network_owner, shares_memory
from bulkhead.model.container import Container, ContainerSpec, Mount, NetworkEndpoint
from bulkhead.model.ids import short
from bulkhead.model.instance import Instance
from bulkhead.model.refusals import reason
from bulkhead.runtime.init import INIT_PROGRAM
from bulkhead.runtime.rootfs import OverlayRootfs
from bulkhead.runtime.trees import write_files

log = structlog.get_logger()
_HOSTS, _HOSTNAME, _RESOLV = "hosts", "hostname", "resolv.conf"
_TARGETS = {"/etc/hosts": _HOSTS, "/etc/hostname": _HOSTNAME, "/etc/resolv.conf": _RESOLV}
_HOST_IPV6 = "/proc/net/if_inet6"
_HOST_RESOLV = Path("/etc/resolv.conf")
_LONGEST_HOSTS = 1 << 20
# Those on file servers that are away stay: others must not wait for them.
_SOURCES_AT_ONCE = 128
_LONGEST_FILE = 1 << 24
_WITHOUT_NAMES = frozenset(("", "default", "bridge", "host", "none"))
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundles:
    """Makes bundles of one installation."""

    instance: Instance
    config: ManagerConfig
    index: Index
    runtimes: Runtimes = field(default_factory=Runtimes)
    plans: Plans = field(default_factory=Plans)
    _sources: Apart = field(default_factory=lambda: Apart(_SOURCES_AT_ONCE, "sources"))

    def make_directory(self, container_id: str) -> Path:
        """The container's data directory, made when it is not there."""
        place = self.instance.container_data(container_id)
        try:
            _make(place)
        except OSError as error:
            raise _failed("make", place, error) from error
        return place

    async def find_directory(self, container_id: str) -> None:
        """Make the data directory if it has been lost: a shim cannot be launched without it."""
        if self._lacks_directory(container_id):
            await asyncio.to_thread(self.make_directory, container_id)

    def _lacks_directory(self, container_id: str) -> bool:
        return not os.path.isdir(self.instance.container_data(container_id))  # noqa: PTH112 -- on the way of each start

    async def look_for_sources(self, mounts: Iterable[Mount]) -> None:
        """Raises InvalidArgument where one is missing that is not to be made."""
        wanted = [mount for mount in mounts if mount.type == "bind" and not mount.create_source]
        if wanted:
            await self._sources.run(_ensure_all, wanted)

    async def find_sources(self, container: Container) -> None:
        """Make those of its binds that are missing. Raises InvalidArgument, Internal.

        Before `write`: who waits there, for a file server that is away, holds a thread that others want.
        """
        if any(mount.type == "bind" for mount in container.spec.mounts):
            await self._sources.run(_bind_sources, container)

    def write(
        self,
        container: Container,
        namespaces: Namespaces,
        dirs: Dirs,
        volumes: Mapping[str, str],
        own: Having[str] = frozenset(),
        endpoints: Sequence[NetworkEndpoint] = (),
    ) -> Bundle:
        """Write the bundle of a start; `volumes` holds the path of each by target, `own` has the targets of those that
        are the engine's directories. With `endpoints` it names the addresses at once, as `name_addresses` does.
        Blocking: the disk may be busy.

        Raises InvalidArgument, Internal or ResourceExhausted, with Docker's texts where it has some.
        """
        place = self.make_directory(container.id)
        try:
            bundle = self._write(place, container, namespaces, dirs, volumes, own, endpoints)
        except OSError as error:
            raise _failed("write", place, error) from error
        self._tell_linked(container, endpoints)
        return bundle

    def name_addresses(self, container: Container, endpoints: Sequence[NetworkEndpoint]) -> None:
        """Tell the container's /etc/hosts its own addresses, known once it is plugged in, and of those that are linked
        to it the one they use. Blocking."""
        place = self.instance.container_data(container.id)
        try:
            (place / _HOSTS).write_text(_hosts(container, endpoints, links.hosts(container, self.index)))
        except OSError as error:
            raise _failed("write", place / _HOSTS, error) from error
        self._tell_linked(container, endpoints)

    def _tell_linked(self, child: Container, endpoints: Sequence[NetworkEndpoint]) -> None:
        address = next((each.address for each in endpoints if each.network_name == links.BRIDGE), "")
        for parent, alias in links.parents(child, self.index) if address else ():
            try:
                _readdress(self.instance.container_data(parent.id) / _HOSTS, alias, address)
            except OSError as error:
                log.warning("cannot tell a linked container", container=parent.id, reason=str(error))

    def point_to_own_resolver(self, container: Container) -> None:
        """The container's shim answers names from now on."""
        place = self.instance.container_data(container.id) / _RESOLV
        try:
            place.write_text(_resolv(container, _read(_HOST_RESOLV)))
        except OSError as error:
            raise _failed("write", place, error) from error

    def files_of(self, container: Container) -> dict[str, str]:
        """Where the files bound over the container's /etc are, by their places; none before its first start."""
        place = self.instance.container_data(container.id)
        return {target: str(place / name) for target, name in _TARGETS.items() if (place / name).is_file()}

    @property
    def host_resolv(self) -> Path:
        """Where the host says whom it asks."""
        return _HOST_RESOLV

    def upstream_servers(self, container: Container) -> list[str]:
        """Whom the container's shim asks about names it does not know."""
        return list(container.spec.dns) or files.servers_of(_read(_HOST_RESOLV))

    def keeps_dotless(self, container: Container) -> bool:
        """Whether nobody is asked about names without a dot that the container's shim does not know."""
        return files.keeps_dotless(files.options_beside_own_server(_read(_HOST_RESOLV), container.spec.dns_options))

    def _write(
        self,
        place: Path,
        container: Container,
        namespaces: Namespaces,
        dirs: Dirs,
        volumes: Mapping[str, str],
        own: Having[str],
        endpoints: Sequence[NetworkEndpoint],
    ) -> Bundle:
        spec = container.spec
        engine_files, contents = self._engine_files(place, container, endpoints)
        around = oci.Surroundings(
            namespaces=namespaces,
            cgroups_path=self.cgroups_path(container),
            hostname=hostname(container),
            sources={**_bind_sources(container), **volumes},
            own_volumes=own,
            engine_files=engine_files,
            # A process that is not the first of its namespace gets no orphans to reap.
            init_binary=_init_binary() if spec.init and not spec.pid_mode else "",
            linked=self.link_variables(container),
            shared_memory=shared_memory.prepared(container, self.instance),
        )
        text = _encode(oci.config(container, around))
        # In place: what is bound into a container is never replaced.
        write_files(str(place), (*contents, ("config.json", text)))
        runtime = self.runtimes.command(spec.runtime)
        rootfs = OverlayRootfs(
            lower=tuple(dirs.lower), upper=str(dirs.upper), work=str(dirs.work), volatile=spec.auto_remove
        )
        return Bundle(
            directory=place,
            rootfs=dirs,
            volatile=spec.auto_remove,
            log=log_options(self.instance, self.config, container),
            open_stdin=spec.open_stdin,
            stdin_once=spec.stdin_once,
            runtime=runtime,
            planned=b"" if runtime else self.plans.of_container(container.id, text, rootfs),
        )

    def has_foreign_runtime(self, container: Container) -> bool:
        """Whether another runtime than the engine's own core launches it. Raises InvalidArgument for one unknown."""
        return bool(self.runtimes.command(container.spec.runtime))

    def link_variables(self, container: Container) -> list[str]:
        """What its links add to its environment. Raises Internal when one cannot be had."""
        return links.environment(container, self.index) if container.spec.links else []

    async def release(self, container: Container) -> None:
        """Give back what the bundle of a run held on the host: nothing, for most. Raises Internal."""
        if shares_memory(container.spec):
            await asyncio.to_thread(shared_memory.release, container, self.instance)

    def cgroup_ahead(self, container: Container) -> str:
        """The cgroup that the engine's own core will give it, if that can be made before its start."""
        if container.spec.cgroup_parent or self.has_foreign_runtime(container):
            return ""
        return self.cgroups_path(container)

    def cgroups_path(self, container: Container) -> str:
        """Below the instance's own parent, unless the user named another."""
        parent = container.spec.cgroup_parent
        if not parent:
            return f"/{self.instance.label}/{container.id}"
        parts = [part for part in parent.split("/") if part]
        if not parts or any(part in (".", "..") for part in parts):
            raise InvalidArgument(f"invalid cgroup parent: {parent}")
        return "/" + "/".join([*parts, container.id])

    def _engine_files(
        self, place: Path, container: Container, endpoints: Sequence[NetworkEndpoint]
    ) -> tuple[dict[str, str], Sequence[tuple[str, bytes]]]:
        """Where they are, by their places in the container, and what is to be written to those that are its own."""
        way = attachment(container.spec)
        if way is Attachment.SHARED:
            place = self.instance.container_data(network_owner(container.spec, self.index).id)
            return {target: str(place / name) for target, name in _TARGETS.items()}, ()
        directory = str(place)
        named = _hosts(container, endpoints, links.hosts(container, self.index)) if endpoints else ""
        contents = [(name, content.encode()) for name, content in _contents(container, way, named).items()]
        return {target: f"{directory}/{name}" for target, name in _TARGETS.items()}, contents


def _make(place: Path) -> None:
    if os.path.isdir(place):  # noqa: PTH112 -- on the way of each start
        return  # mkdir(2) would wait for whoever makes or removes another container's
    try:
        os.mkdir(place, 0o700)  # noqa: PTH102 -- on the way of each create
    except FileExistsError:
        return
    except FileNotFoundError:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.mkdir(mode=0o700, exist_ok=True)


def _bind_sources(container: Container) -> dict[str, str]:
    binds = [mount for mount in container.spec.mounts if mount.type == "bind"]
    for mount in binds:
        ensure_bind_source(mount, container.remapping.root if container.remapping else None)
        _check_propagation(mount)
    return {mount.target: mount.source for mount in binds}


def _ensure_all(mounts: Iterable[Mount]) -> None:
    for mount in mounts:
        ensure_bind_source(mount)


def _check_propagation(mount: Mount) -> None:
    """What is mounted below the source can be seen inside only where the host's own mount lets it pass."""
    if mount.propagation.lstrip("r") not in ("shared", "slave"):
        return
    point, shared, receives = hostmounts.peers_of(mount.source)
    if mount.propagation.endswith("shared") and not shared:
        raise Internal(f"path {mount.source} is mounted on {point} but it is not a shared mount")
    if not receives:
        raise Internal(f"path {mount.source} is mounted on {point} but it is not a shared or slave mount")


def ensure_bind_source(mount: Mount, owner: tuple[int, int] | None = None) -> None:
    """Make the missing source of a `-v`, for `owner` if that is not the host's root. Raises InvalidArgument with
    Docker's text for that of a `--mount`."""
    try:
        os.stat(mount.source)  # noqa: PTH116 -- on the way of each start
        return
    except OSError as error:
        if not mount.create_source:
            raise InvalidArgument(
                f'invalid mount config for type "bind": bind source path does not exist: {mount.source}'
            ) from error
    for place in _missing(Path(mount.source)):
        try:
            place.mkdir(mode=0o755)
            if owner is not None:
                os.chown(place, *owner, follow_symlinks=False)
        except OSError as error:
            if place.is_dir():
                continue
            # A link that leads nowhere is in the way, and so is a file.
            why = "not a directory" if place.exists() else reason(error).lower()
            raise Internal(f"error while creating mount source path '{mount.source}': mkdir {place}: {why}") from error


def _missing(source: Path) -> list[Path]:
    """The directories that are to be made, the topmost first."""
    missing: list[Path] = []
    for place in (source, *source.parents):
        if place.is_dir():
            break
        missing.insert(0, place)
    return missing


def hostname(container: Container) -> str:
    """What the container calls itself: the host's name when it shares the host's network or names."""
    spec = container.spec
    if spec.hostname:
        return spec.hostname
    if spec.network_mode == "host" or spec.uts_mode == "host":
        return socket.gethostname()
    return short(container.id)


def _contents(container: Container, way: Attachment, named: str) -> Mapping[str, str]:
    """Of the files over its /etc; `named` is the one that tells its addresses, once they are known."""
    spec = container.spec
    host = _read(_HOST_RESOLV)
    if way is Attachment.HOST:
        hosts, resolv = _read(Path("/etc/hosts")), host
        if spec.dns or spec.dns_search or spec.dns_options:
            resolv = files.resolv_conf(host, servers=spec.dns, search=spec.dns_search, options=spec.dns_options)
        extra = files.hosts_file(hostname="x", extra_hosts=spec.extra_hosts) if spec.extra_hosts else ""
        hosts += "".join(f"{line}\n" for line in extra.splitlines()[-len(spec.extra_hosts) :] if spec.extra_hosts)
    else:
        hosts = named or files.hosts_file(
            hostname=hostname(container), extra_hosts=_plain_hosts(spec), ipv6=_has_ipv6(spec)
        )
        resolv = _resolv(container, host)
    return {_HOSTS: hosts, _HOSTNAME: files.hostname_file(hostname(container)), _RESOLV: resolv}


def _resolv(container: Container, host: str) -> str:
    """On a network of a user's the container's own shim is its server."""
    spec = container.spec
    named = any(each.network_name not in _WITHOUT_NAMES for each in container.endpoints)
    if not named:
        return files.resolv_conf(host, servers=spec.dns, search=spec.dns_search, options=spec.dns_options)
    return files.resolv_conf(
        host,
        servers=(files.OWN_SERVER,),
        search=spec.dns_search,
        options=files.options_beside_own_server(host, spec.dns_options),
    )


def _plain_hosts(spec: ContainerSpec) -> list[str]:
    """Without those that name the gateway, which is not known before the container is plugged in."""
    return [entry for entry in spec.extra_hosts if not entry.endswith(("host-gateway",))]


def _hosts(container: Container, endpoints: Sequence[NetworkEndpoint], linked: Sequence[tuple[str, str]]) -> str:
    return files.hosts_file(
        hostname=hostname(container),
        domainname=container.spec.domainname,
        addresses=[address for each in endpoints for address in (each.address, each.address6) if address],
        extra_hosts=container.spec.extra_hosts,
        host_gateway=next((each.gateway for each in endpoints if each.gateway), None),
        linked=linked,
        ipv6=_has_ipv6(container.spec),
    )


def _has_ipv6(spec: ContainerSpec) -> bool:
    """Whether ::1 answers inside: not where the host has no IPv6, or the user switched it off."""
    off = any(spec.sysctls.get(f"net.ipv6.conf.{which}.disable_ipv6") == "1" for which in ("all", "lo"))
    return not off and os.path.exists(_HOST_IPV6)  # noqa: PTH110 -- on the way of each start


def _readdress(hosts: Path, alias: str, address: str) -> None:
    """In place, and never shorter than it will be: the container reads it. What it blew up is left alone."""
    with hosts.open("r+b") as file:
        before = file.read(_LONGEST_HOSTS + 1)
        if len(before) > _LONGEST_HOSTS or (after := files.readdressed(before, alias, address)) == before:
            return
        file.seek(0)
        file.write(after)
        file.truncate()


def _read(path: Path) -> str:
    try:
        return atomicfile.read(path, _LONGEST_FILE).decode(errors="replace")
    except OSError:
        return ""


def _init_binary() -> str:
    if INIT_PROGRAM.exists():
        return str(INIT_PROGRAM)
    raise Internal('exec: "docker-init": executable file not found in $PATH')


def _failed(verb: str, place: Path, error: OSError) -> Conflict | Internal | ResourceExhausted:
    if error.errno in (28, 122):  # ENOSPC, EDQUOT
        return ResourceExhausted(f"cannot {verb} {place}: {reason(error)}")
    return Internal(f"cannot {verb} {place}: {reason(error)}")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """A JSON object that a shim has left, None when there is none. Raises Unavailable when it cannot be read now."""
    try:
        return msgspec.json.decode(atomicfile.read(path, _LONGEST_FILE), type=dict[str, Any])
    except (FileNotFoundError, NotADirectoryError, msgspec.MsgspecError):
        return None
    except OSError as error:
        # Want of descriptors, say: what is there must not be taken for absent.
        raise Unavailable(f"cannot read {path}: {error.strerror}") from error
