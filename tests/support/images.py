"""Images for tests, made on the spot and pushed to the registry of the engine under test."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bulkhead.ctl.seed import busybox, busybox_tree, static_busybox
from bulkhead.ctl.seed.images import Image, Tree, image_of
from bulkhead.ctl.seed.push import push
from bulkhead.errors import NotFound

CACHE = Path("/tmp/bh-cache")
DEBOOTSTRAP_SECONDS = 600


def busybox_image(config: dict[str, Any] | None = None, files: dict[str, bytes] | None = None) -> Image:
    """busybox with its main applets, `files` beside it and `config` merged into the image's own."""
    try:
        binary = static_busybox()
    except NotFound as missing:
        pytest.skip(str(missing))
    tree = busybox_tree(binary.read_bytes(), ["sh", "true", "false", "cat", "echo", "ls", "sleep", "id", "env", "ps"])
    extra = Tree()
    for name, data in (files or {}).items():
        extra.file(name, data, mode=0o755)
    return image_of(tree, *([extra] if files else []), command=["sh"], config=config)


def exit_code_image(code: int) -> Image:
    """An image whose default command exits with `code`."""
    return busybox_image({"Cmd": ["sh", "-c", f"exit {code}"]})


def push_image(registry: str, repository: str, image: Image, tag: str = "latest") -> str:
    """Push to `registry` (host:port); the reference by which the engine pulls it from there."""
    push(registry, repository, tag, image)
    return f"{registry}/{repository}:{tag}"


def debian_layout() -> Path:
    """An OCI layout, tag `debian`, of one layer from a debootstrap tree (about 200 MB, 7,000 files).

    Made once per machine. Skips where debootstrap, skopeo or its package archive is not to be had.
    """
    for tool in ("debootstrap", "skopeo"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} on this machine")
    return _cached("debian-layout", lambda part: _write_layout(_debian_tree(), part))


def _cached(name: str, make: Callable[[Path], object]) -> Path:
    """A directory of the cache, made by one process while others wait; `make` is given a path that is not there."""
    place, part = CACHE / name, CACHE / f"{name}.part"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_dir():
            shutil.rmtree(part, ignore_errors=True)
            make(part)
            part.rename(place)
    return place


def _debian_tree() -> Path:
    return _cached("debian", _debootstrap)


def _debootstrap(part: Path) -> None:
    if shutil.which("debootstrap") is None:
        pytest.skip("no debootstrap on this machine")
    command = ["debootstrap", "--variant=minbase", "stable", str(part)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEBOOTSTRAP_SECONDS, check=False)
    if done.returncode != 0:
        pytest.skip(f"debootstrap: {done.stdout.strip().splitlines()[-1:]}")


SHOP_PACKAGES = ("redis-server", "nginx-light", "postgresql", "python3-psycopg2", "python3-redis")


def shop_tree() -> Path:
    """Debian with a web server, a database and a cache; made once, skips where that cannot be."""
    return _cached("shop", lambda part: _install(part, SHOP_PACKAGES))


def _redis_tree() -> Path:
    """The shop where there is one already; redis alone needs no PostgreSQL."""
    if (CACHE / "shop").is_dir():
        return shop_tree()
    return _cached("redis", lambda part: _install(part, ["redis-server"]))


def _install(part: Path, packages: Sequence[str]) -> None:
    """Debian with these packages."""
    # Devices as devices: to read /dev/full, say, has no end.
    subprocess.check_call(["cp", "-a", _debian_tree(), part])
    # Nothing is to be started while it is installed.
    policy = part / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    install = "apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends"
    done = subprocess.run(
        ["chroot", str(part), "sh", "-c", f"{install} {' '.join(packages)} && apt-get clean"],
        capture_output=True,
        text=True,
        timeout=DEBOOTSTRAP_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"apt-get in a chroot: {done.stderr.strip().splitlines()[-1:]}")


def redis_archive() -> bytes:
    """A tar of Debian's redis and the libraries it is linked with, for `docker import`."""
    tree = _redis_tree()
    programs = ("/usr/bin/redis-server", "/usr/bin/redis-cli")
    linked = subprocess.check_output(["chroot", str(tree), "ldd", *programs], text=True)
    libraries = set(re.findall(r"(/\S+\.so\S*)", linked))
    names = [name.lstrip("/") for name in (*programs, *sorted(libraries))]
    # -h: links among them become what they point to.
    return subprocess.check_output(["tar", "-C", str(tree), "-h", "-c", *names])


def _write_layout(tree: Path, layout: Path) -> None:
    """One layer, by tar(1) and gzip as an image builder would make it."""
    tar = subprocess.run(["tar", "-C", str(tree), "--sort=name", "-c", "."], capture_output=True, check=True).stdout
    save_layout(image_of(_Packed(tar), command=["bash"]), layout, "debian")


def save_layout(image: Image, layout: Path, tag: str = "latest") -> Path:
    """Write an OCI layout that has one image, as skopeo reads it; its path."""
    part = layout.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    blobs = part / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for digest, data in {**image.blobs, image.manifest_digest: image.manifest}.items():
        (blobs / digest.removeprefix("sha256:")).write_bytes(data)
    (part / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    descriptor = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": image.manifest_digest,
        "size": len(image.manifest),
        "annotations": {"org.opencontainers.image.ref.name": tag},
    }
    (part / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor]}))
    return part.rename(layout)


class _Packed(Tree):
    """A tree that is a tar stream already."""

    def __init__(self, tar: bytes) -> None:
        super().__init__()
        self._packed = tar

    def tar(self) -> bytes:
        return self._packed


__all__ = ["busybox", "busybox_image", "debian_layout", "exit_code_image", "push_image", "save_layout", "shop_tree"]
