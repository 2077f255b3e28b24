"""What is told of deletions by the kernel: all of them, also to a reader that comes late."""

from __future__ import annotations

import os
import subprocess

import pytest

from bulkhead.linux import nftables

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
