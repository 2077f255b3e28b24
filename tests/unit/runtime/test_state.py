"""Records of the command's containers, and the states that are derived from them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from bulkhead.errors import Conflict, Internal, InvalidArgument, NotFound
from bulkhead.linux import pidfd
from bulkhead.runtime.state import Container, Record, Status, container_ids, described


def record(**changes: object) -> Record:
    values = {"id": "box", "oci_version": "1.2.0", "bundle": "/b", "rootfs": "/b/rootfs", "owner": 0}
    values |= {"created": "2026-01-01T00:00:00Z", "cgroup": {}}
    return Record(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def container(tmp_path: Path) -> Container:
    found = Container(str(tmp_path / "root"), "box")
    found.reserve()
    return found


def test_a_record_comes_back_as_it_was(container: Container) -> None:
    container.save(record(annotations={"a": "b"}))
    assert container.load() == record(annotations={"a": "b"})


def test_an_id_is_taken_once(container: Container, tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="container with id exists"):
        container.reserve()
    assert container_ids(str(tmp_path / "root")) == ["box"]
    container.forget()
    container.reserve()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "é"])
def test_no_id(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgument):
        Container(str(tmp_path), name)


def test_what_is_not_there_and_what_is_damaged(container: Container) -> None:
    with pytest.raises(NotFound, match="container does not exist"):
        container.load()
    Path(container.directory, "state.json").write_text("{")
    with pytest.raises(Internal, match="cannot read the state of container box"):
        container.load()


def test_status_is_what_the_kernel_says(container: Container) -> None:
    me = os.getpid()
    alive = record(pid=me, start_time=pidfd.start_time(me))
    assert container.status(alive) is Status.RUNNING
    os.mkfifo(container.fifo)
    assert container.status(alive) is Status.RUNNING, "it is beyond the stage: whoever started it was killed"
    assert container.status(record(pid=me, start_time=1)) is Status.STOPPED, "another process has the pid"
    assert described(alive, Status.STOPPED)["pid"] == 0


def test_a_dead_process_is_stopped_before_it_is_reaped(container: Container) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    started = pidfd.start_time(child)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert container.status(record(pid=child, start_time=started)) is Status.STOPPED
    os.waitpid(child, 0)


def test_creating_is_a_record_without_a_process_that_somebody_works_on(container: Container) -> None:
    assert container.status(record()) is Status.STOPPED
    with container.locked():
        assert container.status(record()) is Status.CREATING


def test_who_waited_for_a_container_that_was_deleted_meanwhile_is_told(container: Container) -> None:
    answers = list[BaseException]()

    def second() -> None:
        try:
            with container.locked():
                pass
        except NotFound as error:
            answers.append(error)

    with container.locked():
        waiting = threading.Thread(target=second)
        waiting.start()
        container.forget()
    waiting.join()
    assert [str(error) for error in answers] == ["container does not exist"]
