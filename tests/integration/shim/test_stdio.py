from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from bulkhead.wire.gen.bulkhead.shim import v1 as wire
from tests.integration.shim.conftest import Launch
from tests.integration.shim.harness import Shim, descriptors, script, until

MEGABYTE = 1 << 20


async def started(shim: Shim, **options: object) -> None:
    assert (await shim.create(**options)).failure is None
    assert (await shim.client.start()).failure is None


async def test_nothing_is_lost_between_attach_and_start(launch: Launch) -> None:
    # docker run attaches before it starts: the first byte counts.
    async with launch(script("echo first; echo second >&2")) as shim:
        stream = await shim.attach()
        assert stream.answer == {"ok": True, "tty": False}
        await shim.run()
        assert await stream.output() == {1: b"first\n", 2: b"second\n"}


async def test_every_attached_client_gets_what_it_asked_for(launch: Launch) -> None:
    async with launch(script("echo out; echo err >&2")) as shim:
        both, out, err = await shim.attach(), await shim.attach(stderr=False), await shim.attach(stdout=False)
        await shim.run()
        assert await both.output() == {1: b"out\n", 2: b"err\n"}
        assert await out.output() == {1: b"out\n", 2: b""}
        assert await err.output() == {1: b"", 2: b"err\n"}


async def test_attach_replays_nothing(launch: Launch) -> None:
    async with launch(script("echo one; read x; echo two")) as shim:
        early = await shim.attach()
        await started(shim, open_stdin=True)
        assert await early.frame() == (1, b"one\n")
        late = await shim.attach()
        early.writer.write(b"\n")
        assert await late.output() == {1: b"two\n", 2: b""}


async def test_attach_to_an_ended_container_ends_at_once(launch: Launch) -> None:
    async with launch(script("echo gone")) as shim:
        await shim.run()
        assert await (await shim.attach()).everything() == b""


async def test_input_sent_before_there_is_a_process_arrives(launch: Launch) -> None:
    # The client may type, and end its input, long before the container is created.
    async with launch(script("cat; echo end")) as shim:
        stream = await shim.attach()
        stream.writer.write(b"x" * (3 * MEGABYTE))
        stream.writer.write_eof()
        await started(shim, open_stdin=True, stdin_once=True)
        output = await stream.output()
        assert output[1] == b"x" * (3 * MEGABYTE) + b"end\n"


async def test_those_who_come_and_say_nothing_keep_nobody_out(launch: Launch) -> None:
    """A client that hangs before it has said what it wants may have come any number of times."""
    async with launch(script("echo here")) as shim:
        before = len(descriptors(shim.pid))
        with ExitStack() as sockets:
            silent = [sockets.enter_context(_knocking(shim)) for _ in range(520)]
            last = silent[-1]
            last.sendall(b'{"op":"attach","stdout":true}\n')
            assert json.loads(last.recv(1 << 10)) == {"ok": True, "tty": False}
            assert len(descriptors(shim.pid)) < before + 520, "nor do they cost it more and more"
            assert silent[0].recv(1) == b"", "who came first has gone"
            await shim.run()


def _knocking(shim: Shim) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    # With a time limit it would not wait for a shim that lets in one after the other (connect(2), EAGAIN).
    made.connect(str(shim.run_dir / "stdio.sock"))
    made.settimeout(20)
    return made


async def test_half_close_is_end_of_input_only_for_stdin_once(launch: Launch) -> None:
    async with launch(script("read a; read b; echo $a$b")) as shim:
        first = await shim.attach()
        await started(shim, open_stdin=True)
        first.writer.write(b"1\n")
        first.writer.write_eof()
        second = await shim.attach()
        second.writer.write(b"2\n")
        assert await second.output() == {1: b"12\n", 2: b""}
        assert await first.output() == {1: b"12\n", 2: b""}


async def test_output_goes_on_after_half_close(launch: Launch) -> None:
    async with launch(script("cat >/dev/null; echo after")) as shim:
        stream = await shim.attach()
        stream.writer.write_eof()
        await started(shim, open_stdin=True, stdin_once=True)
        assert await stream.output() == {1: b"after\n", 2: b""}


