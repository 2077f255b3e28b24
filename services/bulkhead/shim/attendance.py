"""What a shim does for its container's network while the container lives: names are answered, ports relayed.

Most containers need neither: the modules' memory is theirs who do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bulkhead.shim.loop import Loop

if TYPE_CHECKING:
    from bulkhead.shim.names import NameServer
    from bulkhead.shim.relay import Relays


class Attendance:
    """Of one container."""

    __slots__ = ("_loop", "_names", "_relays", "_report")

    def __init__(self, loop: Loop, report: Callable[[str, BaseException], None]) -> None:
        self._loop = loop
        self._report = report
        self._names: NameServer | None = None
        self._relays: Relays | None = None

    def serve_names(self, directory: str, container_id: str, pid: int) -> None:
        """Answer DNS in the network namespace of the process from the files in `directory`. Raises Unavailable."""
        if self._names is None:
            from bulkhead.shim.names import NameServer

            self._names = NameServer(self._loop, self._report)
        self._names.serve(directory, container_id, pid)

    def relay(self, ways: Sequence[tuple[str, str, int, str, int]]) -> None:
        """Carry what comes to ports of the host into the container: `shim.relay.Way`s. Raises Unavailable."""
        if self._relays is None:
            if not ways:
                return
            from bulkhead.shim.relay import Relays

            self._relays = Relays(self._loop)
        self._relays.serve(ways)

    def end(self) -> None:
        """The name server's sockets would keep the container's network namespace, those of relays ports of the host."""
        if self._names is not None:
            self._names.close()
        if self._relays is not None:
            self._relays.close()
