"""grpclib's channel, for peers that die at any time."""

from __future__ import annotations

from grpclib.client import Channel
from grpclib.exceptions import StreamTerminatedError
from grpclib.protocol import H2Protocol


class MortalChannel(Channel):
    """A connection that was lost as it was made is an error like one lost later; grpclib has AttributeError for it."""

    async def __connect__(self) -> H2Protocol:
        protocol = await super().__connect__()
        if protocol.processor.connection.is_closing():
            raise StreamTerminatedError("Connection lost")
        return protocol
