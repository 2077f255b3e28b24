"""Media types of images: OCI's and Docker's names for the same things."""

from __future__ import annotations

import re
from enum import Enum
from types import MappingProxyType

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = f"{OCI_LAYER}+gzip"
OCI_LAYER_ZSTD = f"{OCI_LAYER}+zstd"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"

DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = f"{DOCKER_LAYER}.gzip"
DOCKER_LAYER_ZSTD = f"{DOCKER_LAYER}.zstd"
DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"
DOCKER_FOREIGN_GZIP = f"{DOCKER_FOREIGN}.gzip"
_OCI_NONDISTRIBUTABLE = "application/vnd.oci.image.layer.nondistributable.v1.tar"

INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
# In the order of preference that Docker sends.
ACCEPTED = (DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX)
# Schema 1 was a signed, different format; nobody has made it since 2017.
SCHEMA1_PREFIX = "application/vnd.docker.distribution.manifest.v1+"


class Compression(Enum):
    """How a layer's tar is packed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


LAYERS = MappingProxyType(
    {
        OCI_LAYER: Compression.NONE,
        OCI_LAYER_GZIP: Compression.GZIP,
        OCI_LAYER_ZSTD: Compression.ZSTD,
        DOCKER_LAYER: Compression.NONE,
        DOCKER_LAYER_GZIP: Compression.GZIP,
        DOCKER_LAYER_ZSTD: Compression.ZSTD,
        DOCKER_FOREIGN: Compression.NONE,
        DOCKER_FOREIGN_GZIP: Compression.GZIP,
        _OCI_NONDISTRIBUTABLE: Compression.NONE,
        f"{_OCI_NONDISTRIBUTABLE}+gzip": Compression.GZIP,
        f"{_OCI_NONDISTRIBUTABLE}+zstd": Compression.ZSTD,
    }
)
# Layers that a registry need not hold: their `urls` say where they are.
NONDISTRIBUTABLE = frozenset(kind for kind in LAYERS if "foreign" in kind or "nondistributable" in kind)

_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")


def is_media_type(text: str) -> bool:
    """Whether `text` has the form of a media type without parameters (RFC 6838 section 4.2)."""
    return _MEDIA_TYPE.fullmatch(text) is not None


# What servers say that do not know what they serve.
_SAYS_NOTHING = frozenset({"", "application/json", "application/octet-stream", "text/plain"})


def told(content_type: str) -> str | None:
    """The media type that a Content-Type header claims for a manifest; None when it claims nothing."""
    kind = bare(content_type)
    return None if kind in _SAYS_NOTHING else kind


def bare(content_type: str) -> str:
    """A Content-Type header without its parameters."""
    return content_type.partition(";")[0].strip().lower()
