"""The operations of the matrix: what makes each possible, it itself, and how to see that it is done."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from bulkhead.ctl.seed.push import push
from tests.support.engine import Engine, free_subnet
from tests.survival.matrix.host import CALL_SECONDS, LINES, Host, Refused, until
from tests.survival.test_image_kills import archive, trial_image

# For what a container that lives says.
AWAIT_SECONDS = 20.0
# Numbered lines in bursts, an exit code of its own; and one that says it at TERM.
_SPEAK = f"i=1; while [ $i -le {LINES} ]; do echo $i; i=$((i+1)); done"
SPEAKER = ("sh", "-c", f"{_SPEAK}; exit 7")
AT_TERM = ("sh", "-c", f"trap 'exit 7' TERM; {_SPEAK}; while :; do sleep 0.05; done")
SLEEPER = ("sh", "-c", f"{_SPEAK}; exec sleep 1000")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What one cell is about: `act` may be called again, `done` says what is not as it ought to be after."""

    act: Callable[[], object]
    done: Callable[[], list[str]]
    container: str = ""


Row = Callable[[Host], Subject]


def _complete(host: Host, name: str) -> list[str]:
    """Every line that its last run has printed; a start that was undone may have printed some before."""
    numbers = host.output(name).split()[-LINES:]
    return [] if numbers == [str(each) for each in range(1, LINES + 1)] else [f"{len(numbers)} of {LINES} lines"]


def _is(host: Host, name: str, **wanted: Any) -> list[str]:
    state = host.state(name)
    return [f"{key} is {state.get(key)}, not {value}" for key, value in wanted.items() if state.get(key) != value]


def _spoken(host: Host, name: str) -> None:
    """Wait until all its lines are out. Refused when they do not come."""
    _awaited(lambda: len(host.output(name).split()) >= LINES, f"lines of {name}")


def _awaited(what: Callable[[], bool], name: str) -> None:
    if not until(what, AWAIT_SECONDS):
        raise Refused(f"{name}: not there after {AWAIT_SECONDS:g} s")


def create(host: Host) -> Subject:
    name = host.name()
    body = {"Image": "busybox", "Cmd": ["true"], "Volumes": {"/data": {}}}
    runs = host.engine.instance.run / "containers"
    before = set(runs.glob("*"))

    def act() -> None:
        host.done("POST", f"/containers/create?name={name}", body, also=(409,))
        # Its shim is launched ahead, maybe after the answer, and given back when nobody has wanted it.
        until(lambda: bool(set(runs.glob("*")) - before), 1.0)
        until(lambda: not set(runs.glob("*")) - before, 5.0)

    return Subject(act=act, done=lambda: _is(host, name, Status="created"))


def start(host: Host) -> Subject:
    name = host.name()
    ports = {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]}}
    made = host.create(name, *SLEEPER, host=ports, ExposedPorts={"80/tcp": {}}, Volumes={"/data": {}})

    def done() -> list[str]:
        wrong = _is(host, name, Running=True)
        if not wrong:
            _spoken(host, name)
        return wrong or _complete(host, name)

    return Subject(act=lambda: host.done("POST", f"/containers/{name}/start", also=(304,)), done=done, container=made)


def start_late(host: Host) -> Subject:
    """Once the shim that was launched ahead has been given back."""
    subject = start(host)
    run = host.engine.instance.container_run(subject.container)
    until(run.exists, 1.0)  # it may come after the answer
    _awaited(lambda: not run.exists(), "an end of the shim")
    return subject


def run_to_end(host: Host) -> Subject:
    """Started, and ended by itself."""
    name = host.name()
    made = host.create(name, *SPEAKER)

    def act() -> None:
        if host.state(name)["Status"] == "created":
            host.done("POST", f"/containers/{name}/start", also=(304,))
        host.done("POST", f"/containers/{name}/wait")

    def done() -> list[str]:
        return [*_is(host, name, Status="exited", ExitCode=7), *_complete(host, name)]

    return Subject(act=act, done=done, container=made)


