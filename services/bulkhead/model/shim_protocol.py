"""Which conversations of manager and shim there are: shims outlive the manager that had them started.

A shim writes the number of its protocol into its record beside the bundle; whoever dials it looks there first.

    1  the first releases, whose records bear no number
    2  the record tells protocol and version; State and Wait tell what a run has lost

A manager drives shims of its own protocol and of the one before. Raise the number when a message or its meaning
changes, so that an older manager would misunderstand it; a field that may be ignored is no reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bulkhead.errors import Conflict

PROTOCOL = 2
OLDEST = PROTOCOL - 1
# In the record of a shim that tells a later manager of the execs it was asked to expect.
KEEPS_EXECS = "keeps_execs"
# In the record of a shim that can create execs by itself.
TELLS_NEW_EXECS = "news_of_execs"
# What a record without a number means.
_UNTOLD = 1


def protocol_of(record: Mapping[str, Any]) -> int:
    """The protocol that a shim's record tells."""
    told = record.get("protocol", _UNTOLD)
    return told if isinstance(told, int) else 0


def check_protocol(container_id: str, record: Mapping[str, Any]) -> None:
    """Raises Conflict for a shim that cannot be understood: what it holds runs on, and is not to be touched."""
    told = protocol_of(record)
    if not OLDEST <= told <= PROTOCOL:
        raise Conflict(
            f"cannot drive the shim of container {container_id[:12]}: it speaks protocol {told} "
            f"(Bulkhead {record.get('version', 'of another version')}), this Bulkhead {OLDEST} to {PROTOCOL}; "
            "the container runs on: use the Bulkhead that started it"
        )
