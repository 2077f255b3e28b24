"""Images as list, inspect, history, delete and progress show them.

An image's config is JSON made by strangers: whatever in it has a wrong type is shown as if it were absent.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import Sequence
from typing import Any

import msgspec

from bulkhead.api.call import Call
from bulkhead.api.ports.images import (
    HistoryEntry,
    InspectedImage,
    ListedImage,
    Presence,
    Progress,
    RegistryAuth,
    RemovedImage,
)
from bulkhead.api.ports.registries import Platform
from bulkhead.api.schema.hostconfig import Part
from bulkhead.api.schema.times import rfc3339
from bulkhead.errors import InvalidArgument, NotFound

_CONFIG_KEYS: dict[str, type] = {
    "User": str,
    "ExposedPorts": dict,
    "Env": list,
    "Entrypoint": list,
    "Cmd": list,
    "Volumes": dict,
    "WorkingDir": str,
    "Labels": dict,
    "StopSignal": str,
    "Healthcheck": dict,
    "OnBuild": list,
    "Shell": list,
    "ArgsEscaped": bool,
}


class AuthConfig(Part):
    """What X-Registry-Auth and `POST /auth` carry."""

    username: str | None = None
    password: str | None = None
    auth: str | None = None
    email: str | None = None
    serveraddress: str | None = None
    identitytoken: str | None = None
    registrytoken: str | None = None


def parse_auth_header(header: str) -> RegistryAuth | None:
    """X-Registry-Auth: base64url of JSON. A malformed one means anonymous, as in Docker."""
    if not header:
        return None
    try:
        decoded = urlsafe_b64decode(header + "=" * (-len(header) % 4))
        config = msgspec.json.decode(decoded, type=AuthConfig)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return registry_auth(config)


def auth_of(call: Call) -> RegistryAuth | None:
    """The credentials that a request carries for a registry."""
    return parse_auth_header(call.request.headers.get("X-Registry-Auth", ""))


def platform(found: Platform) -> dict[str, str]:
    """A platform as OCI writes it."""
    shown = {"architecture": found.architecture, "os": found.os}
    return shown | {"variant": found.variant} if found.variant else shown


def registry_auth(config: AuthConfig) -> RegistryAuth | None:
    """The credentials in `config`; None when there are none."""
    return login_of(config) if config.username or config.identitytoken or config.registrytoken else None


def login_of(config: AuthConfig) -> RegistryAuth:
    """What somebody who logs in says, be it nothing."""
    return RegistryAuth(
        username=config.username or "",
        password=config.password or "",
        server_address=config.serveraddress or "",
        identity_token=config.identitytoken or "",
        registry_token=config.registrytoken or "",
    )


class _Platform(Part):
    os: str = ""
    architecture: str = ""
    variant: str = ""


def platform_text(text: str) -> str:
    """The JSON form of a platform, as clients since 1.48 send it, as `os/architecture[/variant]`."""
    if not text:
        return ""
    try:
        found = msgspec.json.decode(text, type=_Platform)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidArgument(f"failed to parse platform: {error}") from error
    if not found.os or not found.architecture:
        raise InvalidArgument("both OS and Architecture must be provided")
    return "/".join(part for part in (found.os, found.architecture, found.variant) if part)


def check_variant(ref: str, found: Presence, wanted: str) -> None:
    """Raise NotFound unless an image is for the platform (`platform_text`) that a client insists on."""
    if not wanted:
        return
    os, architecture, variant = (*wanted.split("/"), "")[:3]
    suits = (os, architecture) == (found.os, found.architecture) and (not variant or found.variant in ("", variant))
    if not suits:
        actual = "/".join(part for part in (found.os, found.architecture, found.variant) if part)
        raise NotFound(
            f"image with reference {ref} was found but does not match the specified platform: "
            f"wanted {wanted}, actual: {actual}"
        )


def descriptor(found: Presence) -> dict[str, Any]:
    """The OCI descriptor of an image's manifest."""
    return {"mediaType": found.manifest_media_type, "digest": found.manifest_digest, "size": found.manifest_size}


def manifests(found: Presence, unpacked: int) -> list[dict[str, Any]]:
    """ImageManifestSummary of the one manifest that is here; sizes in bytes."""
    shown = platform(Platform(os=found.os, architecture=found.architecture, variant=found.variant))
    return [
        {
            "ID": found.manifest_digest,
            "Descriptor": descriptor(found) | {"platform": shown},
            "Available": True,
            "Size": {"Content": found.content_size, "Total": found.content_size + unpacked},
            "Kind": "image",
            "ImageData": {
                "Platform": shown,
                "Size": {"Unpacked": unpacked},
                "Containers": list(found.container_ids),
            },
        }
    ]