def run_and_vanish(host: Host) -> Subject:
    """--rm: started, ended, gone. A wait from before the start, as `docker run` has it, outlasts a start that fails."""
    name = host.name()
    made = host.create(name, "true", host={"AutoRemove": True}, Volumes={"/data": {}})

    def act() -> None:
        with _waiting(host, f"/containers/{name}/wait?condition=removed") as ended:
            try:
                host.done("POST", f"/containers/{name}/start", also=(304, 404))
            finally:
                ended()

    return Subject(act=act, done=lambda: ["it is still there"] if host.state(name) else [], container=made)


@contextlib.contextmanager
def _waiting(host: Host, path: str) -> Iterator[Callable[[], object]]:
    """An armed wait, and how to have its end. That comes, or the cell is red: nobody gives up before it is."""
    with contextlib.closing(http.client.HTTPConnection("engine")) as connection:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(3 * CALL_SECONDS)
        connection.sock.connect(str(host.engine.instance.docker_socket))
        connection.request("POST", path)
        yield connection.getresponse().read


def attach(host: Host) -> Subject:
    name = host.name()
    made = host.run(
        name, "sh", "-c", "while read line; do echo got $line; done; exit 7", OpenStdin=True, StdinOnce=False
    )
    count = iter(range(1000))

    def act() -> None:
        number = next(count)
        if number and not host.state(name)["Running"]:
            # It was killed, or its input ended with shim and supervisor: who attached starts it again.
            host.done("POST", f"/containers/{name}/start", also=(304,))
        word = f"word{number}"
        said = _attached(host.engine, name, f"{word}\n".encode(), f"got {word}\n".encode())
        if f"got {word}\n".encode() not in said:
            raise Refused(f"attached, and heard {said!r}")

    return Subject(act=act, done=lambda: _is(host, name, Running=True), container=made)


def _attached(engine: Engine, name: str, told: bytes, awaited: bytes) -> bytes:
    """What an attached client hears until it has heard `awaited`, or the end."""
    heard = b""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(CALL_SECONDS)
        client.connect(str(engine.instance.docker_socket))
        path = f"/containers/{name}/attach?stream=1&stdin=1&stdout=1&stderr=1"
        client.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n".encode() + told
        )
        while awaited not in heard and (piece := client.recv(65536)):
            heard += piece
    return heard


def exec_(host: Host) -> Subject:
    name = host.name()
    made = host.run(name, *SLEEPER)

    def act() -> None:
        begun = host.done(
            "POST", f"/containers/{name}/exec", {"Cmd": ["sh", "-c", "echo hello; exit 3"], "AttachStdout": True}
        )
        answer = host.call("POST", f"/exec/{begun['Id']}/start", {"Detach": False, "Tty": False})
        if b"hello\n" not in answer.body:
            raise Refused(f"exec: {answer.status} {answer.body!r}")
        told = host.done("GET", f"/exec/{begun['Id']}/json")
        if told["ExitCode"] != 3:
            raise Refused(f"exec: {told}")

    return Subject(act=act, done=lambda: _is(host, name, Running=True), container=made)


def exec_detached(host: Host) -> Subject:
    name = host.name()
    made = host.run(name, *SLEEPER)

    def act() -> None:
        begun = host.done("POST", f"/containers/{name}/exec", {"Cmd": ["true"]})
        host.done("POST", f"/exec/{begun['Id']}/start", {"Detach": True})

    return Subject(act=act, done=lambda: _is(host, name, Running=True), container=made)


def pause(host: Host) -> Subject:
    name = host.name()
    made = host.run(name, *SLEEPER)
    _spoken(host, name)

    def act() -> None:
        if not host.state(name)["Paused"]:
            host.done("POST", f"/containers/{name}/pause")

    return Subject(act=act, done=lambda: _is(host, name, Status="paused"), container=made)


