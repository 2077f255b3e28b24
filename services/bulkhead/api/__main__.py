"""`bulkhead-api` and `python -m bulkhead.api`."""

from __future__ import annotations

import sys

from bulkhead import lean

with lean.imports("api"):
    from bulkhead.api.app import serve
    from bulkhead.service import run_service


def main() -> int:
    """Run the Engine API daemon; the process's exit status."""
    return run_service("api", serve)


if __name__ == "__main__":
    sys.exit(main())
