"""Where the default network is: its setting's subnet, or, where nobody has set one and the host has that elsewhere, the
next free one of the pools, as with Docker's daemon. Once chosen it stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network

from bulkhead.errors import BulkheadError
from bulkhead.manager.networks import blocks
from bulkhead.manager.networks.elsewhere import use_of
from bulkhead.manager.networks.ports import Survey
from bulkhead.model.instance import Instance
from bulkhead.model.network import IPNetwork

USUAL = Instance().subnet


def place(before: str, instance: Instance, survey: Survey, taken: Iterable[IPNetwork]) -> str:
    """The subnet, `before` unless the host has it elsewhere; `taken` are those of other networks.

    A bridge that is there is used: whether it can be is its maker's to judge. So is a subnet when no other is free.
    """
    if instance.bridge in survey.interfaces or use_of(IPv4Network(before), survey, besides=instance.bridge) is None:
        return before
    had = [each.network for interface in survey.interfaces.values() for each in interface.addresses]
    routed = [destination for destination, _ in survey.routes if destination.prefixlen > 1]
    try:
        return blocks.choose([], list(taken), [*routed, *had]).subnet
    except BulkheadError:
        return before