def unpause(host: Host) -> Subject:
    name = host.name()
    made = host.run(name, *SLEEPER)
    host.done("POST", f"/containers/{name}/pause")

    def act() -> None:
        if host.state(name)["Paused"]:
            host.done("POST", f"/containers/{name}/unpause")

    return Subject(act=act, done=lambda: _is(host, name, Status="running"), container=made)


def update(host: Host) -> Subject:
    name = host.name()
    made = host.run(name, *SLEEPER, host={"Memory": 64 << 20})
    wanted = 96 << 20

    def done() -> list[str]:
        told = host.done("GET", f"/containers/{name}/json")["HostConfig"]["Memory"]
        return [] if told == wanted else [f"Memory is {told}"]

    body = {"Memory": wanted, "MemorySwap": wanted}
    return Subject(act=lambda: host.done("POST", f"/containers/{name}/update", body), done=done, container=made)


def stop(host: Host) -> Subject:
    name = host.name()
    made = host.run(name, *AT_TERM)
    _spoken(host, name)

    def done() -> list[str]:
        return [*_is(host, name, Status="exited", ExitCode=7), *_complete(host, name)]

    return Subject(
        act=lambda: host.done("POST", f"/containers/{name}/stop?t=10", also=(304,)), done=done, container=made
    )


def kill(host: Host) -> Subject:
    name = host.name()
    made = host.run(name, *SLEEPER)
    _spoken(host, name)

    def act() -> None:
        if host.state(name)["Running"]:
            host.done("POST", f"/containers/{name}/kill", also=(409,))
        host.done("POST", f"/containers/{name}/wait")

    def done() -> list[str]:
        return [*_is(host, name, Status="exited", ExitCode=137), *_complete(host, name)]

    return Subject(act=act, done=done, container=made)


def restart(host: Host) -> Subject:
    name = host.name()
    made = host.run(name, *AT_TERM)
    _spoken(host, name)
    return Subject(
        act=lambda: host.done("POST", f"/containers/{name}/restart?t=10"),
        done=lambda: _is(host, name, Running=True),
        container=made,
    )


def policy(host: Host) -> Subject:
    """Its restart policy brings it back."""
    name = host.name()
    script = "trap 'exit 3' USR1; echo up; while :; do sleep 0.05; done"
    made = host.run(name, "sh", "-c", script, host={"RestartPolicy": {"Name": "always"}})
    _awaited(lambda: "up" in host.output(name), f"the first word of {name}")

    def act() -> None:
        before = host.output(name).count("up")
        host.done("POST", f"/containers/{name}/kill?signal=USR1", also=(409,))
        _awaited(lambda: host.output(name).count("up") > before, f"{name}'s restart")

    return Subject(act=act, done=lambda: _is(host, name, Running=True), container=made)


def remove(host: Host) -> Subject:
    name = host.name()
    made = host.run(name, *SLEEPER, Volumes={"/data": {}})
    return Subject(
        act=lambda: host.done("DELETE", f"/containers/{name}?force=1&v=1", also=(404,)),
        done=lambda: ["it is still there"] if host.state(name) else [],
        container=made,
    )


def rename(host: Host) -> Subject:
    name, other = host.name(), host.name()
    made = host.run(name, *SLEEPER)

    def act() -> None:
        if not host.state(other):
            host.done("POST", f"/containers/{name}/rename?name={other}")

    def done() -> list[str]:
        return [*_is(host, other, Running=True), *(["the old name is still one"] if host.state(name) else [])]

    return Subject(act=act, done=done, container=made)


def _networks(host: Host, name: str) -> set[str]:
    return set(host.done("GET", f"/containers/{name}/json")["NetworkSettings"]["Networks"])


