"""Which manifest of an index is for this machine."""

from __future__ import annotations

from bulkhead.content.manifests import Descriptor, Index, Platform
from bulkhead.errors import NotFound
from bulkhead.model.platforms import ARCHITECTURE, OS, split_platform
from bulkhead.model.reference import Reference

HOST = Platform(os=OS, architecture=ARCHITECTURE)


def parse_platform(text: str) -> Platform:
    """Read `os[/arch[/variant]]` or `arch` as Docker's `--platform` takes it; raises InvalidArgument."""
    os, architecture, variant = split_platform(text)
    return Platform(os=os, architecture=architecture, variant=variant)


def choose(index: Index, platform: Platform = HOST, name: Reference | None = None) -> Descriptor:
    """The manifest of `index` that suits `platform` best, of equals the first; raises NotFound with Docker's text."""
    offered = [entry for entry in index.manifests if entry.platform is not None and fits(entry.platform, platform)]
    if offered:
        return min(offered, key=lambda entry: _distance(entry.platform, platform))
    # An index of one manifest without a platform (some builders write it) can only mean that one.
    if len(index.manifests) == 1 and index.manifests[0].platform is None:
        return index.manifests[0]
    wanted = "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)
    what = f" for {name.familiar()}" if name is not None else ""
    raise NotFound(f"no matching manifest{what} for {wanted} in the manifest list entries")


def fits(offered: Platform, wanted: Platform) -> bool:
    """Whether an image for `offered` runs on `wanted`; no variant wanted takes any."""
    return (
        offered.os == wanted.os
        and offered.architecture == wanted.architecture
        and (not wanted.variant or offered.variant in ("", *_runnable(wanted.architecture, wanted.variant)))
    )


# Each variant runs what is made for those before it (containerd's platform vectors).
_VARIANTS = {"amd64": ("v1", "v2", "v3", "v4"), "arm": ("v5", "v6", "v7", "v8"), "arm64": ("v8",)}
# What an architecture without a variant means.
_PLAIN = {"amd64": "v1", "arm": "v7", "arm64": "v8"}


def _runnable(architecture: str, variant: str) -> tuple[str, ...]:
    known = _VARIANTS.get(architecture, ())
    return known[: known.index(variant) + 1] if variant in known else (variant,)


def _distance(offered: Platform | None, wanted: Platform) -> int:
    """How far an image's variant is from the wanted one: 0 for the very same."""
    assert offered is not None
    known = _VARIANTS.get(wanted.architecture, ())
    mine, theirs = (each.variant or _PLAIN.get(wanted.architecture, "") for each in (wanted, offered))
    if mine == theirs or mine not in known or theirs not in known:
        return 0
    return abs(known.index(mine) - known.index(theirs))
