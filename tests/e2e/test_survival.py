"""The promise: kill any daemon at any time, and no container notices."""

from __future__ import annotations

import os
import select
import shutil
import signal

import pytest

from bulkhead.ctl import purging
from bulkhead.model.instance import SERVICES
from tests.e2e.counter import Counter
from tests.support.engine import Engine
from tests.support.eventually import until

# Answers "exit 7" to the TERM that the test sends from the host, when no daemon is there to send it.
EXIT_7 = "trap 'exit 7' TERM; echo armed; while :; do sleep 0.05; done"
SECONDS = 20.0


def wait_for_end(pid: int, number: signal.Signals) -> None:
    """Signal a process of a container and wait until the kernel says that it is gone."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, number)
        assert select.select([pidfd], [], [], SECONDS)[0], "the process did not end"
    finally:
        os.close(pidfd)


@pytest.mark.parametrize("service", SERVICES)
def test_one_service_killed_and_started(fresh_engine: Engine, service: str) -> None:
    counter = Counter(fresh_engine, "counter")
    fresh_engine.kill(service)
    fresh_engine.start(service)
    counter.noticed_nothing()
    assert "Up " in fresh_engine.docker_ok("ps", "--format", "{{.Names}} {{.Status}}")


def test_all_services_killed_at_once(fresh_engine: Engine) -> None:
    counter = Counter(fresh_engine, "counter")
    fresh_engine.kill()
    fresh_engine.start()
    counter.noticed_nothing()
    fresh_engine.docker_ok("stop", "-t", "1", "counter")
    assert fresh_engine.docker_ok("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "counter") == "exited 137"


def test_services_stopped_in_good_order(fresh_engine: Engine) -> None:
    """`make down` is kill -9 with manners: the containers stay."""
    counter = Counter(fresh_engine, "counter")
    assert set(fresh_engine.stop().values()) == {"stopped"}
    fresh_engine.start()
    counter.noticed_nothing()


def test_an_exit_while_everything_is_down_is_not_lost(fresh_engine: Engine) -> None:
    fresh_engine.docker_ok("run", "-d", "--name", "seven", "busybox", "sh", "-c", EXIT_7)
    until(lambda: "armed" in fresh_engine.docker_ok("logs", "seven"))
    pid = int(fresh_engine.docker_ok("inspect", "-f", "{{.State.Pid}}", "seven"))
    fresh_engine.kill()
    wait_for_end(pid, signal.SIGTERM)
    fresh_engine.start()
    until(lambda: fresh_engine.docker_ok("inspect", "-f", "{{.State.Status}}", "seven") == "exited")
    assert fresh_engine.docker_ok("ps", "-a", "--format", "{{.Status}}").startswith("Exited (7)")
    assert fresh_engine.docker_ok("wait", "seven") == "7"


def test_a_request_without_the_manager_says_who_is_away(fresh_engine: Engine) -> None:
    """503 and not 500 or a hang; and the API daemon finds the new manager by itself."""
    api = fresh_engine.pid("api")
    fresh_engine.kill("manager")
    answer = fresh_engine.api("GET", "/containers/json")
    assert answer.status == 503
    assert "manager" in answer.json["message"]
    refused = fresh_engine.docker("ps")
    assert refused.returncode != 0
    assert "manager" in refused.stderr
    fresh_engine.start("manager")
    assert fresh_engine.api("GET", "/containers/json").status == 200
    assert fresh_engine.pid("api") == api


def test_a_start_without_the_supervisor_can_be_repeated(fresh_engine: Engine) -> None:
    """No new shim without it: a clear answer, and a container that can still be started after."""
    fresh_engine.kill("supervisor")  # first: for a container that has just been made a shim is there already
    fresh_engine.docker_ok("create", "--name", "later", "busybox", "true")
    answer = fresh_engine.api("POST", "/containers/later/start")
    assert answer.status == 503
    assert "supervisor" in answer.json["message"]
    fresh_engine.start("supervisor")
    fresh_engine.docker_ok("start", "later")
    assert fresh_engine.docker_ok("wait", "later") == "0"


def test_stale_sockets_are_replaced(fresh_engine: Engine) -> None:
    """SIGKILL leaves socket files behind; a start must not trip over them."""
    fresh_engine.kill()
    instance = fresh_engine.instance
    for path in (instance.docker_socket, instance.manager_socket, instance.supervisor_socket):
        assert path.is_socket()
    fresh_engine.start()
    assert fresh_engine.docker_ok("run", "--rm", "busybox", "echo", "again") == "again"


def test_a_reboot_leaves_records_and_lets_containers_start_again(fresh_engine: Engine) -> None:
    """Power lost: no process, no cgroup, no network, an empty run directory, and disks as they were."""
    Counter(fresh_engine, "counter")
    fresh_engine.kill()
    purging.kill_all(fresh_engine.instance)
    list(purging.remove_network(fresh_engine.instance))
    shutil.rmtree(fresh_engine.instance.run)
    fresh_engine.start()
    until(lambda: fresh_engine.docker_ok("inspect", "-f", "{{.State.Status}}", "counter") == "exited")
    assert fresh_engine.docker_ok("inspect", "-f", "{{.State.ExitCode}}", "counter") != "0"
    fresh_engine.docker_ok("start", "counter")
    assert fresh_engine.docker_ok("inspect", "-f", "{{.State.Running}}", "counter") == "true"
