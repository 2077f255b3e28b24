"""What it takes to have one image more: room for its blobs and layers, its record, and who is told."""

from __future__ import annotations

from dataclasses import dataclass

from bulkhead.content.store import BlobStore
from bulkhead.manager.images.collector import Collector
from bulkhead.manager.images.leases import Leases
from bulkhead.manager.images.ledger import Ledger
from bulkhead.manager.images.ports import Publish, Unpacked
from bulkhead.manager.images.unpacking import Unpacker


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """The same for all who make images, wherever they have them from."""

    ledger: Ledger
    store: BlobStore
    unpacker: Unpacker
    leases: Leases
    collector: Collector
    publish: Publish
    unpacked: Unpacked