def _network(host: Host) -> str:
    """A new one. Its subnet is its own: while a fault has its bridge gone, another engine on this machine, such as that
    of the matrix's other part, would be right to choose what this one had chosen."""
    name = host.name()
    host.done("POST", "/networks/create", {"Name": name, "IPAM": {"Config": [{"Subnet": free_subnet()}]}})
    return name


def connect(host: Host) -> Subject:
    name, network = host.name(), _network(host)
    made = host.run(name, *SLEEPER)

    def act() -> None:
        if network not in _networks(host, name):
            host.done("POST", f"/networks/{network}/connect", {"Container": name})

    def done() -> list[str]:
        return [] if _networks(host, name) == {"bridge", network} else [f"it is on {_networks(host, name)}"]

    return Subject(act=act, done=done, container=made)


def disconnect(host: Host) -> Subject:
    name, network = host.name(), _network(host)
    made = host.run(name, *SLEEPER)
    host.done("POST", f"/networks/{network}/connect", {"Container": name})

    def act() -> None:
        if network in _networks(host, name):
            host.done("POST", f"/networks/{network}/disconnect", {"Container": name})

    def done() -> list[str]:
        return [] if _networks(host, name) == {"bridge"} else [f"it is on {_networks(host, name)}"]

    return Subject(act=act, done=done, container=made)


def network_create(host: Host) -> Subject:
    name = host.name()

    def act() -> None:
        host.done("POST", "/networks/create", {"Name": name, "CheckDuplicate": True}, also=(409,))

    def done() -> list[str]:
        found = [each for each in host.done("GET", "/networks") if each["Name"] == name]
        return [] if len(found) == 1 else [f"{len(found)} of them"]

    return Subject(act=act, done=done)


def network_remove(host: Host) -> Subject:
    name = _network(host)
    return Subject(
        act=lambda: host.done("DELETE", f"/networks/{name}", also=(404,)),
        done=lambda: ["it is there"] if host.call("GET", f"/networks/{name}").status == 200 else [],
    )


def volume_create(host: Host) -> Subject:
    name = host.name()
    return Subject(
        act=lambda: host.done("POST", "/volumes/create", {"Name": name}),
        done=lambda: [] if host.call("GET", f"/volumes/{name}").status == 200 else ["it is not there"],
    )


def volume_remove(host: Host) -> Subject:
    name = host.name()
    host.done("POST", "/volumes/create", {"Name": name})
    return Subject(
        act=lambda: host.done("DELETE", f"/volumes/{name}", also=(404,)),
        done=lambda: ["it is there"] if host.call("GET", f"/volumes/{name}").status == 200 else [],
    )


def prune(host: Host) -> Subject:
    names = [host.name() for _ in range(3)]
    for name in names:
        host.create(name, "true")
    return Subject(
        act=lambda: host.done("POST", "/containers/prune"),
        done=lambda: [f"{name} is there" for name in names if host.state(name)],
    )