async def test_a_client_that_only_watches_does_not_type(launch: Launch) -> None:
    async with launch(script("read x && echo got $x || echo end")) as shim:
        watcher, typist = await shim.attach(stdin=False), await shim.attach()
        await started(shim, open_stdin=True)
        watcher.writer.write(b"mine\n" * 1000)
        watcher.writer.write_eof()
        typist.writer.write(b"yours\n")
        assert await typist.output() == {1: b"got yours\n", 2: b""}
        assert await watcher.output() == {1: b"got yours\n", 2: b""}


async def test_without_open_stdin_there_is_no_input(launch: Launch) -> None:
    async with launch(script("readlink /proc/self/fd/0; cat")) as shim:
        stream = await shim.attach()
        stream.writer.write(b"ignored\n" * 100_000)
        await shim.run()
        assert await stream.output() == {1: b"/dev/null\n", 2: b""}


async def test_close_stdin_ends_input_after_what_was_typed(launch: Launch) -> None:
    async with launch(script("cat")) as shim:
        stream = await shim.attach()
        await started(shim, open_stdin=True)
        stream.writer.write(b"typed\n")
        assert await stream.frame() == (1, b"typed\n")
        await shim.client.close_stdin()
        assert await stream.everything() == b""
        assert (await shim.client.wait(timeout=20)).exit_code == 0


