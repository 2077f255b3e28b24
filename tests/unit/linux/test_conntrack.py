"""What the kernel is asked about flows."""

from __future__ import annotations

import socket
from unittest.mock import Mock

import pytest

from bulkhead.linux import conntrack


@pytest.mark.parametrize(("version", "family"), [(4, socket.AF_INET), (6, socket.AF_INET6)])
def test_one_walk_through_one_family(version: int, family: int) -> None:
    kernel = Mock()
    kernel.dump.return_value = []
    assert not list(conntrack.udp_flows(kernel, 53, version))
    assert [body[0] for _, body in (call.args for call in kernel.dump.call_args_list)] == [family]
