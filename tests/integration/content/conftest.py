"""A store, and a layer unpacked beside a canary that must never change."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from bulkhead.content import media_types
from bulkhead.content.inflate import Limits
from bulkhead.content.store import BlobStore
from bulkhead.content.unpack import UnpackResult, unpack_layer
from bulkhead.model.digest import Digest

# Where hostile archives with absolute names try to write.
ABSOLUTE_CANARY = Path("/etc/bulkhead-test")
Unpack = Callable[..., Awaitable[UnpackResult]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlobStore]:
    store = BlobStore(tmp_path / "store")
    store.open()
    yield store
    store.close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    if os.geteuid() != 0:
        pytest.skip("unpacking needs root")
    target = tmp_path / "layers" / "target"
    target.mkdir(parents=True)
    return target


@pytest.fixture
def unpack(tmp_path: Path, target: Path) -> Unpack:
    async def unpack(blob: bytes, diff_id: str | None = None, limits: Limits | None = None) -> UnpackResult:
        path = tmp_path / "blob"
        path.write_bytes(blob)
        expected = Digest.parse(diff_id) if diff_id else None
        return await unpack_layer(path, media_types.OCI_LAYER_GZIP, target, expected, limits=limits)

    return unpack


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two MiB."""
    disk = tmp_path / "small"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A directory and a file outside the target, at the places that climbing names would hit."""
    outside = tmp_path / "layers" / "canary"
    outside.mkdir(parents=True)
    victim = outside / "victim"
    victim.write_text("untouched")
    victim.chmod(0o600)
    before = _facts(tmp_path / "layers")
    yield victim
    assert _facts(tmp_path / "layers") == before, "something outside the layer changed"
    assert not ABSOLUTE_CANARY.exists()


def size_of(directory: Path) -> int:
    """Bytes of the files directly in a directory."""
    return sum(path.stat().st_size for path in directory.iterdir())


def _facts(root: Path) -> list[tuple[str, int, int, int, int, bytes]]:
    """Everything below `root` but the target: names, modes, links, times, content."""
    found = []
    for path in sorted(root.rglob("*")):
        if "target" in path.relative_to(root).parts:
            continue
        stat = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        found.append((str(path), stat.st_mode, stat.st_nlink, stat.st_uid, stat.st_mtime_ns, content))
    return found
