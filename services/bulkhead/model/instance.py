"""One installation of Bulkhead on a machine, and every name that is derived from it.

Two instances with different run directories share a machine without touching each other: bridge,
nft table, cgroup parent and veth names all differ. The disk layout is drawn here:

    <run>/  (0711, tmpfs is fine)             <data>/ (0700)
      docker.sock        Engine API             bulkhead.db          records
      manager.sock       gRPC                   content/             blobs by digest
      supervisor.sock    gRPC                   snapshots/           layers, writable layers
      <service>.pid      pid files              containers/<id>/     bundle, logs, exit record
      <service>.stacks   upon SIGUSR1           trash/               renamed here, reaped later
      log/<service>.log  structured logs        volumes/<name>/_data
      containers/<id12>/ (0700)
        shim.sock        ttrpc                  registry/            the registry's own root
        stdio.sock       attach, exec streams
        ended            how the last execs went

A container's run directory is named by the first twelve digits of its id, because the path of a
Unix socket is limited to 107 bytes (unix(7)); the manager never hands out two ids that share them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

SHIM_SOCKET = "shim.sock"
# Beside containers' directories and writable layers: one for a container to come begins with it.
SPARE = ".spare-"
DEFAULT_RUN = Path("/run/bulkhead")
DEFAULT_DATA = Path("/var/lib/bulkhead")
SERVICES = ("supervisor", "manager", "registry", "api")
# The longest path below <run> is containers/<id12>/stdio.sock, 34 bytes with its slash.
LONGEST_RUN_PATH = 107 - 34


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """Where this installation lives and how it is called."""

    run: Path = DEFAULT_RUN
    data: Path = DEFAULT_DATA
    registry: str = "127.0.0.1:5000"
    bridge: str = "bulkhead0"
    subnet: str = "172.30.0.0/16"
    subnet6: str = ""  # of the default bridge, which has no IPv6 without it

    @property
    def suffix(self) -> str:
        """Empty for the default run directory, else eight hex digits that name this instance."""
        return "" if self.run == DEFAULT_RUN else _digest(self.run)

    @property
    def label(self) -> str:
        """`bulkhead` or `bulkhead-<suffix>`: the name of the cgroup parent."""
        return f"bulkhead-{self.suffix}" if self.suffix else "bulkhead"

    @property
    def nft_table(self) -> str:
        """The private nftables table (family inet)."""
        return self.label.replace("-", "_")

    @property
    def forward_mark(self) -> str:
        """How comments of rules begin that this instance has in other firewalls' chains."""
        return f"{self.nft_table}: "

    @property
    def veth_prefix(self) -> str:
        """Host ends of this instance's veths start so (interface names hold 15 characters)."""
        return f"bh{self.suffix[:4]}"

    @property
    def network_alias(self) -> str:
        """Noted at the bridges of users' networks, so that they are known for this instance's."""
        return f"{self.label} network"

    @property
    def names_directory(self) -> Path:
        """What DNS in containers answers from: a file for each network."""
        return self.run / "names"

    @property
    def inlets(self) -> Path:
        """Where archives for containers come in, past the manager: a socket for each."""
        return self.run / "inlets"

    @property
    def docker_socket(self) -> Path:
        return self.run / "docker.sock"

    @property
    def manager_socket(self) -> Path:
        return self.run / "manager.sock"

    @property
    def supervisor_socket(self) -> Path:
        return self.run / "supervisor.sock"

    def pid_file(self, service: str) -> Path:
        return self.run / f"{service}.pid"

    def stacks(self, service: str) -> Path:
        """Where a service writes what its tasks wait for, upon SIGUSR1."""
        return self.run / f"{service}.stacks"

    def container_run(self, container_id: str) -> Path:
        return _place(self.run, container_id[:12])

    def shim_socket(self, container_id: str) -> Path:
        return _place(self.run, container_id[:12], SHIM_SOCKET)

    def stdio_socket(self, container_id: str) -> Path:
        return _place(self.run, container_id[:12], "stdio.sock")

    def container_data(self, container_id: str) -> Path:
        return _place(self.data, container_id)

    def shared_memory(self, container_id: str) -> Path:
        """Where /dev/shm of a container is mounted that others may share."""
        return self.container_data(container_id) / "shm"

    def log_file(self, container_id: str) -> Path:
        return _place(self.data, container_id, f"{container_id}-json.log")

    def exit_record(self, container_id: str) -> Path:
        return _place(self.data, container_id, "exit.json")


@lru_cache(maxsize=16)
def _digest(run: Path) -> str:
    return hashlib.sha256(str(run).encode()).hexdigest()[:8]


@lru_cache(maxsize=512)
def _place(root: Path, container: str, *names: str) -> Path:
    """Remembered: a container's life asks for twenty of them, and making each took ten microseconds."""
    return root.joinpath("containers", container, *names)
