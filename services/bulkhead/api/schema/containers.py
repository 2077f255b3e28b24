"""Containers as inspect and list show them, with every key that Docker 28 gives; older versions differ by `deltas`."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from bulkhead.api.ports.containers import InspectedContainer, ListedContainer
from bulkhead.api.schema import hostconfig, ports
from bulkhead.api.schema.times import human, rfc3339
from bulkhead.model.container import ContainerSpec, Healthcheck, Mount, NetworkEndpoint
from bulkhead.model.health import Health
from bulkhead.model.ids import short
from bulkhead.model.lifecycle import Phase
from bulkhead.model.losses import Loss

_PREDEFINED = frozenset(("", "bridge", "host", "none"))
GRAPH_DRIVER = "overlay2"
_LOGS_IN_FILES = ("", "json-file")


def inspected(container: InspectedContainer, *, data: Path, cgroup_version: int = 1) -> dict[str, Any]:
    """The answer of `GET /containers/{id}/json`; `data` is the engine's data directory."""
    home = container.data_dir or str(data / "containers" / container.id)
    # Docker writes these at the first start.
    written = container.phase is not Phase.CREATED
    logs = written and container.spec.log_config.driver in _LOGS_IN_FILES
    shown: dict[str, Any] = {
        "Id": container.id,
        "Created": rfc3339(container.created_at),
        "Path": container.path,
        "Args": list(container.args),
        "State": state(container),
        "Image": container.image_id,
        "ResolvConfPath": f"{home}/resolv.conf" if written else "",
        "HostnamePath": f"{home}/hostname" if written else "",
        "HostsPath": f"{home}/hosts" if written else "",
        "LogPath": container.log_path if logs else "",
        "Name": f"/{container.name}",
        "RestartCount": container.restart_count,
        "Driver": GRAPH_DRIVER,
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        # What changes without the container is told beside it.
        "ExecIDs": None,
        "HostConfig": {**hostconfig.echo(container.spec, cgroup_version), **_links(container)},
        "GraphDriver": _graph_driver(container),
        "Mounts": mounts(container.spec, data),
        "Config": config(container),
        "NetworkSettings": _network_settings(container),
    }
    if container.size_rw >= 0:
        shown |= {"SizeRw": container.size_rw, "SizeRootFs": container.size_root}
    return shown


def _links(container: InspectedContainer) -> dict[str, Any]:
    """Those of the default bridge by their present names; elsewhere the client's words."""
    ours = container.links or container.spec.network_mode == "bridge"
    return {"Links": list(container.links) or None} if ours else {}


def state(container: InspectedContainer) -> dict[str, Any]:
    phase = container.phase
    shown: dict[str, Any] = {
        "Status": phase.value,
        # A restarting container counts as running: clients that poll Running must not take it for stopped.
        "Running": phase.alive or phase is Phase.RESTARTING,
        "Paused": phase is Phase.PAUSED,
        "Restarting": phase is Phase.RESTARTING,
        "OOMKilled": container.oom_killed,
        "Dead": phase is Phase.DEAD,
        "Pid": container.pid if phase.alive else 0,
        "ExitCode": 0 if phase.alive else container.exit_code,
        "Error": container.error,
        "StartedAt": rfc3339(container.started_at),
        "FinishedAt": rfc3339(container.finished_at),
    }
    if container.ended_by:
        # Not Docker's: what brought the last run to its end.
        shown["EndedBy"] = container.ended_by
    if container.losses:
        # Not Docker's: what the deaths of processes, or the disk, have taken of the run.
        shown["Losses"] = [_loss(each) for each in container.losses]
    if container.health is not None:
        shown["Health"] = _health(container.health)
    return shown


def _loss(loss: Loss) -> dict[str, Any]:
    """A number of lines only where it is known."""
    shown: dict[str, Any] = {"What": loss.what, "Since": rfc3339(loss.since), "Until": rfc3339(loss.until)}
    return shown | ({"Lines": loss.lines} if loss.lines else {})


def _health(health: Health) -> dict[str, Any]:
    results = [
        {"Start": rfc3339(each.start), "End": rfc3339(each.end), "ExitCode": each.exit_code, "Output": each.output}
        for each in health.log
    ]
    return {"Status": health.status, "FailingStreak": health.failing_streak, "Log": results}


