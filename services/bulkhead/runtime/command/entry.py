"""Where the installed command begins: light first, then the rest."""

from __future__ import annotations

from bulkhead.runtime.command.lean import lighten


def main() -> None:
    lighten()
    from bulkhead.runtime.command.__main__ import main as run

    run()
