"""What libraries load while they are imported, and no service ever uses, is left out.

    with lean.imports("api"):
        from bulkhead.api.app import serve

structlog takes up rich for coloured tracebacks where that is installed, as it is on a developer's machine: 5 MB and
50 ms. aiohttp reads all of the system's certificates into two TLS contexts: 2 MB and 45 ms; `content.trust` makes its
own when a registry is spoken to. The garbage collector finds nothing in modules, and need not look through them
again and again while they grow, nor later: 40 ms, and the time of each full collection. What dataclasses generate is
kept (`class_cache`): 110 ms of the manager's 560, 130 of the API's 420; so is the modules' code (`module_image`), a
tenth of what is left.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys

from bulkhead import module_image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_UNWANTED = ("rich",)
# Where OpenSSL looks for certificates (SSL_CTX_set_default_verify_paths(3)).
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@contextlib.contextmanager
def imports(name: str) -> Iterator[None]:
    """Entered around the imports of the entry point `name`; afterwards all is as before. Without threads."""
    modules: dict[str, Any] = vars(sys)["modules"]
    unwanted = [name for name in _UNWANTED if name not in modules]
    before = {name: os.environ.get(name) for name in _CERTIFICATES}
    modules.update(dict.fromkeys(unwanted))
    os.environ.update(dict.fromkeys(_CERTIFICATES, os.devnull))
    gc.disable()
    try:
        with module_image.kept(name):
            from bulkhead import class_cache  # from the image, and half of the standard library with it

            with class_cache.kept(name):
                yield
    finally:
        gc.enable()
        gc.freeze()
        for name in unwanted:
            del modules[name]
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
