"""What registries have: search, and an image's manifest without pulling it."""

from __future__ import annotations

from aiohttp import web

from bulkhead.api import answers
from bulkhead.api.call import Call
from bulkhead.api.ports.registries import Registries
from bulkhead.api.schema import images as schema
from bulkhead.errors import InvalidArgument
from bulkhead.model.reference import parse_reference

SEARCH_FILTERS = frozenset(("is-automated", "is-official", "stars"))


class RegistryRoutes:
    def __init__(self, registries: Registries) -> None:
        self._registries = registries

    async def search(self, call: Call) -> web.StreamResponse:
        term = call.text("term")
        if not term:
            raise InvalidArgument("no term is given to search for")
        found = await self._registries.search(
            term, limit=call.number("limit") or 0, filters=call.filters(SEARCH_FILTERS), auth=schema.auth_of(call)
        )
        return answers.json(
            [
                {
                    "star_count": each.star_count,
                    "is_official": each.is_official,
                    "name": each.name,
                    "is_automated": False,
                    "description": each.description,
                }
                for each in found
            ]
        )

    async def inspect(self, call: Call) -> web.StreamResponse:
        reference = parse_reference(call["name"]).with_default_tag()
        found = await self._registries.inspect(reference.familiar(), auth=schema.auth_of(call))
        shown = {"mediaType": found.media_type, "digest": found.digest, "size": found.size}
        return answers.json({"Descriptor": shown, "Platforms": [schema.platform(each) for each in found.platforms]})
