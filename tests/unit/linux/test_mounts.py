"""Mount options decide what a container may do with a mount; a word that is misread opens it."""

from __future__ import annotations

import pytest

from bulkhead.linux import mounts
from bulkhead.linux.mounts import parse_options


@pytest.mark.parametrize(
    ("options", "to_set", "to_clear"),
    [
        (["ro", "nosuid", "nodev", "noexec"], 0xF, 0),
        (["ro", "rw"], 0, mounts.RDONLY),
        (["rw", "ro"], mounts.RDONLY, 0),
        (["noexec", "exec"], 0, mounts.NOEXEC),
        (["noatime"], mounts.NOATIME, mounts.ATIME),
        (["noatime", "strictatime"], mounts.STRICTATIME, mounts.ATIME),
        (["strictatime", "relatime"], 0, mounts.ATIME),
        (["nodiratime"], mounts.NODIRATIME, 0),
        (["defaults"], 0, 0),
    ],
)
def test_later_words_override_earlier_ones(options: list[str], to_set: int, to_clear: int) -> None:
    parsed = parse_options(options)
    assert (parsed.set, parsed.clear) == (to_set, to_clear)


def test_words_for_the_whole_tree_are_kept_apart() -> None:
    parsed = parse_options(["rbind", "rro", "rnosuid", "rprivate"])
    assert parsed.bind and parsed.recursive and parsed.set == 0
    assert parsed.tree_set == mounts.RDONLY | mounts.NOSUID
    assert parsed.propagation == mounts.MS_PRIVATE | mounts.MS_REC


def test_the_rest_belongs_to_the_file_system() -> None:
    assert parse_options(["size=64k", "mode=1777", "huge"]).data == (("size", "64k"), ("mode", "1777"), ("huge", ""))


def test_an_empty_word_is_an_error() -> None:
    with pytest.raises(ValueError):
        parse_options(["ro", ""])
