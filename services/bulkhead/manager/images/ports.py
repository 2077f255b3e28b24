"""What the image part of the manager needs from the rest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

# publish(type, action, actor_id, attributes): announce an event; returns when it is in the journal.
Publish = Callable[[str, str, str, Mapping[str, str]], Awaitable[None]]
# image id ("sha256:...") -> (container id, is it running) of every container made from it.
ImageUsers = Callable[[], Mapping[str, Sequence[tuple[str, bool]]]]
