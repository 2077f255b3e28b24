"""`GET /events`."""

from __future__ import annotations

import contextlib

import msgspec
from aiohttp import web

from bulkhead.api.call import Call
from bulkhead.api.feeds import Feeds
from bulkhead.api.schema import events as schema
from bulkhead.api.streams import begin
from bulkhead.errors import InvalidArgument


class EventRoutes:
    def __init__(self, feeds: Feeds) -> None:
        self._feeds = feeds

    async def events(self, call: Call) -> web.StreamResponse:
        since, until = call.moment("since", absent=("",)), call.moment("until", absent=("",))
        if since is not None and until is not None and until < since:
            told = f"`since` time ({call.text('since')}) cannot be after `until` time ({call.text('until')})"
            raise InvalidArgument(told)
        if since is None and until is not None:
            since = 0  # what was before `until`, as far back as it is known
        filters = call.filters(schema.FILTERS)
        async with contextlib.aclosing(self._feeds.events(since=since, until=until, filters=filters)) as events:
            await anext(events)
            # Subscribed: clients act once they see our headers.
            response = await begin(call, endless=True)
            async for event in events:
                if event is not None:
                    await response.write(msgspec.json.encode(schema.message(event)) + b"\n")
        return response
