"""Where the installed command begins: light first, then the rest."""

from __future__ import annotations

import gc

from bulkhead.runtime.command import image
from bulkhead.runtime.command.image import Image
from bulkhead.runtime.command.lean import lighten


def main() -> None:
    modules = _begin()
    from bulkhead.runtime.command.__main__ import main as run

    run(modules.keep)


def install() -> None:
    """Write the image of what most verbs import, before there is a first one."""
    modules = _begin()
    from bulkhead.runtime.command import __main__, execs, foreground, lifecycle, reports  # noqa: F401

    modules.keep()


def _begin() -> Image:
    # Modules are nothing to collect, and a command that lives for milliseconds leaves little else.
    gc.disable()
    lighten()
    return image.use()
