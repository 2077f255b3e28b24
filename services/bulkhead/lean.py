"""What libraries load while they are imported, and no service ever uses, is left out.

    with lean.imports("api"):
        from bulkhead.api.app import serve

structlog takes up rich for coloured tracebacks where that is installed, as it is on a developer's machine: 5 MB and
50 ms. aiohttp reads all of the system's certificates into two TLS contexts: 2 MB and 45 ms; `content.trust` makes its
own when a registry is spoken to. betterproto2 asks for its own version, for which `importlib.metadata` loads the
parsers of mails, CSV and ZIP: 1.5 MB and 10 ms. The garbage collector finds nothing in modules, and need not look
through them again and again while they grow, nor later: 40 ms, and the time of each full collection. What dataclasses
generate is kept (`class_cache`): 110 ms of the manager's 560, 130 of the API's 420; so is the modules' code
(`module_image`), a tenth of what is left.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
from types import ModuleType

from bulkhead import module_image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_UNWANTED = ("rich",)
_METADATA = "importlib.metadata"
# Where OpenSSL looks for certificates (SSL_CTX_set_default_verify_paths(3)).
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@contextlib.contextmanager
def imports(name: str) -> Iterator[None]:
    """Entered around the imports of the entry point `name`; afterwards all is as before. Without threads."""
    modules: dict[str, Any] = vars(sys)["modules"]
    stand_ins = {name: stand_in for name, stand_in in _stand_ins().items() if name not in modules}
    before = {name: os.environ.get(name) for name in _CERTIFICATES}
    modules.update(stand_ins)
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
        for name, stand_in in stand_ins.items():
            if modules.get(name, ...) is stand_in:
                del modules[name]
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _stand_ins() -> dict[str, Any]:
    return {**dict.fromkeys(_UNWANTED), _METADATA: _Metadata(_METADATA)}


class _Metadata(ModuleType):
    """The versions of installed distributions; whoever asks for more gets the module itself."""

    @staticmethod
    def version(distribution: str) -> str:
        """As the name of its directory says; a distribution that has none there is looked for as ever."""
        head, tail = f"{distribution}-", ".dist-info"
        for place in sys.path:
            with contextlib.suppress(OSError):
                for name in os.listdir(place):  # noqa: PTH208
                    if name.startswith(head) and name.endswith(tail):
                        return name[len(head) : -len(tail)]
        found: str = _metadata().version(distribution)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(_metadata(), name)


def _metadata() -> Any:
    if isinstance(sys.modules.get(_METADATA), _Metadata):
        del sys.modules[_METADATA]
    return importlib.import_module(_METADATA)
