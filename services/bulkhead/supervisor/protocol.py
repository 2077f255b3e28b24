"""What supervisor and zygote say to each other, known to both without loading what either is made of."""

from __future__ import annotations

MESSAGE_LIMIT = 64 << 10
# One more spare.
ASK = b"s"
# A shim says that it is a spare again.
FREE = b"f"
# Beside a spare's identity: the network namespace of its container is made by somebody else.
NETWORK_GIVEN = "network-given"
