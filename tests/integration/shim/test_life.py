from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from pathlib import Path

import pytest

from bulkhead.errors import Conflict, InvalidArgument, NotFound
from bulkhead.wire.gen.bulkhead.shim import v1 as wire
from tests.integration.shim.conftest import Launch
from tests.integration.shim.harness import (
    Nursery,
    Shim,
    alive,
    become,
    connected,
    descriptors,
    gone,
    proc,
    script,
    until,
    write_config,
)


async def test_a_container_runs_and_its_exit_is_known_everywhere(launch: Launch) -> None:
    # The shortest way through everything: what the manager is told is what the disk says.
    async with launch(script("echo out; echo err >&2; exit 7")) as shim:
        before = await shim.client.state()
        assert (before.phase, before.pid, before.exit_code) == ("new", 0, None)
        answer = await shim.run()
        assert (answer.exit_code, answer.oom_killed) == (7, False)
        after = await shim.client.state()
        assert (after.phase, after.exit_code, after.exited_at) == ("exited", 7, answer.exited_at)
        record = json.loads((shim.data_dir / "exit.json").read_text())
        assert record == {
            "exit_code": 7,
            "exited_at": answer.exited_at,
            "started_at": after.started_at,
            "oom_killed": False,
            "oom_kills": 0,
            "pid": after.pid,
            "losses": [],
        }
        assert after.started_at < answer.exited_at
        assert (shim.logged(), shim.logged("stderr")) == ("out\n", "err\n")


async def test_the_exit_record_is_on_disk_before_wait_answers(launch: Launch) -> None:
    # A manager that dies upon the answer must find the same fact at its next start.
    async with launch(script("exit 3")) as shim:
        await shim.create()
        await shim.client.start()
        await shim.client.wait(timeout=20)
        assert json.loads((shim.data_dir / "exit.json").read_text())["exit_code"] == 3
        assert not list(shim.data_dir.glob(".*")), "the reserved file became the record"


async def test_an_exit_while_nobody_is_connected_is_kept(nursery: Nursery, tmp_path: Path, launch: Launch) -> None:
    # Everything may be down when a container ends: the shim alone must remember.
    async with launch(script("read x; exit 5")) as shim:
        await shim.create(open_stdin=True)
        await shim.client.start()
        pid = (await shim.client.state()).pid
        stream = await shim.attach()
        await shim.client.client.close()
        stream.writer.write(b"go\n")
        assert await stream.output() == {1: b"", 2: b""}
        async with connected(shim.run_dir, shim.data_dir, shim.pid) as again:
            state = await again.client.state()
            assert (state.phase, state.exit_code, state.pid) == ("exited", 5, pid)
            assert (await again.client.wait(timeout=20)).exit_code == 5


async def test_orders_that_do_not_fit_change_nothing(launch: Launch) -> None:
    async with launch(script("sleep 60")) as shim:
        for order in (shim.client.start(), shim.client.pause(), shim.client.resume()):
            with pytest.raises(Conflict):
                await order
        with pytest.raises(Conflict, match="is not running"):
            await shim.client.kill(9)
        await shim.create()
        with pytest.raises(Conflict, match="cannot create container abababababab: it is created"):
            await shim.create()
        with pytest.raises(Conflict):
            await shim.client.pause()
        await shim.client.start()
        with pytest.raises(Conflict, match="it is running"):
            await shim.client.start()
        await shim.client.resume()  # as one is asked whose order was cut off by the death of an earlier shim
        with pytest.raises(InvalidArgument, match="invalid signal 99"):
            await shim.client.kill(99)
        await shim.client.kill(signal.SIGKILL)
        assert (await shim.client.wait(timeout=20)).exit_code == 137
        with pytest.raises(Conflict, match="it is exited"):
            await shim.create()


async def test_a_created_container_that_is_killed_has_exited(launch: Launch) -> None:
    async with launch(script("exit 0")) as shim:
        await shim.create()
        await shim.client.kill(signal.SIGKILL)
        assert (await shim.client.wait(timeout=20)).exit_code == 137
        assert (await shim.client.state()).started_at == 0


