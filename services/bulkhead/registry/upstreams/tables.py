"""The tables `[[registry.upstreams]]` and `[registry.cache]`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from yarl import URL

from bulkhead.content.auth import Credentials
from bulkhead.errors import InvalidArgument
from bulkhead.model.reference import DEFAULT_DOMAIN, is_repository

MAX_PASSWORD = 4096


class UpstreamTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One registry whose repositories can be pulled through ours."""

    name: str
    """What its repositories begin with here (`docker.io/library/busybox`), and its name in `?ns=`."""
    url: str = ""
    """https://host[:port]; empty when the name is the host."""
    username: str = ""
    password_file: str = ""
    tag_seconds: float = 300.0
    """For so long a tag is taken to be where it was."""
    stale_seconds: float = 7 * 86400.0
    """For so long a tag is served as it was when the upstream cannot be asked."""
    fallback: bool = False
    """Whether repositories that are not here are looked for there: for clients that know us as their mirror."""


class CacheTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """How much of what came from upstreams is kept."""

    high_bytes: int = 20 << 30
    """From here on what was not asked for longest is removed, ..."""
    low_bytes: int = 16 << 30
    """... down to here."""
    max_days: float = 0.0
    """What nobody asked for in so many days goes in any case; 0 for never."""
    interval_seconds: float = 600.0
    max_blob_bytes: int = 0
    """Larger blobs are refused; 0 for any size."""


def check(upstreams: Sequence[UpstreamTable], cache: CacheTable) -> None:
    """Raises InvalidArgument for settings that make no sense."""
    names = [table.name for table in upstreams]
    for table in upstreams:
        where = f"[[registry.upstreams]] {table.name!r}"
        if not is_repository(table.name) or "/" in table.name:
            raise InvalidArgument(f"{where}: a name is one component of a repository, such as docker.io")
        if names.count(table.name) > 1:
            raise InvalidArgument(f"{where}: there are two of this name")
        if table.url:
            _check_url(where, table.url)
        if bool(table.username) != bool(table.password_file):
            raise InvalidArgument(f"{where}: username and password_file go together")
        if table.tag_seconds < 0 or table.stale_seconds < 0:
            raise InvalidArgument(f"{where}: times cannot be negative")
    if sum(table.fallback for table in upstreams) > 1:
        raise InvalidArgument("[[registry.upstreams]]: only one can be the fallback")
    if not 0 <= cache.low_bytes <= cache.high_bytes or cache.max_days < 0 or cache.interval_seconds < 1:
        raise InvalidArgument("[registry.cache]: low_bytes must not exceed high_bytes, nothing may be negative")


def address(table: UpstreamTable) -> str:
    """Where the upstream is, as content.client takes it: a domain, or a URL."""
    return table.url or table.name


def insecure(tables: Sequence[UpstreamTable]) -> frozenset[str]:
    """host[:port] of those whose URL says plain http: whoever wrote that wants it."""
    urls = [URL(table.url) for table in tables if table.url]
    return frozenset(url.authority for url in urls if url.scheme == "http")


def credentials(table: UpstreamTable) -> Credentials | None:
    """Who we are to the upstream; raises InvalidArgument when the password cannot be read."""
    if not table.username:
        return None
    try:
        with Path(table.password_file).open("rb") as file:
            password = file.read(MAX_PASSWORD).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"cannot read the password of upstream {table.name!r}: {error}") from error
    return Credentials(username=table.username, password=password)


def remote_path(table: UpstreamTable, path: str) -> str:
    """The repository's path there: Docker Hub's official images have a prefix that people leave out."""
    official = table.name == DEFAULT_DOMAIN and "/" not in path
    return f"library/{path}" if official else path


def _check_url(where: str, text: str) -> None:
    try:
        url = URL(text)
    except ValueError as error:
        raise InvalidArgument(f"{where}: {error}") from error
    if url.scheme not in ("http", "https") or not url.host or url.path not in ("", "/") or url.query_string:
        raise InvalidArgument(f"{where}: {text!r} is not http[s]://host[:port]")
    if url.user is not None or url.password is not None:
        raise InvalidArgument(f"{where}: credentials do not belong in the URL")
