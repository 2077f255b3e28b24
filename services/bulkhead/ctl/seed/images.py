"""OCI images made in memory: the same input gives the same digests, on any day."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# A fixed day: the image must not differ from one installation to the next.
CREATED = "2026-01-01T00:00:00Z"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Tree:
    """A file tree as the tar stream of one layer: root's, dated 1970."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by tar()

    def file(self, name: str, data: bytes, mode: int = 0o644) -> Tree:
        return self._add(name, tarfile.REGTYPE, mode, data=data)

    def directory(self, name: str, mode: int = 0o755) -> Tree:
        return self._add(name, tarfile.DIRTYPE, mode)

    def symlink(self, name: str, target: str) -> Tree:
        return self._add(name, tarfile.SYMTYPE, 0o777, target=target)

    def hardlink(self, name: str, target: str) -> Tree:
        return self._add(name, tarfile.LNKTYPE, 0o755, target=target)

    def tar(self) -> bytes:
        """The finished archive; nothing can be added after."""
        self._tar.close()
        return self._buffer.getvalue()

    def _add(self, name: str, kind: bytes, mode: int, *, data: bytes = b"", target: str = "") -> Tree:
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.linkname, entry.size = kind, mode, target, len(data)
        self._tar.addfile(entry, io.BytesIO(data))
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """Blobs by digest, and the manifest that names them."""

    blobs: Mapping[str, bytes]
    manifest: bytes

    @property
    def manifest_digest(self) -> str:
        return digest_of(self.manifest)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def image_of(*trees: Tree, command: Sequence[str] | None = None, config: Mapping[str, Any] | None = None) -> Image:
    """An image of one layer per tree for this machine's architecture.

    `config` is merged into the image's own (Env, Entrypoint, User, WorkingDir, ...).
    """
    tars = [tree.tar() for tree in trees]
    layers = [gzip.compress(tar, compresslevel=6, mtime=0) for tar in tars]
    machine = platform.machine()
    own_config = {
        "created": CREATED,
        "architecture": _ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": {"Env": [f"PATH={PATH}"], "Cmd": list(command) if command else None, **(config or {})},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
        "history": [{"created": CREATED, "created_by": "bulkhead seed"} for _ in tars],
    }
    config_bytes = _json(own_config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _descriptor(CONFIG_TYPE, config_bytes),
        "layers": [_descriptor(LAYER_TYPE, layer) for layer in layers],
    }
    return Image(blobs={digest_of(data): data for data in (config_bytes, *layers)}, manifest=_json(manifest))


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
