"""The gRPC face of questions to registries: message in, use-case, message out."""

from __future__ import annotations

from bulkhead.content.auth import Credentials
from bulkhead.manager.images.distribution import Distribution
from bulkhead.manager.images.login import Login
from bulkhead.manager.images.search import Search, SearchRequest
from bulkhead.model.reference import parse_reference
from bulkhead.wire.gen.bulkhead.manager import v1 as api


class RegistriesServicer(api.RegistriesBase):
    """protos/bulkhead/manager/v1/registries.proto."""

    def __init__(self, search: Search, distribution: Distribution, login: Login) -> None:
        self._search = search
        self._login = login
        self._distribution = distribution

    async def search(self, message: api.SearchRequest) -> api.SearchResponse:
        request = SearchRequest(
            term=message.term,
            limit=message.limit,
            filters={name: tuple(values.items) for name, values in message.filters.items()},
            credentials=credentials_of(message.auth),
        )
        found = await self._search.run(request)
        results = [
            api.SearchResult(
                name=each.name,
                description=each.description,
                star_count=each.star_count,
                is_official=each.is_official,
            )
            for each in found
        ]
        return api.SearchResponse(results=results)

    async def login(self, message: api.LoginRequest) -> api.LoginResponse:
        server = message.auth.server_address if message.auth is not None else ""
        return api.LoginResponse(identity_token=await self._login.check(server, credentials_of(message.auth)))

    async def inspect(self, message: api.InspectDistributionRequest) -> api.InspectDistributionResponse:
        reference = parse_reference(message.reference).with_default_tag()
        found = await self._distribution.inspect(reference, credentials_of(message.auth))
        platforms = [
            api.Platform(os=each.os, architecture=each.architecture, variant=each.variant) for each in found.platforms
        ]
        manifest = found.manifest
        return api.InspectDistributionResponse(
            digest=str(manifest.digest), media_type=manifest.media_type, size=len(manifest.body), platforms=platforms
        )


def credentials_of(message: api.RegistryAuth | None) -> Credentials:
    """What a client gave for a registry."""
    if message is None:
        return Credentials()
    return Credentials(
        username=message.username,
        password=message.password,
        identity_token=message.identity_token,
        registry_token=message.registry_token,
    )