async def test_a_process_that_closes_its_stdin_loses_nobody(launch: Launch, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    async with launch(script(f"exec 0<&-; echo closed; cat {tmp_path}/go; echo done")) as shim:
        stream = await shim.attach()
        await started(shim, open_stdin=True)
        assert await stream.frame() == (1, b"closed\n")
        stream.writer.write(b"y" * MEGABYTE)
        await asyncio.to_thread((tmp_path / "go").write_bytes, b"")
        assert await stream.output() == {1: b"done\n", 2: b""}


async def test_unread_input_does_not_cost_the_output(launch: Launch) -> None:
    # `yes | docker run image true`: closing over unread bytes would reset the client's connection.
    async with launch(script("echo out")) as shim:
        stream = await shim.attach()
        stream.writer.write(b"y\n" * (4 * MEGABYTE))
        await started(shim, open_stdin=True, stdin_once=True)
        assert await stream.output() == {1: b"out\n", 2: b""}


async def test_a_client_that_vanishes_harms_nobody(launch: Launch) -> None:
    async with launch(script("read x; echo one; read x; echo two")) as shim:
        gone, stays = await shim.attach(), await shim.attach()
        await started(shim, open_stdin=True)
        gone.writer.transport.abort()
        stays.writer.write(b"\n\n")
        assert await stays.output() == {1: b"one\ntwo\n", 2: b""}
        assert shim.logged() == "one\ntwo\n"


async def test_a_slow_client_is_waited_for_and_gets_everything(launch: Launch) -> None:
    # Docker blocks the process on a slow attached client; ours has a buffer in between, with an end.
    size = 16 * MEGABYTE
    async with launch(script(f"head -c {size} /dev/zero; echo; echo end >&2", patience=60.0)) as shim:
        stream = await shim.attach()
        await started(shim, log=wire.LogOptions(driver="none"))
        await asyncio.sleep(0.3)
        assert (await shim.client.state()).phase == "running", "the process waits for its reader"
        output = await stream.output()
        assert (len(output[1]), output[2]) == (size + 1, b"end\n")
        stream.close()


async def test_a_client_that_never_reads_is_dropped_in_the_end(launch: Launch) -> None:
    # It holds the process for as long as the shim is patient (the tests' shims are that for a second).
    async with launch(script(f"yes {'x' * 1000} | head -n 8000; echo end")) as shim:
        with socket.socket(socket.AF_UNIX) as stuck:
            stuck.connect(str(shim.run_dir / "stdio.sock"))
            stuck.sendall(b'{"op":"attach","stdout":true}\n')
            assert (await shim.run()).exit_code == 0
            assert shim.log.read_bytes().count(b"\n") == 8001
            stuck.setblocking(False)
            received = 0
            while piece := stuck.recv(MEGABYTE):
                received += len(piece)
            assert received < 8_000_000


async def test_a_terminal_is_raw_and_one_stream(launch: Launch) -> None:
    async with launch(script("tty; stty -echo; read x; echo got $x >&2; stty size", terminal=True)) as shim:
        stream = await shim.attach()
        assert stream.answer["tty"] is True
        await started(shim, open_stdin=True, height=33, width=101)
        assert (await stream.until(b"\r\n")).startswith(b"/dev/pts/")
        stream.writer.write(b"typed\n")
        assert b"got typed\r\n33 101\r\n" in await stream.everything()
        assert {record["stream"] for record in shim.records()} == {"stdout"}


async def test_a_terminal_is_resized_while_it_runs(launch: Launch) -> None:
    async with launch(
        script("trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.02; done", terminal=True)
    ) as shim:
        stream = await shim.attach()
        await started(shim)
        await stream.until(b"up\r\n")
        await shim.client.resize_pty(24, 80)
        assert await stream.until(b"\r\n") == b"24 80\r\n"
        assert (await shim.client.wait(timeout=20)).exit_code == 0


@pytest.mark.parametrize(("keys", "typed"), [("", b"\x10\x11"), ("ctrl-a,x", b"\x01x"), ("q", b"q")])
async def test_detach_keys_end_the_stream_and_not_the_process(launch: Launch, keys: str, typed: bytes) -> None:
    async with launch(script("stty raw -echo; echo up; cat", terminal=True)) as shim:
        stream = await shim.attach(detach_keys=keys)
        await started(shim, open_stdin=True)
        await stream.until(b"up\n")
        stream.writer.write(b"a")
        assert await stream.reader.readexactly(1) == b"a"
        stream.writer.write(typed)
        assert await stream.everything() == b""
        assert (await shim.client.state()).phase == "running"


async def test_a_broken_prefix_of_the_detach_keys_reaches_the_process(launch: Launch) -> None:
    async with launch(script("stty raw -echo; echo up; cat", terminal=True)) as shim:
        stream = await shim.attach()
        await started(shim, open_stdin=True)
        await stream.until(b"up\n")
        stream.writer.write(b"a\x10b\x10\x10c")
        assert await stream.reader.readexactly(6) == b"a\x10b\x10\x10c"


async def test_detach_keys_mean_nothing_without_a_terminal(launch: Launch) -> None:
    async with launch(script("cat")) as shim:
        stream = await shim.attach()
        await started(shim, open_stdin=True, stdin_once=True)
        stream.writer.write(b"\x10\x11")
        stream.writer.write_eof()
        assert await stream.output() == {1: b"\x10\x11", 2: b""}


async def test_a_terminal_left_and_opened_again_still_speaks(launch: Launch) -> None:
    # With nobody at the other side a pty reports a hang-up for ever; that must not be taken for the end.
    text = "name=$(tty); exec </dev/null >/dev/null 2>&1; sleep 0.3; echo again >$name; sleep 0.1"
    async with launch(script(text, terminal=True)) as shim:
        await shim.run()
        assert shim.logged() == "again\r\n"


async def test_pipes_held_by_grandchildren_do_not_hold_the_exit(launch: Launch) -> None:
    async with launch(script("setsid sh -c 'echo $$; exec sleep 30' & read go; exit 0")) as shim:
        stream = await shim.attach()
        await started(shim, open_stdin=True)
        frame = await stream.frame()
        stream.writer.write(b"go\n")
        assert (await shim.client.wait(timeout=20)).exit_code == 0
        assert await stream.everything() == b""
        os.kill(int(frame[1]), 9)


async def test_the_log_has_every_byte_of_a_fast_writer(launch: Launch) -> None:
    async with launch(script("seq 1 50000; seq 1 50000 >&2")) as shim:
        await shim.run()
        assert shim.logged() == "".join(f"{number}\n" for number in range(1, 50_001))
        assert shim.logged("stderr") == shim.logged()


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"nonsense\n", "InvalidArgument"),
        (b"[]\n", "InvalidArgument"),
        (b"{}\n", "InvalidArgument"),
        (b'{"op":"destroy"}\n', "InvalidArgument"),
        (b'{"op":["attach"]}\n', "InvalidArgument"),
        (b'{"op":"exec","exec_id":"nosuch"}\n', "NotFound"),
        (b'{"op":"attach","detach_keys":"ctrl-1"}\n', "InvalidArgument"),
        (b"x" * 70_000, "InvalidArgument"),
        (b"\xff\xfe\n", "InvalidArgument"),
    ],
)
async def test_a_bad_line_gets_an_error_and_the_end(launch: Launch, line: bytes, kind: str) -> None:
    async with launch(script("true")) as shim:
        reader, writer = await asyncio.open_unix_connection(str(shim.run_dir / "stdio.sock"))
        writer.write(line)
        answer = json.loads(await asyncio.wait_for(reader.readline(), 20))
        assert (answer["ok"], answer["kind"]) == (False, kind)
        assert answer["error"]
        writer.close()
        assert (await shim.client.state()).phase == "new"


