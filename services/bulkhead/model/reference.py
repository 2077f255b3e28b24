"""An image reference, parsed once: Docker's grammar of names, and its texts when a name is refused.

`busybox`, `docker.io/library/busybox:latest` and `index.docker.io/busybox` are one image. The long
form is canonical, the short one familiar; records keep the canonical form, people see the familiar.
Grammar: distribution/reference, as Docker 28 uses it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from bulkhead.errors import InvalidArgument
from bulkhead.model.digest import Digest

DEFAULT_DOMAIN = "docker.io"
LEGACY_DEFAULT_DOMAIN = "index.docker.io"
DEFAULT_TAG = "latest"
OFFICIAL_PREFIX = "library/"
MAX_PATH = 255

_DOMAIN_COMPONENT = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_COMPONENT}(?:\.{_DOMAIN_COMPONENT})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_PATH_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = rf"{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"

_REFERENCE = re.compile(rf"(?P<domain>{_DOMAIN})/(?P<path>{_PATH})(?::(?P<tag>{_TAG}))?(?:@(?P<digest>{_DIGEST}))?")
_REPOSITORY = re.compile(_PATH)
_TAG_ONLY = re.compile(_TAG)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Reference:
    """Which image of which repository on which registry; a digest, when there, decides over the tag."""

    domain: str
    path: str
    tag: str | None = None
    digest: Digest | None = None

    @property
    def name(self) -> str:
        """The canonical repository: `docker.io/library/busybox`."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The repository as people write it: `busybox`, `user/app`, `localhost:5000/app`."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        rest = self.path.removeprefix(OFFICIAL_PREFIX)
        return self.path if "/" in rest else rest

    def canonical(self) -> str:
        """The long form, with whatever tag and digest there are."""
        return self.name + self._suffix()

    def familiar(self) -> str:
        """The short form, with whatever tag and digest there are: what replies of the Engine API hold."""
        return self.familiar_name + self._suffix()

    def with_default_tag(self) -> Reference:
        """This reference, and `latest` if it says neither tag nor digest."""
        return replace(self, tag=DEFAULT_TAG) if self.tag is None and self.digest is None else self

    def with_digest(self, digest: Digest) -> Reference:
        """The same repository, pinned: `name@digest` without the tag."""
        return replace(self, tag=None, digest=digest)

    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        return f"{tag}@{self.digest}" if self.digest is not None else tag

    def __str__(self) -> str:
        return self.canonical()


def parse_reference(text: str) -> Reference:
    """Read a familiar or canonical reference; raises InvalidArgument with Docker's text.

    No tag is added: the Engine API means "all tags" by its absence in one place and `latest` in
    others, so the caller says `.with_default_tag()`.
    """
    if _IDENTIFIER.fullmatch(text):
        raise InvalidArgument(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, rest = _split_domain(text)
    repository = rest.partition(":")[0]
    if repository.lower() != repository:
        raise InvalidArgument(f"invalid reference format: repository name ({repository}) must be lowercase")
    match = _REFERENCE.fullmatch(f"{domain}/{rest}")
    if match is None:
        raise InvalidArgument("invalid reference format")
    if len(match["path"]) > MAX_PATH:
        raise InvalidArgument(f"repository name must not be more than {MAX_PATH} characters")
    digest = Digest.parse(match["digest"]) if match["digest"] else None
    return Reference(domain=match["domain"], path=match["path"], tag=match["tag"], digest=digest)


def parse_tag_target(repository: str, tag: str | None) -> Reference:
    """The reference that `docker tag` and `commit` may create; `latest` by default, digests refused."""
    named = parse_reference(repository)
    if named.digest is not None:
        raise InvalidArgument("refusing to create a tag with a digest reference")
    if tag:
        if not is_tag(tag):
            raise InvalidArgument("invalid tag format")
        named = replace(named, tag=tag)
    if named.familiar_name in ("sha256", "sha512"):
        raise InvalidArgument("refusing to create an ambiguous tag using digest algorithm as name")
    return named.with_default_tag()


def is_repository(text: str) -> bool:
    """Whether `text` is a repository name within a registry (no domain)."""
    return len(text) <= MAX_PATH and _REPOSITORY.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Whether `text` is a tag."""
    return _TAG_ONLY.fullmatch(text) is not None


def _split_domain(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if not slash:
        return DEFAULT_DOMAIN, OFFICIAL_PREFIX + text
    if first == LEGACY_DEFAULT_DOMAIN:
        domain, remote = DEFAULT_DOMAIN, rest
    elif first == "localhost" or "." in first or ":" in first or first.lower() != first:
        domain, remote = first, rest
    else:
        domain, remote = DEFAULT_DOMAIN, text
    if domain == DEFAULT_DOMAIN and "/" not in remote:
        remote = OFFICIAL_PREFIX + remote
    return domain, remote
