"""What clients call a platform: `os[/architecture[/variant]]`, or one of the two alone, by containerd's rules."""

from __future__ import annotations

import re

from bulkhead.errors import InvalidArgument

OS, ARCHITECTURE = "linux", "amd64"
_COMPONENT = re.compile(r"[A-Za-z0-9_-]+")
_SYSTEMS = frozenset(
    ("aix", "android", "darwin", "dragonfly", "freebsd", "hurd", "illumos", "ios", "js", "linux", "nacl", "netbsd",
     "openbsd", "plan9", "solaris", "windows", "zos")
)  # fmt: skip
_ARCHITECTURES = frozenset(
    ("386", "amd64", "amd64p32", "arm", "armbe", "arm64", "arm64be", "ppc64", "ppc64le", "loong64", "mips", "mipsle",
     "mips64", "mips64le", "mips64p32", "mips64p32le", "ppc", "riscv", "riscv64", "s390", "s390x", "sparc", "sparc64",
     "wasm")
)  # fmt: skip
_ALIASES = {"macos": "darwin", "x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386"}


def split_platform(text: str) -> tuple[str, str, str]:
    """OS, architecture and variant; raises InvalidArgument for what is none.

    Only a word that stands alone has to be known: nobody can tell otherwise which of the two it is.
    """
    words = text.split("/")
    for word in words:
        if not _COMPONENT.fullmatch(word):
            raise InvalidArgument(
                f'"{word}" is an invalid component of "{text}": platform specifier component must match '
                f'"^{_COMPONENT.pattern}$": invalid argument'
            )
    if len(words) > 3:
        raise InvalidArgument(f'"{text}": cannot parse platform specifier: invalid argument')
    named = [_ALIASES.get(word.lower(), word.lower()) for word in words]
    if len(named) == 1:
        named = _completed(named[0], text)
    os, architecture, variant = (*named, "")[:3]
    return os, architecture, variant


def _completed(word: str, text: str) -> list[str]:
    if word in _SYSTEMS:
        return [word, ARCHITECTURE]
    if word in _ARCHITECTURES:
        return [OS, word]
    raise InvalidArgument(f'"{text}": unknown operating system or architecture: invalid argument')
