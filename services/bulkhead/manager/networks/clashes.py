"""What a survey of the host tells of a bridge: whether it must be made, or its name or its subnet is another's."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from bulkhead.errors import Conflict
from bulkhead.manager.networks.elsewhere import use_of
from bulkhead.manager.networks.ports import Bridge, Interface, Survey
from bulkhead.model.network import IPNetwork


def is_missing(bridge: Bridge, survey: Survey) -> bool:
    """Whether the bridge must be made. Raises Conflict when its name or its subnet is another's."""
    found = survey.interfaces.get(bridge.name)
    if found is not None and found.kind != "bridge":
        raise Conflict(
            f"cannot use {bridge.name} as bridge: an interface of that name exists and is no bridge; "
            "set another with BULKHEAD_BRIDGE"
        )
    if found is not None and set(bridge.addresses) <= set(found.addresses):
        return not found.up
    _refuse_strangers(bridge, found)
    clash = _clash(bridge, survey)
    if clash is not None:
        raise Conflict(
            f"cannot use subnet {clash[0]} for bridge {bridge.name}: it overlaps {clash[1]}; "
            "set another with BULKHEAD_SUBNET"
        )
    return True


def without(survey: Survey, gone: Collection[str]) -> Survey:
    """What will be found when the links `gone` are."""
    return replace(
        survey,
        interfaces={name: each for name, each in survey.interfaces.items() if name not in gone},
        routes=tuple(route for route in survey.routes if route[1] not in gone),
    )


def _refuse_strangers(bridge: Bridge, found: Interface | None) -> None:
    """Raise Conflict for a bridge with addresses that are not ours; IPv6's own link-local ones are no matter."""
    strange = [each for each in found.addresses if each not in bridge.addresses] if found is not None else []
    strange = [each for each in strange if not each.ip.is_link_local]
    if strange:
        own = ", ".join(map(str, bridge.addresses)) or "none"
        raise Conflict(
            f"cannot use bridge {bridge.name}: it has the address {strange[0]}, not "
            f"{own}; delete it, or set BULKHEAD_BRIDGE or BULKHEAD_SUBNET"
        )


def _clash(bridge: Bridge, survey: Survey) -> tuple[IPNetwork, str] | None:
    """A subnet of the bridge and, in words, what the host has there."""
    for subnet in (plan.subnet for plan, _ in bridge.families):
        if (use := use_of(subnet, survey, besides=bridge.name)) is not None:
            return subnet, use
    return None
