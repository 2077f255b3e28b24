"""Which certificates vouch for a registry, and which show it who we are: Docker's certs.d directories.

/etc/docker/certs.d/<host[:port]>/      and the same below /etc/bulkhead/certs.d
    *.crt                   authorities trusted beside the system's
    <name>.cert, <name>.key our certificate for this registry
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Sequence
from pathlib import Path

from bulkhead.errors import InvalidArgument

DIRECTORIES = (Path("/etc/docker/certs.d"), Path("/etc/bulkhead/certs.d"))


class Trust:
    """TLS settings by authority (`host[:port]`), read once each."""

    def __init__(self, directories: Sequence[Path] = DIRECTORIES) -> None:
        self._directories = directories
        self._contexts: dict[tuple[str, str, bool], ssl.SSLContext | bool] = {}

    def context(self, authority: str, home: str, *, insecure: bool) -> ssl.SSLContext | bool:
        """What aiohttp takes as `ssl` for a request to `authority`, sent there by the registry `home`.

        The registry's authorities are good for where it sends us too (its token server), our certificate is for
        its own host alone. Raises InvalidArgument for files that cannot be used.
        """
        key = (authority, home, insecure)
        if key not in self._contexts:
            self._contexts[key] = self._make(authority, home, insecure=insecure)
        return self._contexts[key]

    def _make(self, authority: str, home: str, *, insecure: bool) -> ssl.SSLContext | bool:
        authorities = [file for host in {authority, home} for file in self._files(host, ".crt")]
        pairs = self._pairs(authority)
        if not authorities and not pairs:
            return False if insecure else system()
        context = ssl.create_default_context()
        if insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        for file in authorities:
            with _usable(file):
                context.load_verify_locations(file)
        for certificate, secret in pairs:
            with _usable(certificate):
                context.load_cert_chain(certificate, secret)
        return context

    def _pairs(self, authority: str) -> list[tuple[Path, Path]]:
        certificates, keys = self._files(authority, ".cert"), self._files(authority, ".key")
        for certificate in certificates:
            if certificate.with_suffix(".key") not in keys:
                raise InvalidArgument(
                    f"missing key {certificate.with_suffix('.key').name} for client certificate {certificate.name}. "
                    "CA certificates must use the extension .crt"
                )
        for key in keys:
            if key.with_suffix(".cert") not in certificates:
                raise InvalidArgument(f"missing client certificate {key.with_suffix('.cert').name} for key {key.name}")
        return [(certificate, certificate.with_suffix(".key")) for certificate in certificates]

    def _files(self, authority: str, suffix: str) -> list[Path]:
        # An authority is host[:port]; it was parsed as a URL's, so it holds no slash.
        return sorted(
            file
            for directory in self._directories
            if "/" not in authority and authority not in ("", ".", "..")
            for file in _listed(directory / authority)
            if file.suffix == suffix
        )


@functools.cache
def system() -> ssl.SSLContext:
    """Trust in the system's authorities, read when first asked for. What aiohttp itself has was made without any."""
    return ssl.create_default_context()


def _listed(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InvalidArgument(f"cannot use certificates in {directory}: {(error.strerror or '').lower()}") from error


class _usable:
    """Names the file that a refusal of the TLS library is about."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ssl.SSLError | OSError):
            raise InvalidArgument(f"cannot use certificate {self._file}: {error}") from error
