"""Images go when the disk is full, the oldest first, and only as many as it takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest

from bulkhead.errors import InvalidArgument
from bulkhead.manager.images.config import Marks
from bulkhead.manager.images.ports import Layers
from bulkhead.manager.images.store import ImageStore
from bulkhead.manager.images.watermarks import Watermarks


@dataclass(frozen=True)
class _Image:
    id: str


@dataclass
class _Host:
    """A disk, and images of one percent of it each; what is evicted is gone when the trash is emptied."""

    used: float
    images: list[_Image]
    pending: float = 0.0
    gone: list[str] = field(default_factory=list)

    def used_percent(self) -> float:
        return self.used

    async def emptied(self) -> None:
        self.used, self.pending = self.used - self.pending, 0.0

    def unused(self, before: int) -> list[_Image]:
        return [image for image in self.images if image.id not in self.gone]

    async def evict(self, image: _Image) -> int:
        self.gone.append(image.id)
        self.pending += 1.0
        return 1


def watermarks(host: _Host, marks: Marks) -> Watermarks:
    return Watermarks(cast(ImageStore, host), cast(Layers, host), marks)


@pytest.mark.parametrize(
    ("used", "gone"),
    [(89.0, []), (90.0, ["a", "b", "c", "d", "e", "f"]), (86.0, [])],
)
async def test_from_the_high_mark_to_the_low_one(used: float, gone: list[str]) -> None:
    host = _Host(used, [_Image(name) for name in "abcdefghij"])
    await watermarks(host, Marks(high=90, low=85)).collect()
    assert host.gone == gone


async def test_when_nothing_may_go_nothing_goes() -> None:
    host = _Host(99.0, [_Image("a")])
    assert await watermarks(host, Marks(high=90, low=10)).collect() == ["a"]
    assert await watermarks(host, Marks(high=90, low=10)).collect() == []


async def test_off_by_default() -> None:
    host = _Host(100.0, [_Image("a")])
    keeper = watermarks(host, Marks())
    assert await keeper.collect() == []
    await keeper.run()
    assert host.gone == []


@pytest.mark.parametrize(("high", "low"), [(90, 90), (80, 90), (101, 50), (50, 0), (-1, 5)])
def test_marks_that_mean_nothing_are_refused(high: int, low: int) -> None:
    with pytest.raises(InvalidArgument, match="watermarks"):
        Marks(high=high, low=low)
