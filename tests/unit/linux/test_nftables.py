"""A machine without nf_tables, as its kernel answers."""

from __future__ import annotations

import errno
import os
from unittest.mock import Mock

import pytest

from bulkhead.errors import Unavailable
from bulkhead.linux import nftables
from bulkhead.linux.netlink import Netlink
from bulkhead.manager.adapters.netlink_network import NetlinkKernel
from bulkhead.manager.networks.bridge import BridgeNetwork
from bulkhead.manager.networks.ports import EndpointChange
from bulkhead.model.instance import Instance
from tests.support.fake_network import FakeKernel


@pytest.mark.parametrize("answer", [errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT])
async def test_a_kernel_without_nf_tables_is_named(monkeypatch: pytest.MonkeyPatch, answer: int) -> None:
    def refuse(_self: Netlink, *_requests: bytes) -> None:
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr(Netlink, "request", refuse)
    kernel = NetlinkKernel()
    try:
        with pytest.raises(Unavailable, match=r"no nf_tables .* the legacy iptables alone will not do"):
            await kernel.table("inet", "any")
    finally:
        kernel.close()


async def test_a_kernel_without_netfilter_is_stood_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's in a machine without modules: even the socket is refused. Only who needs it is told so."""
    refused = OSError(errno.EPROTONOSUPPORT, os.strerror(errno.EPROTONOSUPPORT))
    monkeypatch.setattr(nftables, "Netlink", Mock(side_effect=refused))
    kernel = NetlinkKernel()
    try:
        assert not kernel.published_elsewhere("any", "tcp", "0.0.0.0", 80)
        with pytest.raises(Unavailable, match="this kernel has no nf_tables"):
            await kernel.silence("bh-none0", EndpointChange(elements=(), udp_ports=()))
    finally:
        kernel.close()


async def test_the_first_bridge_network_says_so() -> None:
    kernel = FakeKernel()
    missing = nftables.KernelPartMissing()
    kernel.failures["table"] = kernel.failures["apply"] = Unavailable(f"cannot change the firewall: {missing.strerror}")
    network = BridgeNetwork(Instance(), kernel)
    with pytest.raises(Unavailable, match="this kernel has no nf_tables"):
        await network.ensure()