def listed(image: ListedImage, *, shared: bool = False) -> dict[str, Any]:
    """An item of `GET /images/json`; `shared` says that the size shared with other images was asked for."""
    return {
        "Id": image.id,
        "ParentId": "",
        "RepoTags": list(image.repo_tags),
        "RepoDigests": list(image.repo_digests),
        "Created": image.created_at // 10**9,
        "Size": image.size,
        "SharedSize": image.shared_size if shared else -1,
        "Containers": image.containers,
        "Labels": dict(image.labels) or None,
    }


def inspected(image: InspectedImage) -> dict[str, Any]:
    """The answer of `GET /images/{name}/json`."""
    config = _object(image.config)
    shown: dict[str, Any] = {
        "Id": image.id,
        "RepoTags": list(image.repo_tags),
        "RepoDigests": list(image.repo_digests),
        "Parent": _text(config, "parent"),
        "Comment": _last_comment(config),
        "Created": _text(config, "created"),
        "DockerVersion": _text(config, "docker_version"),
        "Author": _text(config, "author"),
        "Config": _known(config.get("config")),
        "Architecture": _text(config, "architecture"),
        "Os": _text(config, "os") or "linux",
        "Size": image.size,
        "GraphDriver": {"Data": None, "Name": "overlay2"},
        "RootFS": {"Type": "layers", "Layers": _layers(config)},
        "Metadata": {"LastTagTime": rfc3339(image.tagged_at)},
    }
    if _text(config, "variant"):
        shown["Variant"] = _text(config, "variant")
    if image.manifest_digest:
        shown["Descriptor"] = {
            "mediaType": image.manifest_media_type,
            "digest": image.manifest_digest,
            "size": image.manifest_size,
        }
    return shown


def _object(data: bytes) -> dict[str, Any]:
    try:
        decoded = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}
    return decoded if isinstance(decoded, dict) else {}


def _text(config: dict[str, Any], name: str) -> str:
    value = config.get(name)
    return value if isinstance(value, str) else ""


def _known(config: Any) -> dict[str, Any]:
    """The OCI keys of an image's config that are there and of the right type."""
    if not isinstance(config, dict):
        config = {}
    shown = {name: config[name] for name, kind in _CONFIG_KEYS.items() if isinstance(config.get(name), kind)}
    for name in ("Env", "Cmd", "Entrypoint", "OnBuild", "Shell"):
        if not all(isinstance(word, str) for word in shown.get(name, ())):
            del shown[name]
    return shown


def _layers(config: dict[str, Any]) -> list[str]:
    rootfs = config.get("rootfs")
    layers = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    return [layer for layer in layers if isinstance(layer, str)] if isinstance(layers, list) else []


def _last_comment(config: dict[str, Any]) -> str:
    history = config.get("history")
    last = history[-1] if isinstance(history, list) and history else None
    return _text(last, "comment") if isinstance(last, dict) else ""


def history(entries: Sequence[HistoryEntry]) -> list[dict[str, Any]]:
    return [
        {
            "Id": entry.id or "<missing>",
            "Created": entry.created_at // 10**9,
            "CreatedBy": entry.created_by,
            "Tags": list(entry.tags) or None,
            "Size": entry.size,
            "Comment": entry.comment,
        }
        for entry in entries
    ]


def removed(items: Sequence[RemovedImage]) -> list[dict[str, str]]:
    return [{"Untagged": item.untagged} if item.untagged else {"Deleted": item.deleted} for item in items]


def progress(line: Progress) -> dict[str, Any]:
    """A line of pull, push or load, with the bar that old clients print as it is."""
    shown: dict[str, Any] = {}
    if line.stream:
        shown["stream"] = line.stream
    if line.status:
        shown["status"] = line.status
    if line.total or line.current:
        shown["progressDetail"] = (
            {"current": line.current, "total": line.total} if line.total else {"current": line.current}
        )
        shown["progress"] = bar(line.current, line.total)
    elif line.id and line.status:
        shown["progressDetail"] = {}
    if line.id:
        shown["id"] = line.id
    if line.aux:
        shown["aux"] = msgspec.Raw(line.aux)
    return shown


def bar(current: int, total: int) -> str:
    """`[====>    ]  1.2MB/3.4MB`, as wide as Docker's."""
    if total <= 0:
        return size(current)
    filled = min(max(current * 50 // total, 0), 50)
    return f"[{'=' * filled}>{' ' * (50 - filled)}] {size(current):>8}/{size(total)}"


def size(count: float) -> str:
    """go-units' HumanSize: `1.234MB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            break
        count /= 1000
    return f"{count:.4g}{unit}"
