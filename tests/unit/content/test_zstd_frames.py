"""The end of a zstd frame is found whatever its shape and however its bytes arrive."""

from __future__ import annotations

import os

import pytest
import zstandard

from bulkhead.content.zstd_frames import Frames

SKIPPABLE = b"\x53\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"12345"
SHAPES = {
    "empty": zstandard.compress(b""),
    "one byte": zstandard.compress(b"x"),
    "zeros (RLE blocks)": zstandard.compress(bytes(1_000_000)),
    "random (raw blocks)": zstandard.compress(os.urandom(300_000)),
    "text": zstandard.compress(b"some text " * 100_000),
    "checksum": zstandard.ZstdCompressor(write_checksum=True).compress(b"x" * 5000),
    "no content size": zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 5000),
    "two frames": zstandard.compress(b"x" * 300) + zstandard.compress(b"y" * 70_000),
    "skippable first": SKIPPABLE + zstandard.compress(b"x"),
    "skippable last": zstandard.compress(b"x") + SKIPPABLE,
    "empty skippable": b"\x50\x2a\x4d\x18" + bytes(4),
}


@pytest.mark.parametrize("data", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("step", [1, 3, 7, 1 << 20])
def test_only_whole_frames_are_complete(data: bytes, step: int) -> None:
    if step == 1 and len(data) > 10_000:
        step = 4096
    frames = Frames()
    for start in range(0, len(data), step):
        frames.feed(data[start : start + step])
    assert frames.complete


@pytest.mark.parametrize("data", SHAPES.values(), ids=SHAPES)
def test_a_frame_torn_anywhere_is_not_complete(data: bytes) -> None:
    ends = _frame_ends(data)
    cuts = range(1, len(data)) if len(data) < 1000 else range(1, len(data), len(data) // 97)
    for cut in cuts:
        frames = Frames()
        frames.feed(data[:cut])
        assert frames.complete == (cut in ends), cut


def _frame_ends(data: bytes) -> set[int]:
    """Ends of frames by another road: the decoder's own account of what it left over."""
    ends, start = set(), 0
    while start < len(data):
        if data[start + 1 : start + 4] == b"\x2a\x4d\x18":
            start += 8 + int.from_bytes(data[start + 4 : start + 8], "little")
        else:
            decoder = zstandard.ZstdDecompressor().decompressobj()
            decoder.decompress(data[start:])
            start = len(data) - len(decoder.unused_data)
        ends.add(start)
    return ends
