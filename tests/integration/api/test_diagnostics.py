"""Health, metrics and what is in flight."""

from __future__ import annotations

import asyncio
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from bulkhead.api.app import serve
from tests.integration.api.conftest import Fake
from tests.support import raw_http
from tests.support.eventually import eventually
from tests.support.fake_engine import fake_settings


async def test_what_is_in_flight_is_shown_with_its_object(fake: Fake) -> None:
    container = await fake.run("sleep", "100")
    waiting = asyncio.create_task(fake.call("POST", f"/containers/{container.id}/wait"))

    async def shown() -> bool:
        rows = (await fake.call("GET", "/debug/ops")).json["Operations"]
        waits = [row for row in rows if row["Operation"] == "POST /containers/{id}/wait"]
        return any(container.id in row["Object"] and row["AgeSeconds"] >= 0 for row in waits)

    await eventually(shown)
    assert (await fake.call("POST", f"/containers/{container.id}/kill")).status == 204
    assert (await waiting).status == 200
    assert not await shown()


async def test_health_tells_of_the_manager(fake: Fake) -> None:
    assert (await fake.call("GET", "/healthz")).body == b"ok\n"
    assert "bulkhead_manager_up 1.0" in (await fake.call("GET", "/metrics")).body.decode()


async def test_without_its_manager_the_api_tells_so(tmp_path: Path) -> None:
    settings = fake_settings(tmp_path)
    socket = settings.instance.docker_socket
    async with serve(settings):
        health = await raw_http.call(socket, "GET", "/healthz")
        assert (health.status, "manager" in health.message) == (503, True)
        ops = await raw_http.call(socket, "GET", "/debug/ops")
        assert (ops.status, "manager" in ops.json["Error"]) == (200, True)
        assert "bulkhead_manager_up 0.0" in (await raw_http.call(socket, "GET", "/metrics")).body.decode()


async def test_metrics_have_no_series_per_path(fake: Fake) -> None:
    for number in range(20):
        assert (await fake.call("GET", f"/containers/c{number}/json")).status == 404
        assert (await fake.call("GET", f"/rubbish/{number}")).status == 404
    async with raw_http.connected(fake.socket) as wire:
        wire.send("BREW /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await wire.reply()).status in (400, 404)
    text = (await fake.call("GET", "/metrics")).body.decode()
    rows = {
        (sample.labels["method"], sample.labels["route"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "bulkhead_api_requests_total"
    }
    assert rows[("GET", "/containers/{id}/json")] == 20
    assert rows[("GET", "none")] == 20
    assert len(rows) <= 4
