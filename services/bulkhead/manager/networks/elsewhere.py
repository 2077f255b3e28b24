"""What the host has elsewhere: subnets that a network must not have, or its host would lose the way there."""

from __future__ import annotations

from bulkhead.manager.networks.leases import overlap
from bulkhead.manager.networks.ports import Survey
from bulkhead.model.network import IPNetwork

# A split default route, as VPNs set it, covers half of all addresses and clashes with none.
_SHORTEST_CLASH = 2


def use_of(subnet: IPNetwork, survey: Survey, *, besides: str) -> str | None:
    """In words, a route or an address inside the subnet that is not of the interface `besides`."""
    for destination, name in survey.routes:
        if name != besides and destination.prefixlen >= _SHORTEST_CLASH and overlap(destination, subnet):
            return f"the route to {destination} by interface {name or '(several)'}"
    for interface in survey.interfaces.values():
        for address in interface.addresses:
            if interface.name != besides and address.ip in subnet:
                return f"the address {address} of interface {interface.name}"
    return None
