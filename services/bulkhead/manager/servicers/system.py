"""The edge for what concerns the whole engine: info, events, disk usage."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from bulkhead.content.proxies import Proxies, without_password
from bulkhead.counting import counts
from bulkhead.manager.eventbus import EventBus
from bulkhead.manager.index import Index
from bulkhead.manager.runtimes import Runtimes
from bulkhead.manager.servicers.containers import filters_of
from bulkhead.model.events import Event
from bulkhead.model.lifecycle import Phase
from bulkhead.wire.convert import to_message
from bulkhead.wire.gen.bulkhead.manager import v1 as api
from bulkhead.wire.inflight import InFlight


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What does not change while the manager runs, and how to ask for what does."""

    engine_id: str
    data_dir: str
    cgroup_version: int
    mirrors: tuple[str, ...]
    insecure_registries: tuple[str, ...]
    count_images: Callable[[], int]
    layers_size: Callable[[], int]
    warnings: Callable[[], tuple[str, ...]]
    runtimes: Runtimes
    remaps_users: bool = False
    logging_driver: str = "json-file"
    proxies: Proxies = field(default_factory=Proxies)


class SystemServicer(api.SystemBase):
    """protos/bulkhead/manager/v1/system.proto."""

    def __init__(self, index: Index, events: EventBus, facts: EngineFacts, *in_flight: InFlight) -> None:
        self._index = index
        self._events = events
        self._facts = facts
        self._in_flight = in_flight

    async def info(self, message: api.InfoRequest) -> api.InfoResponse:
        up = self._index.running()
        paused = sum(each.phase is Phase.PAUSED for each in up)
        facts = self._facts
        return api.InfoResponse(
            engine_id=facts.engine_id,
            containers=len(self._index),
            running=len(up) - paused,
            paused=paused,
            stopped=len(self._index) - len(up),
            images=facts.count_images(),
            data_dir=facts.data_dir,
            cgroup_version=facts.cgroup_version,
            warnings=list(facts.warnings()),
            mirrors=list(facts.mirrors),
            insecure_registries=list(facts.insecure_registries),
            runtimes=facts.runtimes.programs(),
            default_runtime=facts.runtimes.default,
            logging_driver=facts.logging_driver,
            http_proxy=without_password(facts.proxies.http),
            https_proxy=without_password(facts.proxies.https),
            no_proxy=",".join(facts.proxies.exempt),
            remaps_users=facts.remaps_users,
        )

    async def events(self, message: api.EventsRequest) -> AsyncIterator[api.Event]:
        entries = await self._events.subscribe(
            since=message.since, until=message.until, filters=filters_of(message.filters)
        )
        yield api.Event(ready=True)
        async for entry in entries:
            yield _shown(entry)

    async def disk_usage(self, message: api.DiskUsageRequest) -> api.DiskUsageResponse:
        return api.DiskUsageResponse(layers_size=self._facts.layers_size())

    async def operations(self, message: api.OperationsRequest) -> api.OperationsResponse:
        found = sorted(itertools.chain(*self._in_flight), key=lambda each: each.began)
        return api.OperationsResponse(
            operations=[
                api.Operation(
                    name=each.name,
                    object=each.object,
                    phase=each.phase,
                    age=each.age,
                    seconds=each.seconds,
                    request_id=each.request_id,
                )
                for each in found
            ],
            counts=dict(counts),
        )


def _shown(entry: Event) -> api.Event:
    return to_message(api.Event, entry)