async def test_pause_and_resume(launch: Launch) -> None:
    async with launch(script("sleep 60")) as shim:
        await shim.create()
        await shim.client.start()
        await shim.client.pause()
        assert (await shim.client.state()).phase == "paused"
        assert json.loads((shim.data_dir / "task.json").read_text())["paused"] is True
        await shim.client.resume()
        assert (await shim.client.state()).phase == "running"
        await shim.client.pause()
        # SIGKILL reaches a frozen container too.
        await shim.client.kill(signal.SIGKILL)
        assert (await shim.client.wait(timeout=20)).exit_code == 137


async def test_every_waiter_hears_and_so_do_late_ones(launch: Launch) -> None:
    async with launch(script("exit 4")) as shim:
        early = [asyncio.create_task(shim.client.wait(timeout=20)) for _ in range(5)]
        await shim.run()
        assert [(await waiter).exit_code for waiter in early] == [4] * 5
        assert (await shim.client.wait(timeout=20)).exit_code == 4
        with pytest.raises(NotFound, match="No such exec instance: nosuch"):
            await shim.client.wait("nosuch", timeout=20)


@pytest.mark.parametrize(
    ("argv", "code"), [(["/nosuch"], 127), (["/etc"], 126), (["/etc/passwd"], 126), (["nosuch"], 127)]
)
async def test_a_launch_that_fails_is_a_field_not_an_error(launch: Launch, argv: list[str], code: int) -> None:
    # The manager needs the step, the errno and Docker's exit code, not only a text.
    async with launch({"process": {"args": argv}}) as shim:
        await shim.create()
        failure = (await shim.client.start()).failure
        assert failure is not None
        assert (failure.exit_code, failure.step) == (code, "exec")
        assert (await shim.client.wait(timeout=20)).exit_code == code
        assert (await shim.client.state()).phase == "exited"
        assert json.loads((shim.data_dir / "exit.json").read_text())["started_at"] == 0


@pytest.mark.parametrize(("when", "left"), [("fail", []), ("fail late", ["log.json"])])
async def test_a_create_that_fails_leaves_nothing_and_may_be_repeated(
    launch: Launch, when: str, left: list[str]
) -> None:
    async with launch({"process": {"args": ["/bin/true"]}, when: "no such layer"}) as shim:
        await shim.client.state()
        before = descriptors(shim.pid)
        for _ in range(3):
            failure = (await shim.create()).failure
            assert failure is not None
            assert (failure.message, failure.step) == ("no such layer", "mount")
        assert descriptors(shim.pid) == before
        assert (await shim.client.state()).phase == "new"
        assert sorted(path.name for path in shim.data_dir.iterdir()) == ["config.json", *left, "shim.json"]


async def test_what_a_launch_confides_is_taken_back_when_it_fails(launch: Launch) -> None:
    # Else its keeper would hold the ends of pipes that nobody is at, and the pidfd of somebody who is gone.
    async with launch({"process": {"args": ["/bin/true"]}, "fail late": "no such layer"}) as shim:
        keeper = await shim.dial(op="keep")
        told = [json.loads(await keeper.reader.readline())]
        assert (await shim.create()).failure is not None
        told += [json.loads(await keeper.reader.readline()) for _ in range(2)]
        assert [{"pid", "stdout", "stderr"} <= set(each["names"]) for each in told] == [False, True, False]
        assert told[2]["names"] == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"process":[]}', "\xff"])
