"""A client of a manager's socket: the calls that tests make all the time, in one line each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bulkhead.wire.client import channel, stub
from bulkhead.wire.gen.bulkhead.manager import v1 as api
from bulkhead.wire.gen.bulkhead.types import v1 as types


class ManagerClient:
    """Stubs of every service, and shorthands."""

    def __init__(self, socket: Path) -> None:
        self._channel = channel(socket)
        self.containers = stub(api.ContainersStub, self._channel, "manager")
        self.execs = stub(api.ExecsStub, self._channel, "manager")
        self.system = stub(api.SystemStub, self._channel, "manager")
        self.images = stub(api.ImagesStub, self._channel, "manager")

    def close(self) -> None:
        self._channel.close()

    async def pull(self, reference: str) -> None:
        async for progress in self.images.pull(api.PullRequest(reference=reference)):
            assert not progress.error, progress.error

    async def create(self, *command: str, name: str = "", image: str = "busybox", **spec: Any) -> str:
        """A container, without a network unless told otherwise; its id."""
        spec.setdefault("network_mode", "none")
        told = types.ContainerSpec(image=image, command=types.StringList(items=list(command)), **spec)
        return (await self.containers.create(api.CreateContainerRequest(name=name, spec=told))).id

    async def start(self, ref: str) -> api.StartContainerResponse:
        return await self.containers.start(api.StartContainerRequest(ref=ref))

    async def run(self, *command: str, **spec: Any) -> str:
        """Create and start; the id."""
        container_id = await self.create(*command, **spec)
        answer = await self.start(container_id)
        assert answer.failure is None, answer.failure
        return container_id

    async def wait(self, ref: str, condition: str = "") -> int:
        """The exit code."""
        request = api.WaitContainerRequest(ref=ref, condition=condition)
        async for answer in self.containers.wait(request):
            if not answer.registered:
                assert answer.exit_code is not None
                return answer.exit_code
        raise AssertionError("the wait ended without an answer")

    async def inspect(self, ref: str) -> types.Container:
        found = (await self.containers.inspect(api.InspectContainerRequest(ref=ref))).container
        assert found is not None
        return found

    async def list(self, *, everything: bool = True, **filters: list[str]) -> list[types.ContainerSummary]:
        told = {key: types.StringList(items=values) for key, values in filters.items()}
        request = api.ListContainersRequest(all=everything, filters=told)
        return list((await self.containers.list(request)).containers)

    async def stop(self, ref: str, timeout: int | None = None) -> bool:
        """Whether it ran."""
        answer = await self.containers.stop(api.StopContainerRequest(ref=ref, timeout=timeout))
        return not answer.not_running

    async def kill(self, ref: str, signal: str = "") -> None:
        await self.containers.kill(api.KillContainerRequest(ref=ref, signal=signal))

    async def remove(self, ref: str, *, force: bool = False, volumes: bool = False) -> None:
        await self.containers.remove(api.RemoveContainerRequest(ref=ref, force=force, volumes=volumes))

    async def output(self, ref: str) -> str:
        """Everything the container has written so far."""
        container = await self.inspect(ref)
        lines = await asyncio.to_thread(Path(container.log_path).read_text)
        return "".join(json.loads(line)["log"] for line in lines.splitlines())

    async def run_to_end(self, *command: str, **spec: Any) -> tuple[int, str]:
        """Run, wait, read, remove: exit code and output."""
        container_id = await self.run(*command, **spec)
        code = await self.wait(container_id)
        output = await self.output(container_id)
        await self.remove(container_id, volumes=True)
        return code, output

    async def remove_all(self) -> None:
        for container in await self.list():
            await self.remove(container.id, force=True, volumes=True)


@asynccontextmanager
async def manager_client(socket: Path) -> AsyncIterator[ManagerClient]:
    """Connected while entered."""
    client = ManagerClient(socket)
    try:
        yield client
    finally:
        client.close()
