"""What supervisor and zygote say to each other, known to both without loading what either is made of."""

from __future__ import annotations

from collections.abc import Sequence

from bulkhead.shim.identity import Expected

MESSAGE_LIMIT = 64 << 10
# One more spare.
ASK = b"s"
# A shim says that it is a spare again.
FREE = b"f"
# Beside a spare's identity: the network namespace of its container is made by somebody else; what precedes its cgroup.
_NETWORK_GIVEN, _CGROUP = "network-given", "cgroup="


def expectation(expected: Expected) -> tuple[str, ...]:
    """The words for it."""
    network = (_NETWORK_GIVEN,) if expected.network_given else ()
    return (*network, f"{_CGROUP}{expected.cgroup}") if expected.cgroup else network


def heard(words: Sequence[str]) -> tuple[Expected, list[str]]:
    """What they say of it, and the other words."""
    cgroup = next((each for each in words if each.startswith(_CGROUP)), "")
    others = [each for each in words if each not in (cgroup, _NETWORK_GIVEN)]
    return Expected(network_given=_NETWORK_GIVEN in words, cgroup=cgroup.removeprefix(_CGROUP)), others
