"""`python -m bulkhead.supervisor`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bulkhead import lean

with lean.imports("supervisor"):
    from bulkhead.service import run_service
    from bulkhead.supervisor.app import serve


def main(argv: Sequence[str] | None = None) -> int:
    """Run the service until it is told to stop."""
    return run_service("supervisor", serve, argv)


if __name__ == "__main__":
    sys.exit(main())
