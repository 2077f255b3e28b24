"""Where a file-system registry keeps what.

    <root>/                                  0700
      format                                 {"version": 1}
      content/                               blobs by digest (content.store)
      uploads/<uuid>.{data,json}             an upload's bytes, and how many of them are durable
      repositories/<name>/
        _links/<alg>/<hex>                   this repository has the blob; mtime is its lease
        _manifests/<alg>/<hex>               a manifest's record; its bytes are a blob
        _tags/<tag>                          the digest that the tag points at
        _referrers/<alg>-<hex>/<alg>-<hex>   subject / the manifest that refers to it

No component of a repository's name begins with an underscore or a dot, so the four directories and
the temporaries of atomic writes never meet a repository.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bulkhead.model.digest import Digest

FORMAT_VERSION = 1


class Layout:
    """Paths below one root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.format = root / "format"
        self.content = root / "content"
        self.uploads = root / "uploads"
        self.repositories = root / "repositories"

    def upload_data(self, upload_id: str) -> Path:
        return self.uploads / f"{upload_id}.data"

    def upload_record(self, upload_id: str) -> Path:
        return self.uploads / f"{upload_id}.json"

    def repository(self, name: str) -> Path:
        return self.repositories / name

    def link(self, repository: str, digest: Digest) -> Path:
        return self.repository(repository) / "_links" / digest.algorithm / digest.encoded

    def manifests(self, repository: str) -> Path:
        return self.repository(repository) / "_manifests"

    def manifest(self, repository: str, digest: Digest) -> Path:
        return self.manifests(repository) / digest.algorithm / digest.encoded

    def tags(self, repository: str) -> Path:
        return self.repository(repository) / "_tags"

    def tag(self, repository: str, tag: str) -> Path:
        return self.tags(repository) / tag

    def referrers(self, repository: str, subject: Digest) -> Path:
        return self.repository(repository) / "_referrers" / f"{subject.algorithm}-{subject.encoded}"

    def referrer(self, repository: str, subject: Digest, digest: Digest) -> Path:
        return self.referrers(repository, subject) / f"{digest.algorithm}-{digest.encoded}"

    def repository_names(self) -> list[str]:
        """Every repository that ever had a manifest, in ASCII order."""
        return sorted(self._walk(self.repositories, ""))

    def _walk(self, directory: Path, prefix: str) -> Iterator[str]:
        for name in visible(directory):
            if name == "_manifests":
                yield prefix.removesuffix("/")
            elif not name.startswith("_"):
                yield from self._walk(directory / name, f"{prefix}{name}/")


def visible(directory: Path) -> list[str]:
    """Names in a directory in ASCII order, temporaries left out; none when there is no such directory."""
    try:
        return sorted(entry.name for entry in directory.iterdir() if not entry.name.startswith("."))
    except FileNotFoundError:
        return []
