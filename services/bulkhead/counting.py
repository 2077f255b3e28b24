"""How often this process has done what costs time: calls of other services, transactions, statements.

`counts` grows from the start of the process and is told by `GET /debug/ops`. What the kernel sees of an operation
(forks, fsyncs, netlink) is counted there: tests/integration/operations.
"""

from __future__ import annotations

from collections import Counter

counts: Counter[str] = Counter()


def count_call(service: str, route: str) -> None:
    """A call of `service`; of its route (`/package.Service/Method`) the last part is shown."""
    counts[f"rpc {service} {route.rpartition('/')[2]}"] += 1
