"""M22: a number that meanwhile belongs to somebody else is not signalled, entered or measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.security.api.wire import settled
from tests.security.engine.conftest import Attack
from tests.support.engine import Engine

LAST = Path("/proc/sys/kernel/ns_last_pid")
ATTEMPTS = 200


@contextmanager
def innocent(pid: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the host that has got the number `pid`, which must be free."""
    if not LAST.exists():
        pytest.skip("the kernel does not let one choose the next pid")
    for _ in range(ATTEMPTS):
        LAST.write_text(str(pid - 1))
        process = subprocess.Popen(["sleep", "300"], start_new_session=True)
        if process.pid == pid:
            break
        _end(process)
    else:
        pytest.fail(f"pid {pid} was not to be had")
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def shim_of(engine: Engine, container: str) -> int:
    record = json.loads((engine.instance.container_data(container) / "shim.json").read_bytes())
    pid: int = record["pid"]
    return pid


def test_the_control_a_number_can_be_had_again_and_a_signal_ends_its_owner() -> None:
    with subprocess.Popen(["true"]) as first:
        first.wait()
    with innocent(first.pid) as process:
        os.kill(first.pid, signal.SIGTERM)
        assert process.wait(10) == -signal.SIGTERM


def test_orders_for_a_container_that_has_ended(attack: Attack) -> None:
    container = attack.start("sleep", "1000")
    pid = attack.pid(container)
    place = f"/containers/{container}"
    assert attack.engine.api("POST", f"{place}/kill").status == 204
    attack.engine.api("POST", f"{place}/wait")
    with innocent(pid) as process:
        for order in ("kill", "kill?signal=9", "stop?t=0", "pause", "restart?t=0"):
            attack.engine.api("POST", f"{place}/{order}")
        attack.exec(container, "true")
        attack.engine.api("GET", f"{place}/top")
        attack.engine.api("GET", f"{place}/stats?stream=0")
        assert attack.engine.api("DELETE", f"{place}?force=1").status == 204
        assert process.poll() is None


def test_numbers_that_were_given_to_others_while_no_service_ran(fresh_engine: Engine) -> None:
    """The shim and the container's first process die unseen; their numbers, which are on disk, are taken."""
    attack = Attack(fresh_engine)
    container = attack.start("sleep", "1000")
    pids = [shim_of(fresh_engine, container), attack.pid(container)]
    fresh_engine.kill("manager", "supervisor", "api")
    ended = [os.pidfd_open(pid) for pid in pids]
    for fd in ended:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        os.close(fd)
    assert settled(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    with ExitStack() as stack:
        processes = [stack.enter_context(innocent(pid)) for pid in pids]
        fresh_engine.start()
        place = f"/containers/{container}"
        # Also while a new shim still reads what the container said last.
        fresh_engine.api("POST", f"{place}/kill?signal=CONT")

        def is_known_as_ended() -> bool:
            found = fresh_engine.api("GET", f"{place}/json").json["State"]
            return (found["Running"], found["Pid"]) == (False, 0)

        assert settled(is_known_as_ended)
        for order in ("kill", "stop?t=0", "restart?t=0"):
            fresh_engine.api("POST", f"{place}/{order}")
        assert fresh_engine.api("DELETE", f"{place}?force=1").status == 204
        assert [process.poll() for process in processes] == [None, None]
