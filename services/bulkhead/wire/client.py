"""gRPC over a Unix socket, called: our errors come back as themselves, an absent peer as Unavailable.

manager = dial(ContainersStub, path, "manager")
await manager.start(StartContainerRequest(ref="web"))
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from betterproto2.grpclib import ServiceStub
from grpclib.client import Channel
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from bulkhead import telemetry
from bulkhead.counting import count_call
from bulkhead.errors import DeadlineExceeded, Unavailable
from bulkhead.wire.status import error_of

# For calls that name no time of their own: longer than any deadline of the one who is called, shorter than for ever.
CALL_SECONDS = 900.0

# A stub's stream is closed where it is left: left to the collector, the peer would go on sending to nobody.
Messages = AsyncGenerator[Any, None]
Stub = TypeVar("Stub", bound=ServiceStub)
_GONE = (OSError, StreamTerminatedError, ProtocolError)


@contextmanager
def translated(peer: str) -> Iterator[None]:
    """Errors of a call to the service `peer`, in our vocabulary."""
    try:
        yield
    except GRPCError as error:
        raise error_of(error.status.value, error.message or error.status.name) from error
    except TimeoutError as error:
        raise DeadlineExceeded(f"the {peer} service did not answer in time") from error
    except _GONE as error:
        reason = str(error) or type(error).__name__
        raise Unavailable(
            f"the {peer} service is not available: {reason} (see `make status`, start it with `make up`)"
        ) from error


class _Translating(ServiceStub):
    """The four call shapes of a generated stub, each translated."""

    peer = ""

    def _metadata(self, given: Any) -> Any:
        if given is not None:
            return given
        bound = telemetry.request_id()
        return {telemetry.REQUEST_ID_HEADER: bound} if bound else None

    async def _unary_unary(self, *args: Any, timeout: float | None = None, metadata: Any = None, **kwargs: Any) -> Any:
        seconds = CALL_SECONDS if timeout is None else timeout
        count_call(self.peer, args[0])
        with translated(self.peer):
            return await super()._unary_unary(*args, timeout=seconds, metadata=self._metadata(metadata), **kwargs)

    async def _unary_stream(self, *args: Any, metadata: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
        count_call(self.peer, args[0])
        with translated(self.peer):
            answers = cast(Messages, super()._unary_stream(*args, metadata=self._metadata(metadata), **kwargs))
            async with aclosing(answers):
                async for message in answers:
                    yield message

    async def _stream_unary(self, *args: Any, metadata: Any = None, **kwargs: Any) -> Any:
        count_call(self.peer, args[0])
        with translated(self.peer):
            return await super()._stream_unary(*args, metadata=self._metadata(metadata), **kwargs)

    async def _stream_stream(self, *args: Any, metadata: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
        count_call(self.peer, args[0])
        with translated(self.peer):
            answers = cast(Messages, super()._stream_stream(*args, metadata=self._metadata(metadata), **kwargs))
            async with aclosing(answers):
                async for message in answers:
                    yield message


def channel(path: Path) -> Channel:
    """A channel to the Unix socket `path`; it connects at the first call, and again after the peer was away."""
    return Channel(path=str(path))


def stub(kind: type[Stub], over: Channel, peer: str) -> Stub:
    """A stub of the generated class `kind` whose errors are ours; `peer` is the service's name in messages."""
    translating = type(f"Translating{kind.__name__}", (_Translated(kind),), {"peer": peer})
    return cast(Stub, translating(over))


def _Translated(kind: type[Stub]) -> type[Stub]:
    return cast(type[Stub], type(kind.__name__, (kind, _Translating), {}))
