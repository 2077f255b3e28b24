"""Whether each service answers: gRPC health on the Unix sockets, HTTP at the two edges."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from grpclib.client import UnaryUnaryMethod
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError, StreamTerminatedError

from bulkhead.model.instance import SERVICES, Instance
from bulkhead.wire.channel import MortalChannel

PROBE_SECONDS = 3.0
PAUSE_SECONDS = 0.02
# HealthCheckResponse{status = SERVING}: field 1, varint 1 (grpc.health.v1).
_SERVING: Final = b"\x08\x01"


async def probe(service: str, instance: Instance) -> str | None:
    """None when the service is ready, otherwise why it is not."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            return await _PROBES[service](instance)
    except TimeoutError:
        return f"no answer within {PROBE_SECONDS:g} s"
    except (FileNotFoundError, ConnectionRefusedError):
        return "not listening"
    except (OSError, GRPCError, StreamTerminatedError) as error:
        return f"{type(error).__name__}: {error}"


async def probe_all(instance: Instance) -> dict[str, str | None]:
    """What `probe` says of each service, asked at the same time."""
    answers = await asyncio.gather(*(probe(service, instance) for service in SERVICES))
    return dict(zip(SERVICES, answers, strict=True))


async def wait_ready(
    instance: Instance, services: tuple[str, ...], seconds: float, died: Callable[[str], bool]
) -> Mapping[str, str]:
    """Wait until all are ready; those that are not after `seconds`, or that died meanwhile, with the reason."""
    deadline = time.monotonic() + seconds

    async def one(service: str) -> tuple[str, str] | None:
        while True:
            if (reason := await probe(service, instance)) is None:
                return None
            if died(service):
                return service, "it exited"
            if time.monotonic() > deadline:
                return service, f"not ready after {seconds:g} s: {reason}"
            await asyncio.sleep(PAUSE_SECONDS)

    return dict(found for found in await asyncio.gather(*map(one, services)) if found is not None)


class _Bytes(CodecBase):
    """Messages that are bytes already: the health call needs no generated code."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, _message_type: Any) -> bytes:
        return bytes(message)

    def decode(self, data: bytes, _message_type: Any) -> bytes:
        return data


async def _grpc(path: str) -> str | None:
    channel = MortalChannel(path=path, codec=_Bytes())
    try:
        check: UnaryUnaryMethod[bytes, bytes] = UnaryUnaryMethod(channel, "/grpc.health.v1.Health/Check", bytes, bytes)
        answer = await check(b"")
        return None if answer == _SERVING else "it answers that it is not serving"
    finally:
        channel.close()


async def _manager(instance: Instance) -> str | None:
    return await _grpc(str(instance.manager_socket))


async def _supervisor(instance: Instance) -> str | None:
    return await _grpc(str(instance.supervisor_socket))


async def _api(instance: Instance) -> str | None:
    return await _http("/_ping", *await asyncio.open_unix_connection(instance.docker_socket))


async def _registry(instance: Instance) -> str | None:
    host, _, port = instance.registry.rpartition(":")
    told = await _http("/healthz", *await asyncio.open_connection(host.strip("[]"), int(port)))
    if told != _NOTHING:
        return told
    # Silence is what one with a certificate has for plain HTTP. Whose it is does not matter: nothing is told to it.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return await _http("/healthz", *await asyncio.open_connection(host.strip("[]"), int(port), ssl=context))


async def _http(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str | None:
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        status_line = (await reader.readline()).decode(errors="replace").split(" ", 2)
        if status_line[1:2] == ["200"]:
            return None
        return f"GET {path} answers {' '.join(status_line[1:]).strip() or 'nothing'}"
    finally:
        writer.close()


_NOTHING = "GET /healthz answers nothing"
_PROBES = {"api": _api, "manager": _manager, "supervisor": _supervisor, "registry": _registry}
