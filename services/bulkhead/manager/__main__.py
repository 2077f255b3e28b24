"""`python -m bulkhead.manager`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bulkhead import lean

with lean.imports("manager"):
    from bulkhead.manager.app import serve_manager
    from bulkhead.service import run_service


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service until it is told to stop."""
    return run_service("manager", serve_manager, argv)


if __name__ == "__main__":
    sys.exit(main())
