"""A machine without nf_tables, as its kernel answers."""

from __future__ import annotations

import errno
import os

import pytest

from bulkhead.errors import Unavailable
from bulkhead.linux import nftables
from bulkhead.linux.netlink import Netlink
from bulkhead.manager.adapters.netlink_network import NetlinkKernel
from bulkhead.manager.networks.bridge import BridgeNetwork
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


async def test_the_first_bridge_network_says_so() -> None:
    kernel = FakeKernel()
    missing = nftables.KernelPartMissing()
    kernel.failures["table"] = kernel.failures["apply"] = Unavailable(f"cannot change the firewall: {missing.strerror}")
    network = BridgeNetwork(Instance(), kernel)
    with pytest.raises(Unavailable, match="this kernel has no nf_tables"):
        await network.ensure()
