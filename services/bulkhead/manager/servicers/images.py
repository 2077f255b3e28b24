"""The gRPC face of images."""

from __future__ import annotations

from bulkhead.wire.gen.bulkhead.manager.v1 import ImagesBase


class ImagesServicer(ImagesBase):
    """Message in, use-case, message out."""
