"""Containers decoded once per version of their bytes instead of once per question.

The manager sends a container in the same bytes for as long as nothing of it changes. To decode them takes longer than
everything else that a `ps` or an inspect does, so what came out is kept beside them. This is no state: any answer is
the same without it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any, Generic, Self, TypeVar, cast

from bulkhead.wire.gen.bulkhead.manager import v1 as wire

T = TypeVar("T")
# The only field of either answer: number 1, length-delimited.
_FIELD_1 = 0x0A
# More than there are containers that somebody inspects one after the other, again and again (manager.py).
QUESTIONS = 256


class Undecoded:
    """Takes the place of an answer: the bytes of the messages in its only field."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        self.parts = parts

    @classmethod
    def FromString(cls, data: bytes) -> Self:
        """What the codec calls to parse."""
        return cls(list(_parts(data)))


class ReadingStub(wire.ContainersStub):
    """The two calls that read, with their answers as bytes, and the wait; all else is the generated stub's."""

    def exits(self, request: wire.WaitContainerRequest) -> AsyncGenerator[wire.WaitContainerResponse]:
        """What `wait` gives; but whoever closes it has ended the call, which the generated one leaves to the loop."""
        route = "/bulkhead.manager.v1.Containers/Wait"
        answers = self._unary_stream(route, request, wire.WaitContainerResponse)
        return cast("AsyncGenerator[wire.WaitContainerResponse]", answers)

    async def list_parts(self, request: wire.ListContainersRequest) -> Sequence[bytes]:
        return await self._parts("List", request)

    async def inspect_part(self, request: wire.InspectContainerRequest) -> bytes:
        return b"".join(await self._parts("Inspect", request))

    async def _parts(self, method: str, request: Any) -> Sequence[bytes]:
        route = f"/bulkhead.manager.v1.Containers/{method}"
        answer = await self._unary_unary(route, request, cast(Any, Undecoded))
        return cast(Undecoded, answer).parts


class Remembered(Generic[T]):
    """What `decode` made of some bytes: of the `limit` last asked for, each until QUESTIONS others did without it.

    Bytes of a container that has changed or is gone never come again.
    """

    def __init__(self, decode: Callable[[bytes], T], limit: int) -> None:
        self._decode = decode
        self._limit = limit
        self._question = 0
        # With the number of the question that they were last part of, in that order.
        self._known: OrderedDict[bytes, tuple[T, int]] = OrderedDict()

    def of(self, parts: Sequence[bytes]) -> list[T]:
        """Each decoded, in order."""
        self._question += 1
        found = [self._one(part) for part in parts]
        while self._known and self._is_spare(next(iter(self._known.values()))[1]):
            self._known.popitem(last=False)
        return found

    def _one(self, part: bytes) -> T:
        known = self._known.get(part)
        decoded = self._decode(part) if known is None else known[0]
        self._known[part] = (decoded, self._question)
        self._known.move_to_end(part)
        return decoded

    def _is_spare(self, question: int) -> bool:
        """Whether what is oldest, of this question, can go."""
        return len(self._known) > self._limit or self._question - question > QUESTIONS


def _parts(data: bytes) -> Iterator[bytes]:
    position = 0
    while position < len(data):
        if data[position] != _FIELD_1:
            raise ValueError("cannot read the manager's answer: it has fields that this version does not know")
        size, shift, position = 0, 0, position + 1
        while True:
            byte = data[position]
            size |= (byte & 0x7F) << shift
            shift, position = shift + 7, position + 1
            if byte < 0x80:
                break
        yield data[position : position + size]
        position += size