def config(container: InspectedContainer) -> dict[str, Any]:
    spec = container.spec
    shown: dict[str, Any] = {
        "Hostname": spec.hostname or container.id[:12],
        "Domainname": spec.domainname,
        "User": spec.user,
        "AttachStdin": spec.attach_stdin,
        "AttachStdout": spec.attach_stdout,
        "AttachStderr": spec.attach_stderr,
        "ExposedPorts": {port: {} for port in spec.exposed_ports},
        "Tty": spec.tty,
        "OpenStdin": spec.open_stdin,
        "StdinOnce": spec.stdin_once,
        "Env": list(spec.env) or None,
        "Cmd": _argv(spec.command),
        "Healthcheck": healthcheck(spec.healthcheck),
        "Image": spec.image,
        "Volumes": {path: {} for path in spec.volumes} or None,
        "WorkingDir": spec.working_dir,
        "Entrypoint": _argv(spec.entrypoint),
        "NetworkDisabled": spec.network_disabled,
        "OnBuild": None,
        "Labels": dict(spec.labels),
        "StopSignal": spec.stop_signal,
        "Shell": list(spec.shell),
    }
    if spec.stop_timeout is not None:
        shown["StopTimeout"] = spec.stop_timeout
    return {name: value for name, value in shown.items() if value or name not in _OMITTED_WHEN_EMPTY}


_OMITTED_WHEN_EMPTY = frozenset(("ExposedPorts", "Healthcheck", "NetworkDisabled", "StopSignal", "Shell"))


def _argv(words: tuple[str, ...] | None) -> list[str] | None:
    return None if words is None else list(words)


def healthcheck(check: Healthcheck | None) -> dict[str, Any] | None:
    if check is None:
        return None
    shown = {
        "Test": list(check.test),
        "Interval": check.interval,
        "Timeout": check.timeout,
        "StartPeriod": check.start_period,
        "StartInterval": check.start_interval,
        "Retries": check.retries,
    }
    return {name: value for name, value in shown.items() if value}


def mounts(spec: ContainerSpec, data: Path) -> list[dict[str, Any]]:
    """The `Mounts` of inspect; those of HostConfig.Tmpfs are not among them."""
    host: dict[str, Any] = msgspec.json.decode(spec.engine_host_config or b"{}")
    hidden = set(host.get("Tmpfs") or ())
    shown = [each for each in spec.mounts if each.type != "tmpfs" or each.target not in hidden]
    return [{**mount_point(each, data), "Mode": _mode(each, host)} for each in shown]


def _mode(mount: Mount, host: Mapping[str, Any]) -> str:
    """The last part of the `-v` that made it. Docker says "z" of every volume that a client named."""
    for text in host.get("Binds") or ():
        parts = text.split(":")
        if parts[1:2] and posixpath.normpath(parts[1]) == mount.target:
            return parts[2] if len(parts) > 2 else ("z" if mount.type == "volume" else "")
    told = {posixpath.normpath(each.get("Target") or "/") for each in host.get("Mounts") or ()}
    return "z" if mount.type == "volume" and mount.target in told else ""


def mount_point(mount: Mount, data: Path) -> dict[str, Any]:
    shown: dict[str, Any] = {"Type": mount.type}
    if mount.type == "volume":
        shown |= {
            "Name": mount.source,
            "Source": f"{data}/volumes/{mount.source}/_data",
            "Destination": mount.target,
            "Driver": "local",
            "Mode": "z",
        }
    else:
        shown |= {"Source": mount.source, "Destination": mount.target, "Mode": ""}
    propagation = (mount.propagation or "rprivate") if mount.type == "bind" else ""
    return {**shown, "RW": not mount.read_only, "Propagation": propagation}


def _graph_driver(container: InspectedContainer) -> dict[str, Any]:
    if not container.upper_dir:
        return {"Name": GRAPH_DRIVER, "Data": {}}
    home = str(Path(container.upper_dir).parent)
    return {
        "Name": GRAPH_DRIVER,
        "Data": {
            "LowerDir": ":".join(container.lower_dirs),
            "MergedDir": f"{home}/merged",
            "UpperDir": container.upper_dir,
            "WorkDir": f"{home}/work",
        },
    }