async def test_a_bad_bundle_is_an_invalid_argument(launch: Launch, text: str) -> None:
    async with launch(script("true")) as shim:
        (shim.data_dir / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(InvalidArgument, match=r"cannot read .*config.json"):
            await shim.create()
        assert (await shim.client.state()).phase == "new"


async def test_what_is_created_to_start_has_executed_when_that_is_answered(launch: Launch) -> None:
    async with launch(script("echo once; exit 7")) as shim:
        made = await shim.create(start=True)
        assert made.failure is None
        assert made.started_at > 0
        ended = await shim.client.wait(timeout=20)
        assert ended.exit_code == 7
        assert [record["log"] for record in shim.records()] == ["once\n"]
        with pytest.raises(Conflict):
            await shim.client.start()


async def test_a_program_that_is_not_there_is_told_by_the_create_that_starts(launch: Launch) -> None:
    async with launch({"process": {"args": ["/nosuch"]}}) as shim:
        made = await shim.create(start=True)
        assert made.failure is not None
        assert made.failure.exit_code == 127
        assert made.started_at == 0


async def test_shutdown_ends_everything_it_knows(launch: Launch) -> None:
    async with launch(script("sleep 60")) as shim:
        await shim.create()
        await shim.client.start()
        pid = (await shim.client.state()).pid
        await shim.client.shutdown()
        assert not alive(pid)
        assert not shim.run_dir.exists()
        await asyncio.wait_for(asyncio.shield(shim.client.closed), 10)
        await gone(shim.pid)


async def test_a_shim_is_deaf_to_polite_signals(launch: Launch) -> None:
    # systemd, a terminal's end and `kill` of the process group must not take containers along.
    async with launch(script("sleep 60")) as shim:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
            os.kill(shim.pid, number)
        assert (await shim.client.state()).shim_pid == shim.pid


async def test_a_shim_has_no_parent_of_ours_and_nothing_of_ours_open(launch: Launch, nursery: Nursery) -> None:
    async with launch(script("sleep 60")) as shim:
        fields = proc(shim.pid, "stat").rsplit(")", 1)[1].split()
        parent, session = int(fields[1]), int(fields[3])
        assert parent not in (nursery.process.pid, os.getpid())
        assert session != os.getsid(0)
        assert os.readlink(f"/proc/{shim.pid}/cwd") == "/"  # noqa: PTH115
        assert proc(shim.pid, "cmdline").rstrip("\0") == "bulkhead-shim: abababababab"
        await shim.client.state()
        open_now = descriptors(shim.pid)
        assert open_now[:3] == ["/dev/null"] * 3
        # The zygote's memory, likeness and stage, its epoll, the lock, the wakeup pipe's two ends, two listeners,
        # our connection, and the link to whoever has made it.
        kinds = sorted(name.split(":")[0] for name in open_now[3:])
        own = ["/memfd"] * 3 + ["anon_inode", str(shim.data_dir), "pipe", "pipe", *["socket"] * 4]
        assert kinds == sorted(own)


async def test_an_unhandled_error_is_told_and_logged_and_survived(launch: Launch) -> None:
    async with launch(script("sleep 60")) as shim:
        # A directory in the place of the record: an error that nobody foresaw.
        (shim.data_dir / "task.json").mkdir()
        with pytest.raises(Exception, match="cannot reserve the exit record: Is a directory"):
            await shim.create()
        assert (await shim.client.state()).phase == "new"
        (shim.data_dir / "task.json").rmdir()
        assert (await shim.create()).failure is None


async def test_only_one_shim_has_a_container(launch: Launch, nursery: Nursery) -> None:
    async with launch(script("true")) as shim:
        answer = become(nursery.spare(), shim.run_dir, shim.data_dir)
        assert answer["kind"] == "Conflict"
        assert (await shim.client.state()).shim_pid == shim.pid


async def test_a_wiped_run_directory_is_made_again_on_demand(launch: Launch) -> None:
    # As after somebody cleaned /run: the shim lives on, unreachable until it is told to listen again.
    async with launch(script("sleep 60")) as shim:
        for path in shim.run_dir.iterdir():
            path.unlink()
        shim.run_dir.rmdir()
        os.kill(shim.pid, signal.SIGUSR1)
        await until((shim.run_dir / "stdio.sock").exists)
        async with connected(shim.run_dir, shim.data_dir, shim.pid) as again:
            assert (await again.client.state()).shim_pid == shim.pid


async def test_a_shim_that_has_left_listens_no_more(launch: Launch) -> None:
    """A call that comes late finds it while a client still takes its time with the output."""
    async with launch(script("head -c 900000 /dev/zero")) as shim:
        assert (await shim.create()).failure is None
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(str(shim.run_dir / "stdio.sock"))
            client.sendall(b'{"op":"attach","stdout":true}\n')
            assert client.recv(4096)
            await shim.client.start()
            await shim.client.wait(timeout=20)
            await shim.client.shutdown()
            assert not shim.run_dir.exists()
            os.kill(shim.pid, signal.SIGUSR1)
        await gone(shim.pid)
        assert not shim.run_dir.exists()


async def test_a_shim_that_nobody_wants_leaves(nursery: Nursery, tmp_path: Path) -> None:
    """Whoever launched it has died, and cannot find it when he comes back: the run directory was wiped, say."""
    homes = {name: (tmp_path / name, tmp_path / f"{name}-data") for name in ("unwanted", "attended")}
    pids = dict[str, int]()
    for name, (run, data) in homes.items():
        write_config(data, script("true"))
        pids[name] = become(nursery.spare(), run, data)["pid"]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(homes["attended"][0] / "stdio.sock"))
        client.sendall(b'{"op":"attach","stdout":true}\n')
        await gone(pids["unwanted"])
        assert not homes["unwanted"][0].exists()
        assert not (homes["unwanted"][1] / "shim.json").exists()
        assert alive(pids["attended"])
        os.kill(pids["attended"], signal.SIGKILL)


