"""Names in a registry's URLs, parsed once."""

from __future__ import annotations

from bulkhead.errors import InvalidArgument
from bulkhead.model.digest import Digest
from bulkhead.model.reference import is_repository, is_tag
from bulkhead.registry.errors import Code, Refusal


def repository(text: str) -> str:
    """A repository's name; raises Refusal(NAME_INVALID)."""
    if not is_repository(text):
        raise Refusal(Code.NAME_INVALID, detail={"name": text[:255]})
    return text


def digest(text: str) -> Digest:
    """A digest; raises Refusal(DIGEST_INVALID)."""
    try:
        return Digest.parse(text)
    except InvalidArgument as error:
        raise Refusal(Code.DIGEST_INVALID, str(error), detail={"digest": text[:255]}) from error


def tag(text: str) -> str:
    """A tag; raises Refusal(TAG_INVALID)."""
    if not is_tag(text):
        raise Refusal(Code.TAG_INVALID, "invalid tag", detail={"tag": text[:255]})
    return text


def reference(text: str) -> Digest | str:
    """What `/manifests/` takes: a digest when it has a colon, else a tag."""
    return digest(text) if ":" in text else tag(text)


def existing(text: str) -> Digest | str:
    """The same where something is sought: what is no tag is the tag of nothing; raises Refusal(MANIFEST_UNKNOWN)."""
    if ":" not in text and not is_tag(text):
        raise Refusal(Code.MANIFEST_UNKNOWN, detail={"reference": text[:255]})
    return reference(text)
