"""Entry point of the registry service: `bulkhead-registry`, `python -m bulkhead.registry`.

`bulkhead-registry gc` asks the running service for a round of its collector.
"""

from __future__ import annotations

import sys

from bulkhead import lean

with lean.imports("registry"):
    from bulkhead.registry import administration
    from bulkhead.registry.app import serve
    from bulkhead.registry.config import add_arguments
    from bulkhead.service import run_service


def main() -> int:
    """Run the registry until it is told to stop, or one of the operator's commands; the exit status."""
    if sys.argv[1:2] == ["gc"]:
        return administration.collect_now(sys.argv[2:])
    return run_service("registry", serve, arguments=add_arguments)


if __name__ == "__main__":
    sys.exit(main())