def _network_settings(container: InspectedContainer) -> dict[str, Any]:
    alive = container.phase.alive
    on_bridge = next((each for each in container.endpoints if alive and each.network_name == "bridge"), None)
    return {
        "Bridge": "",
        "SandboxID": container.id if container.phase.alive else "",
        "SandboxKey": f"/proc/{container.pid}/ns/net" if container.phase.alive else "",
        "Ports": ports.port_map(container.endpoints, container.spec.exposed_ports, alive),
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": on_bridge.endpoint_id if on_bridge else "",
        "Gateway": on_bridge.gateway if on_bridge else "",
        "GlobalIPv6Address": on_bridge.address6 if on_bridge else "",
        "GlobalIPv6PrefixLen": on_bridge.prefix_len6 if on_bridge else 0,
        "IPAddress": on_bridge.address if on_bridge else "",
        "IPPrefixLen": on_bridge.prefix_len if on_bridge else 0,
        "IPv6Gateway": on_bridge.gateway6 if on_bridge else "",
        "MacAddress": on_bridge.mac if on_bridge else "",
        "Networks": networks(container.endpoints, container),
    }


def networks(
    endpoints: Iterable[NetworkEndpoint], container: InspectedContainer | None = None
) -> dict[str, dict[str, Any]]:
    """Networks by name; a stopped container keeps what was asked for, with empty addresses."""
    return {each.network_name: _endpoint(each, container) for each in endpoints}


def _endpoint(endpoint: NetworkEndpoint, container: InspectedContainer | None) -> dict[str, Any]:
    on_users = endpoint.network_name not in _PREDEFINED
    names = [container.name, *endpoint.aliases, short(container.id)] if container and on_users else []
    if container and container.spec.hostname and on_users:
        names.append(container.spec.hostname)
    return {
        "IPAMConfig": _asked_addresses(endpoint) or ({} if on_users else None),
        "Links": list(endpoint.links) or None,
        "Aliases": list(endpoint.aliases) or None,
        "MacAddress": endpoint.mac or endpoint.fixed_mac,
        "DriverOpts": dict(endpoint.driver_options) or None,
        "GwPriority": endpoint.gateway_priority,
        "NetworkID": endpoint.network_id if container is None or container.phase is not Phase.CREATED else "",
        "EndpointID": endpoint.endpoint_id,
        "Gateway": endpoint.gateway,
        "IPAddress": endpoint.address,
        "IPPrefixLen": endpoint.prefix_len,
        "IPv6Gateway": endpoint.gateway6,
        "GlobalIPv6Address": endpoint.address6,
        "GlobalIPv6PrefixLen": endpoint.prefix_len6,
        "DNSNames": list(dict.fromkeys(names)) or None,
    }


def _asked_addresses(endpoint: NetworkEndpoint) -> dict[str, Any]:
    asked = {
        "IPv4Address": endpoint.fixed_address,
        "IPv6Address": endpoint.fixed_address6,
        "LinkLocalIPs": list(endpoint.link_local_addresses),
    }
    return {key: value for key, value in asked.items() if value}


def listed(container: ListedContainer, *, data: Path, now: int) -> dict[str, Any]:
    """An item of `GET /containers/json`."""
    mode = container.network_mode or "bridge"
    shown: dict[str, Any] = {
        "Id": container.id,
        "Names": sorted(f"/{name}" for name in (container.name, *container.link_names)),
        "Image": container.image,
        "ImageID": container.image_id,
        "Command": container.command,
        "Created": container.created_at // 10**9,
        "Ports": ports.port_list(container.endpoints, container.exposed_ports) if container.phase.alive else [],
        "Labels": dict(container.labels),
        "State": container.phase.value,
        "Status": status(container, now),
        "HostConfig": {"NetworkMode": mode},
        "NetworkSettings": {"Networks": networks(container.endpoints)},
        "Mounts": [mount_point(mount, data) for mount in container.mounts],
    }
    if container.size_rw >= 0:
        shown |= {"SizeRw": container.size_rw, "SizeRootFs": container.size_root}
    return shown


def status(container: ListedContainer, now: int) -> str:
    """The words of `docker ps`: `Up 5 minutes`, `Exited (0) 2 hours ago`."""
    if container.phase is Phase.CREATED and container.finished_at == 0:
        return "Created"
    if container.phase.alive:
        return f"Up {human(now - container.started_at)}{_suffix(container)}"
    ago = f"{human(now - container.finished_at)} ago"
    plain: Mapping[Phase, str] = {
        Phase.RESTARTING: f"Restarting ({container.exit_code}) {ago}",
        Phase.REMOVING: "Removal In Progress",
        Phase.DEAD: "Dead",
    }
    return plain.get(container.phase, f"Exited ({container.exit_code}) {ago}")


def _suffix(container: ListedContainer) -> str:
    if container.phase is Phase.PAUSED:
        return " (Paused)"
    if container.health_status in ("", "none"):
        return ""
    return f" ({_HEALTH.get(container.health_status, container.health_status)})"


_HEALTH = {"starting": "health: starting"}
