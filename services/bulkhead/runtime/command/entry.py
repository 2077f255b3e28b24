"""Where the installed command begins: light first, then the rest."""

from __future__ import annotations

import gc

from bulkhead import module_image
from bulkhead.module_image import ModuleImage


def main() -> None:
    with _image() as modules:
        _lighten()
        from bulkhead.runtime.command.__main__ import main as run

        run(modules.keep)


def install() -> None:
    """Write the image of what most verbs import, before there is a first one."""
    with _image():
        _lighten()
        from bulkhead.runtime.command import __main__, execs, foreground, lifecycle, reports  # noqa: F401


def _image() -> ModuleImage:
    # Read and not mapped: descriptors from 3 on are the caller's.
    return module_image.kept("runtime", _is_common, mapped=False)


def _is_common(name: str) -> bool:
    """What rare verbs load beside our modules would only make the image longer."""
    from bulkhead.runtime.command.lean import NEUTRAL

    return name.startswith("bulkhead.") or name in NEUTRAL


def _lighten() -> None:
    from bulkhead.runtime.command.lean import lighten

    # Modules are nothing to collect, and a command that lives for milliseconds leaves little else.
    gc.disable()
    lighten()