async def adopted(nursery: Nursery, shim: Shim) -> int:
    """Kill the shim without notice, and launch a successor; its pid."""
    os.kill(shim.pid, signal.SIGKILL)
    await gone(shim.pid)
    answer = become(nursery.spare(), shim.run_dir, shim.data_dir)
    assert "error" not in answer, answer
    pid: int = answer["pid"]
    return pid


async def test_a_successor_adopts_a_live_container(launch: Launch, nursery: Nursery) -> None:
    async with launch(script("trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done")) as shim:
        await shim.create()
        stream = await shim.attach()
        await shim.client.start()
        assert await stream.frame() == (1, b"up\n")
        before = await shim.client.state()
        successor = await adopted(nursery, shim)
        async with connected(shim.run_dir, shim.data_dir, successor) as again:
            state = await again.client.state()
            assert (state.phase, state.pid, state.started_at) == ("running", before.pid, before.started_at)
            assert state.shim_pid == successor
            await again.client.kill(signal.SIGTERM)
            # Not its child: the code comes from the kernel's memory of the process.
            assert (await again.client.wait(timeout=20)).exit_code == 9
            assert json.loads((shim.data_dir / "exit.json").read_text())["exit_code"] == 9


async def test_a_successor_that_cannot_open_the_log_says_so(launch: Launch, nursery: Nursery) -> None:
    async with launch(script("trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done")) as shim:
        await shim.create()
        await shim.client.start()
        await until(lambda: shim.logged() == "up\n")
        shim.log.unlink()
        shim.log.mkdir()
        successor = await adopted(nursery, shim)
        async with connected(shim.run_dir, shim.data_dir, successor) as again:
            lost = json.loads((await again.client.state()).losses)
            # From when the log last grew, for good.
            assert [(each["what"], each["until"]) for each in lost] == [("log", 0)]
            told = shim.data_dir / "shim.log"
            assert "cannot go on with the log" in told.read_text()
            told.unlink()
            await again.client.kill(signal.SIGTERM)
            assert (await again.client.wait(timeout=20)).exit_code == 9


async def test_a_successor_knows_an_exit_from_its_record(launch: Launch, nursery: Nursery) -> None:
    async with launch(script("exit 6")) as shim:
        answer = await shim.run()
        successor = await adopted(nursery, shim)
        async with connected(shim.run_dir, shim.data_dir, successor) as again:
            state = await again.client.state()
            assert (state.phase, state.exit_code, state.exited_at) == ("exited", 6, answer.exited_at)
            assert (await again.client.wait(timeout=20)).exited_at == answer.exited_at
            # And a new life may begin: the old record is forgotten first.
            assert (await again.run()).exit_code == 6
            assert json.loads((shim.data_dir / "exit.json").read_text())["exited_at"] > answer.exited_at