async def test_a_line_may_come_in_pieces(launch: Launch) -> None:
    async with launch(script("cat")) as shim:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(shim.run_dir / "stdio.sock"))
            client.settimeout(20)
            for piece in (b'{"op":"attach",', b'"stdin":true,"stdout":true}', b"\nhello"):
                client.sendall(piece)
                assert (await shim.client.state()).phase == "new"
            assert client.recv(100) == b'{"ok": true, "tty": false}\n'
            client.shutdown(socket.SHUT_WR)
            await shim.run(open_stdin=True, stdin_once=True)
            assert client.recv(100) == b"\x01\x00\x00\x00\x00\x00\x00\x05hello"


async def test_follow_pokes_when_the_log_has_grown_and_ends_with_it(launch: Launch) -> None:
    async with launch(script("read x; echo one; read x; echo two; read x")) as shim:
        stream = await shim.attach()
        follower = await shim.dial(op="follow")
        assert follower.answer["ok"] is True
        await started(shim, open_stdin=True)
        seen = 0
        for _ in range(2):
            stream.writer.write(b"\n")
            while len(shim.records()) == seen:
                assert await asyncio.wait_for(follower.reader.readexactly(1), 20) == b"."
            seen = len(shim.records())
        stream.writer.write(b"\n")
        rest = await follower.everything()
        assert rest in (b"", b"."), "at most one poke was unread"
        assert shim.logged() == "one\ntwo\n"
        assert await (await shim.dial(op="follow")).everything() == b""


async def test_pokes_are_not_piled_up(launch: Launch) -> None:
    async with launch(script("for i in 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.01; done")) as shim:
        with socket.socket(socket.AF_UNIX) as follower:
            follower.connect(str(shim.run_dir / "stdio.sock"))
            follower.sendall(b'{"op":"follow"}\n')
            follower.settimeout(20)
            assert follower.recv(100).startswith(b'{"ok": true')
            await shim.run()
            # Nobody read a poke while nine lines were written.
            assert follower.recv(100) == b"."
            assert follower.recv(100) == b""


async def test_many_clients_come_and_go_without_a_trace(launch: Launch) -> None:
    async with launch(script("cat")) as shim:
        await started(shim, open_stdin=True)
        # The log's thread, and what it needs, come with the first output.
        first = await shim.attach()
        first.writer.write(b"first\n")
        await first.frame()
        await until(lambda: any(each.endswith("log.json") for each in descriptors(shim.pid)))
        before = len(descriptors(shim.pid))
        first.close()
        for number in range(60):
            stream = await shim.attach()
            if number % 3 == 0:
                stream.writer.write(b"hello\n")
                await stream.frame()
            if number % 2:
                stream.writer.write_eof()
            stream.close()
        (await shim.attach()).close()
        await until(lambda: len(descriptors(shim.pid)) <= before)
