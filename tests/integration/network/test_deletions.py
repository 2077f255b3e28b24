"""What is told of deletions by the kernel: all of them, also to a reader that comes late."""

from __future__ import annotations

import os
import subprocess

import pytest

from bulkhead.linux import netlink, nftables

pytestmark = [pytest.mark.root]
COUNT = 1500


def test_a_late_reader_has_lost_nothing() -> None:
    """Others change their tables by the thousand, while a manager on a busy machine waits for its turn."""
    table = f"bh-deletions-{os.getpid()}"
    chains = "".join(f"add chain inet {table} c{number}\n" for number in range(COUNT))
    news = nftables.deletions()
    try:
        subprocess.run(["nft", "-f", "-"], input=f"add table inet {table}\n{chains}", text=True, check=True)
        subprocess.run(["nft", "delete", "table", "inet", table], check=True)
        told = news.read()
    finally:
        news.close()
    assert told is not None and len(told) >= COUNT


def test_of_interfaces_the_deleted_bridges_are_told() -> None:
    """By the kernel's filter: the end of each container's veth, in its bridge and as such, wakes nobody."""
    name = f"bhd{os.getpid()}"
    news = netlink.bridge_deletions()
    try:
        for command in (
            f"link add {name} type bridge",
            f"link add {name}a type veth peer name {name}b",
            f"link set {name}a master {name}",
            f"link delete {name}a",
            f"link delete {name}",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        told = news.read()
    finally:
        news.close()
    assert told is not None
    assert [netlink.deleted_link(body) for _, body in told if name in netlink.deleted_link(body)] == [name]
