"""What only the parent can do for a stage that asks: map its user namespace, set its clocks, fetch the listener of its
filter."""

from __future__ import annotations

import array
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bulkhead.errors import InvalidArgument
from bulkhead.linux import idmap, syscall
from bulkhead.nsexec import Report, ReportKind
from bulkhead.runtime import hooks
from bulkhead.runtime.conversation import Answer, Conversation

Config = Mapping[str, Any]

_CLOCKS = ("monotonic", "boottime")
_PATIENCE_SECONDS = 10.0


def expect(conversation: Conversation, config: Config, *, container_id: str, bundle: str) -> None:
    """Prepare the conversation for what this config makes the stage ask."""
    linux: Config = config.get("linux") or {}
    asked: dict[ReportKind, Answer] = {}
    if linux.get("uidMappings") or linux.get("gidMappings"):
        asked[ReportKind.USER] = lambda _: map_users(conversation.launch.pid, linux)
    if linux.get("timeOffsets"):
        asked[ReportKind.TIME] = lambda _: set_clocks(conversation.launch.pid, linux["timeOffsets"])
    seccomp: Config = linux.get("seccomp") or {}
    if seccomp.get("listenerPath"):
        about = {"container_id": container_id, "bundle": bundle}
        asked[ReportKind.LISTENER] = lambda report: hand_over(conversation, report, config, **about)
    conversation.answers.update(asked)


def mappings(linux: Config, key: str) -> list[idmap.Mapping]:
    """uidMappings or gidMappings as numbers."""
    return [(entry["containerID"], entry["hostID"], entry["size"]) for entry in linux.get(key) or ()]


def map_users(pid: int, linux: Config) -> None:
    """Write the maps of a user namespace that this process has just made."""
    idmap.write(pid, mappings(linux, "uidMappings"), mappings(linux, "gidMappings"))


def set_clocks(pid: int, offsets: Config) -> None:
    """Of a time namespace that this process has made and nobody has entered (time_namespaces(7))."""
    lines = [
        f"{clock} {offsets[clock].get('secs') or 0} {offsets[clock].get('nanosecs') or 0}\n"
        for clock in _CLOCKS
        if offsets.get(clock)
    ]
    Path(f"/proc/{pid}/timens_offsets").write_text("".join(lines))


def move_devices(pid: int, devices: Config) -> None:
    """Give the interfaces that linux.netDevices names to this process's network namespace. OSError names the one."""
    from bulkhead.linux import netdevices

    netns = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for name, device in devices.items():
            netdevices.move(name, netns, (device or {}).get("name") or name)
    finally:
        os.close(netns)


def hand_over(conversation: Conversation, report: Report, config: Config, *, container_id: str, bundle: str) -> None:
    """Send the listener of the filter to the agent at listenerPath, with the state that the specification draws."""
    launch = conversation.launch
    seccomp: Config = config["linux"]["seccomp"]
    listener = syscall.call("pidfd_getfd", launch.pidfd, report.errno, 0)
    try:
        state = hooks.state(config, container_id=container_id, bundle=bundle, status="creating", pid=launch.pid)
        told = {
            "ociVersion": config["ociVersion"],
            "fds": ["seccompFd"],
            "pid": launch.pid,
            "metadata": seccomp.get("listenerMetadata") or "",
            "state": state,
        }
        _send(seccomp["listenerPath"], json.dumps(told).encode(), listener)
    finally:
        os.close(listener)


def _send(path: str, message: bytes, descriptor: int) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
        agent.settimeout(_PATIENCE_SECONDS)
        try:
            agent.connect(path)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
            sent = agent.sendmsg([message], [rights])
            if sent < len(message):
                agent.sendall(message[sent:])
        except OSError as error:
            raise InvalidArgument(f"failed to connect with seccomp agent {path}: {error.strerror or error}") from error