def copy_in(host: Host) -> Subject:
    name = host.name()
    made = host.run(name, *SLEEPER)
    data = bytes(range(256)) * 256
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number in range(20):
            entry = tarfile.TarInfo(f"file{number}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))

    def act() -> None:
        raw(host, "PUT", f"/containers/{name}/archive?path=/tmp", out.getvalue())

    def done() -> list[str]:
        got = raw(host, "GET", f"/containers/{name}/archive?path=/tmp/file19")
        with tarfile.open(fileobj=io.BytesIO(got)) as tar:
            file = tar.extractfile("file19")
            return [] if file is not None and file.read() == data else ["the file is not what was copied"]

    return Subject(act=act, done=done, container=made)


# --- images


def raw(host: Host, method: str, path: str, body: bytes | None = None) -> bytes:
    """A call whose bodies are bytes; a refusal within a stream is one too."""
    connection = http.client.HTTPConnection("engine", timeout=CALL_SECONDS)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(CALL_SECONDS)
    with contextlib.closing(connection):
        connection.sock.connect(str(host.engine.instance.docker_socket))
        try:
            connection.request(method, path, body, {"X-Registry-Auth": "e30="})
            answer = connection.getresponse()
            said = answer.read()
        except http.client.HTTPException as error:
            raise Refused(str(error)) from error
    if answer.status >= 300 or b'"errorDetail"' in said:
        raise Refused(f"{method} {path}: {answer.status} {said[-300:]!r}")
    return said


def _has(host: Host, image: str) -> list[str]:
    return [] if host.call("GET", f"/images/{quote(image, safe='')}/json").status == 200 else [f"there is no {image}"]


def pull(host: Host) -> Subject:
    name, registry = host.name(), host.engine.instance.registry
    push(registry, name, "latest", trial_image())
    return Subject(
        act=lambda: raw(host, "POST", f"/images/create?fromImage={registry}/{name}&tag=latest"),
        done=lambda: _has(host, f"{registry}/{name}:latest"),
    )


def push_(host: Host) -> Subject:
    name, registry = host.name(), host.engine.instance.registry
    raw(host, "POST", "/images/load?quiet=1", archive(trial_image(), name))
    raw(host, "POST", f"/images/{name}/tag?repo={registry}/{name}&tag=latest")

    def done() -> list[str]:
        answer = host.call("GET", f"/distribution/{quote(f'{registry}/{name}:latest', safe='')}/json")
        return [] if answer.status == 200 else [f"the registry does not have it: {answer.status}"]

    return Subject(act=lambda: raw(host, "POST", f"/images/{registry}/{name}/push?tag=latest"), done=done)


def load(host: Host) -> Subject:
    name = host.name()
    data = archive(trial_image(), name)
    return Subject(act=lambda: raw(host, "POST", "/images/load?quiet=1", data), done=lambda: _has(host, name))


def commit(host: Host) -> Subject:
    name = host.name()
    made = host.run(name, *SLEEPER)
    _spoken(host, name)
    return Subject(
        act=lambda: host.done("POST", f"/commit?container={name}&repo={name}&tag=latest", {}),
        done=lambda: [*_has(host, name), *_is(host, name, Status="running")],
        container=made,
    )


def image_remove(host: Host) -> Subject:
    name = host.name()
    raw(host, "POST", "/images/load?quiet=1", archive(trial_image(), name))
    return Subject(
        act=lambda: host.done("DELETE", f"/images/{name}", also=(404,)),
        done=lambda: [] if _has(host, name) else ["it is still there"],
    )


def collect(host: Host) -> Subject:
    """The sweep of what no image needs any more; what the matrix itself needs is in use."""
    host.create(host.name(), "true")
    for _ in range(2):
        raw(host, "POST", "/images/load?quiet=1", archive(trial_image(), host.name()))
    filters = quote(json.dumps({"dangling": ["false"]}))

    def done() -> list[str]:
        found = [tag for each in host.done("GET", "/images/json") for tag in each["RepoTags"]]
        return [f"left: {tag}" for tag in found if "subject" in tag]

    return Subject(act=lambda: host.done("POST", f"/images/prune?filters={filters}"), done=done)


ROWS: Mapping[str, Row] = MappingProxyType(
    {
        "create": create,
        "start": start,
        "start late": start_late,
        "run": run_to_end,
        "run --rm": run_and_vanish,
        "attach": attach,
        "exec": exec_,
        "exec -d": exec_detached,
        "pause": pause,
        "unpause": unpause,
        "update": update,
        "stop": stop,
        "kill": kill,
        "restart": restart,
        "policy": policy,
        "rm": remove,
        "rename": rename,
        "connect": connect,
        "disconnect": disconnect,
        "network create": network_create,
        "network rm": network_remove,
        "volume create": volume_create,
        "volume rm": volume_remove,
        "prune": prune,
        "cp": copy_in,
        "pull": pull,
        "push": push_,
        "load": load,
        "commit": commit,
        "rmi": image_remove,
        "gc": collect,
    }
)
