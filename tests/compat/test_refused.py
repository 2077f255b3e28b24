"""What is refused, and what is shown of it afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from bulkhead.ctl.engine_client import call
from tests.compat.conftest import Target


def test_a_volume_is_not_made_of_nothing(target: Target) -> None:
    socket = Path(urlsplit(target.socket).path)
    answer = call(socket, "POST", "/volumes/create")
    assert answer.status == 400 and "got EOF while reading request body" in answer.json["message"]
    target.ok("volume", "rm", call(socket, "POST", "/volumes/create", {}).json["Name"])


@pytest.mark.parametrize(("ended", "code"), [(None, 128), (3, 3), (0, 128)])
def test_a_start_without_its_network_leaves_how_the_last_run_ended(
    whole_target: Target, ended: int | None, code: int
) -> None:
    whole_target.ok("network", "create", "gone")
    whole_target.ok("create", "--name", "box", "--network", "gone", "busybox", "sh", "-c", f"exit {ended}")
    if ended is not None:
        whole_target.ok("start", "box")
        assert whole_target.ok("wait", "box").strip() == str(ended)
    whole_target.ok("network", "rm", "gone")
    before = _state(whole_target)
    refused = whole_target.docker("start", "box")
    assert refused.returncode == 1
    after = _state(whole_target)
    assert after.pop("Error") in refused.stderr
    before.pop("Error")
    assert after == {**before, "ExitCode": code}


def _state(target: Target) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(target.ok("inspect", "-f", "{{json .State}}", "box"))
    return shown
