"""What Docker has and this engine has not, or not yet: each answered so that clients can go on or say why not."""

from __future__ import annotations

from aiohttp import web

from bulkhead.api import answers
from bulkhead.api.call import Call
from bulkhead.api.routing import Handler, Route
from bulkhead.errors import NotImplementedYet, Unavailable

_NOT_A_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to '
    "swarm and try again."
)
_SWARM = ("swarm", "nodes", "services", "tasks", "secrets", "configs")

# (methods, pattern, what it is called in the message)
_NOT_YET = (
    ("POST", "/build", "building images (build elsewhere, push to a registry, pull here)"),
    ("POST", "/build/cancel", "building images"),
    ("POST", "/containers/{id}/checkpoints", "checkpoints"),
    ("DELETE", "/containers/{id}/checkpoints/{name}", "checkpoints"),
    ("GET,POST,DELETE", "/plugins/{name:path}", "plugins"),
)


async def _no_swarm(call: Call) -> web.StreamResponse:
    raise Unavailable(_NOT_A_MANAGER)


async def _not_in_swarm(call: Call) -> web.StreamResponse:
    raise Unavailable("This node is not part of a swarm")


async def _swarm_never(call: Call) -> web.StreamResponse:
    raise NotImplementedYet("swarm mode is not supported by this engine")


async def _no_session(call: Call) -> web.StreamResponse:
    raise NotImplementedYet("BuildKit sessions are not supported by this engine yet (DOCKER_BUILDKIT=0 avoids them)")


async def _nothing(call: Call) -> web.StreamResponse:
    return answers.json([])


async def _no_cache(call: Call) -> web.StreamResponse:
    return answers.json({"CachesDeleted": None, "SpaceReclaimed": 0})


def _not_yet(what: str) -> Handler:
    async def handler(call: Call) -> web.StreamResponse:
        raise NotImplementedYet(f"{what}: not supported by this engine yet")

    return handler


ROUTES = (
    *(Route("POST", f"/swarm/{verb}", _swarm_never) for verb in ("init", "join", "unlock")),
    Route("POST", "/swarm/leave", _not_in_swarm),
    *(Route("GET,POST,DELETE", f"/{noun}", _no_swarm) for noun in _SWARM),
    *(Route("GET,POST,DELETE", f"/{noun}/{{rest:path}}", _no_swarm) for noun in _SWARM),
    Route("GET", "/plugins", _nothing),
    Route("GET", "/containers/{id}/checkpoints", _nothing),
    Route("POST", "/session", _no_session),
    Route("POST", "/grpc", _no_session),
    # `docker system prune` calls it: there is never a cache to prune.
    Route("POST", "/build/prune", _no_cache),
    *(Route(methods, pattern, _not_yet(what)) for methods, pattern, what in _NOT_YET),
)
