"""Clients that say nothing, or half a head, are let go (cve-battery M08)."""

from __future__ import annotations

import pytest

from bulkhead.api import app
from tests.integration.api.conftest import Fake
from tests.support import raw_http

PING = raw_http.request("GET", "/_ping")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "IDLE_SECONDS", 0.2)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("begun", [b"", PING[:20], b"POST /containers/x/attach HTTP/1.1\r\n", b"POST "])
async def test_who_says_nothing_or_half_a_head_is_let_go(fake: Fake, begun: bytes) -> None:
    async with raw_http.connected(fake.socket) as wire:
        wire.send(begun)
        assert await wire.rest() == b""


@pytest.mark.usefixtures("impatient")
async def test_who_waits_for_an_answer_is_not_idle(fake: Fake) -> None:
    """The control: a stream goes on over many times that long."""
    container = await fake.run("sh", "-c", "sleep 0.7; exit 3")
    async with raw_http.connected(fake.socket) as wire:
        wire.send(raw_http.request("POST", f"/containers/{container.id}/wait"))
        assert b'"StatusCode":3' in (await wire.reply()).body
