"""What users say of macvlan and ipvlan networks, read as Docker reads it, with its texts."""

from __future__ import annotations

from bulkhead.errors import InvalidArgument
from bulkhead.model.network import INTERFACE_NAME, AddressPlan, LinkPlan, NetworkRecord, parent_name

DRIVERS = ("macvlan", "ipvlan")
_PARENT, _LOOPBACK = "parent", "lo"
_MODES = {"macvlan": ("bridge", "private", "vepa", "passthru"), "ipvlan": ("l2", "l3", "l3s")}
_FLAGS = ("bridge", "private", "vepa")
_VLANS = range(1, 4095)


def link_plan(network: NetworkRecord, v4: AddressPlan | None, v6: AddressPlan | None, mtu: int) -> LinkPlan:
    """Raises InvalidArgument."""
    parent = network.options.get(_PARENT, "")
    return LinkPlan(
        key=network.id,
        driver=network.driver,
        parent=_name(parent_name(network.id, network.options)),
        base=_name(parent).partition(".")[0] if parent else "",
        vlan=_number(parent) if "." in parent else 0,
        mode=_mode(network),
        flag=_flag(network),
        v4=v4,
        v6=v6,
        internal=network.internal or not parent,
        mtu=mtu,
    )


def why_not_made(parent: str) -> str:
    """Why a parent that is missing cannot be made, going by its name."""
    parts = parent.split(".")
    if len(parts) == 1:
        return f"invalid subinterface vlan name {parent}, example formatting is eth0.10"
    if len(parts) > 2:
        return f"required interface name format is: name.vlan_id, ex. eth0.10 for vlan 10, instead received {parent}"
    if not parts[1].isdecimal():
        return f"unable to parse a valid vlan id from: {parts[1]} (ex. eth0.10 for vlan 10)"
    return f"vlan id must be between {_VLANS.start}-{_VLANS.stop - 1}, received: {parts[1]}"


def _name(parent: str) -> str:
    if parent == _LOOPBACK:
        raise InvalidArgument("loopback interface is not a valid macvlan parent link")
    if not INTERFACE_NAME.fullmatch(parent):
        raise InvalidArgument(f"invalid parent interface {parent!r}: it is no interface's name")
    return parent


def _number(parent: str) -> int:
    """Of a name like eth0.10; 0 for one that may exist and cannot be made."""
    _, _, text = parent.partition(".")
    return int(text) if text.isdecimal() and int(text) in _VLANS else 0


def _mode(network: NetworkRecord) -> str:
    driver, known = network.driver, _MODES[network.driver]
    mode = network.options.get(f"{driver}_mode", "") or known[0]
    if mode not in known:
        raise InvalidArgument(
            f"requested {driver} mode '{mode}' is not valid, '{known[0]}' mode is the {driver} driver default"
        )
    return mode


def _flag(network: NetworkRecord) -> str:
    if network.driver != "ipvlan":
        return ""
    flag = network.options.get("ipvlan_flag", "") or _FLAGS[0]
    if flag not in _FLAGS:
        raise InvalidArgument(
            f"requested ipvlan flag '{flag}' is not valid, '{_FLAGS[0]}' is the ipvlan driver default"
        )
    return flag
