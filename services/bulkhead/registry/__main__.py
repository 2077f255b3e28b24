"""Entry point of the registry service: `bulkhead-registry`, `python -m bulkhead.registry`."""

from __future__ import annotations

import sys

from bulkhead.registry.app import serve
from bulkhead.registry.config import add_arguments
from bulkhead.service import run_service


def main() -> int:
    """Run the registry until it is told to stop; its exit status."""
    return run_service("registry", serve, arguments=add_arguments)


if __name__ == "__main__":
    sys.exit(main())