async def test_a_container_that_vanished_with_its_shim_has_exited_255(launch: Launch, nursery: Nursery) -> None:
    # As after a power loss: never a 0 that nobody saw (moby 45788).
    async with launch(script("sleep 60")) as shim:
        await shim.create()
        await shim.client.start()
        task = shim.data_dir / "task.json"
        record = json.loads(task.read_text())
        os.kill(shim.pid, signal.SIGKILL)
        await gone(shim.pid)
        os.kill(record["pid"], signal.SIGKILL)
        await gone(record["pid"])
        task.write_text(json.dumps(record | {"boot_id": "another boot"}))
        answer = become(nursery.spare(), shim.run_dir, shim.data_dir)
        async with connected(shim.run_dir, shim.data_dir, answer["pid"]) as again:
            state = await again.client.state()
            assert (state.phase, state.exit_code) == ("exited", 255)


async def test_garbage_in_the_records_is_not_believed(launch: Launch, nursery: Nursery, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "exit.json").write_bytes(b"\x00" * 100)
    (data / "task.json").write_text('{"pid": 1}')
    async with launch(script("exit 2")) as shim:
        assert (await shim.client.state()).phase == "new"
        assert (await shim.run()).exit_code == 2


async def test_pids_and_kill_everyone(launch: Launch) -> None:
    async with launch(script("sleep 60 & sleep 60 & echo up; wait")) as shim:
        stream = await shim.attach()
        await shim.create()
        await shim.client.start()
        await stream.frame()
        pids = (await shim.client.pids()).pids
        assert len(pids) == 3
        await shim.client.kill(signal.SIGKILL, all=True)
        assert (await shim.client.wait(timeout=20)).exit_code == 137
        for pid in pids:
            await gone(pid)


async def test_warnings_and_pid_of_create_are_answered(launch: Launch) -> None:
    async with launch(script("exit 0")) as shim:
        made = await shim.create()
        assert made.pid == (await shim.client.state()).pid
        assert isinstance(made, wire.CreateResponse)


async def test_a_shim_leaves_when_the_end_is_told_to_who_records_it(launch: Launch) -> None:
    """Nobody has to tell it, and the record stays for whoever comes next."""
    async with launch(script("exit 3")) as shim:
        await shim.create()
        await shim.client.start()
        answer = await shim.client.wait(for_record=True, timeout=20)
        assert (answer.exit_code, answer.leaves) == (3, True)
        await asyncio.wait_for(asyncio.shield(shim.client.closed), 20)
        assert not shim.run_dir.exists()
        assert [each.name for each in shim.data_dir.glob("*.json")].count("shim.json") == 0
        assert json.loads((shim.data_dir / "exit.json").read_text())["exit_code"] == 3


async def test_a_shim_stays_for_those_who_still_wait(launch: Launch) -> None:
    """What became of an exec would be lost with it."""
    async with launch(script("read x; exit 3")) as shim:
        await shim.create(open_stdin=True)
        await shim.client.start()
        await shim.client.exec_create(wire.ExecCreateRequest(exec_id="e", process=b'{"args":["/bin/true"]}'))
        begun = asyncio.create_task(shim.client.begun("e"))
        stream = await shim.attach()
        stream.writer.write(b"go\n")
        answer = await shim.client.wait(for_record=True, timeout=20)
        assert (answer.exit_code, answer.leaves) == (3, False)
        assert (await shim.client.state()).phase == "exited"
        await shim.client.shutdown()
        begun.cancel()


async def test_a_shim_stays_that_alone_knows_the_end(launch: Launch) -> None:
    """Where no disk takes the record, who was told of the end may die before it is on his own."""
    async with launch(script("read x; exit 3")) as shim:
        await shim.create(open_stdin=True)
        await shim.client.start()
        refusal = shim.data_dir / "exit.json"
        refusal.mkdir()
        stream = await shim.attach()
        stream.writer.write(b"go\n")
        answer = await shim.client.wait(for_record=True, timeout=20)
        assert (answer.exit_code, answer.leaves) == (3, False)
        assert (await shim.client.state()).exit_code == 3
        refusal.rmdir()
        await until(refusal.is_file)
        (shim.data_dir / "shim.log").unlink()
