"""What each verb of `bulkhead` does; the parser is in `__main__`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

from bulkhead.ctl import health, purging, remains
from bulkhead.ctl.daemons import Daemons
from bulkhead.ctl.seed import seed as seed_images
from bulkhead.errors import Forbidden, Unavailable
from bulkhead.model.instance import SERVICES
from bulkhead.settings import Settings

READY_SECONDS = 30.0

Say = Callable[[str], None]


def up(settings: Settings, say: Say = print) -> int:
    """Start what does not run, wait until all four are ready, fill the registry, tell what to do next."""
    if os.geteuid() != 0:
        raise Forbidden("cannot start the engine: it makes namespaces, cgroups and mounts, which needs root")
    started = start(settings, SERVICES)
    say(f"started {', '.join(started)}" if started else "all four services run already")
    failed = seed(settings, say)
    say(_next_steps(settings))
    return failed


def start(settings: Settings, services: Iterable[str]) -> dict[str, subprocess.Popen[bytes]]:
    """Launch those of `services` that do not run and wait until all of `services` are ready; the launched.

    Raises Unavailable with the name, the reason and the last log lines of each that is not.
    """
    daemons = Daemons(settings)
    wanted = tuple(services)
    launched = {service: daemons.launch(service) for service in wanted if daemons.pid(service) is None}

    def died(service: str) -> bool:
        return service in launched and launched[service].poll() is not None

    late = asyncio.run(health.wait_ready(settings.instance, wanted, READY_SECONDS, died))
    if late:
        raise Unavailable("\n".join(_explain(daemons, service, reason) for service, reason in late.items()))
    return launched


def seed(settings: Settings, say: Say = print) -> int:
    """Put the embedded images into the registry; 1 when it could not take them."""
    told = settings.tables.get("registry", {})
    if told.get("access") or told.get("tls"):
        say("images left out: the registry wants a login, or a certificate trusted (docker login, docker push)")
        return 0
    try:
        for line in seed_images(settings.instance.registry):
            say(f"image {line}")
    except Unavailable as error:
        say(f"images left out: {error}")
        return 1
    return 0


def down(settings: Settings, say: Say = print) -> int:
    """Stop the four services; containers keep running."""
    outcome = Daemons(settings).stop()
    for service, what in outcome.items():
        say(f"{service} {what}")
    count = len(remains.running_containers(settings.instance))
    say(f"{'services are' if outcome else 'no service ran;'} down, {_containers(count)} running")
    return 0


def restart(settings: Settings, service: str, say: Say = print) -> int:
    """Stop one service in good order and start it again."""
    Daemons(settings).stop([service])
    start(settings, [service])
    say(f"{service} is ready as pid {Daemons(settings).pid(service)}")
    return 0


def kill(settings: Settings, service: str, say: Say = print) -> int:
    """SIGKILL one service."""
    pid = Daemons(settings).kill(service)
    say(f"{service} does not run" if pid is None else f"{service} (pid {pid}) killed")
    return 0 if pid is not None else 1


def status(settings: Settings, say: Say = print) -> int:
    """A line per service; 3 unless all are ready (the LSB code of a program that does not run)."""
    daemons = Daemons(settings)
    answers = asyncio.run(health.probe_all(settings.instance))
    for service, problem in answers.items():
        pid = daemons.pid(service)
        state = "ready" if problem is None else problem
        say(f"{service:<11} {f'pid {pid}, up {_uptime(pid)}' if pid else 'not running':<26} {state}")
    say(f"{'containers':<11} {len(remains.running_containers(settings.instance))} running")
    say(f"{'engine':<11} unix://{settings.instance.docker_socket}")
    say(f"{'registry':<11} http://{settings.instance.registry}")
    return 0 if all(problem is None for problem in answers.values()) else 3


def logs(settings: Settings, service: str | None, follow: bool, lines: int) -> int:
    """Show the services' logs; does not return when it follows."""
    daemons = Daemons(settings)
    files = [str(daemons.log(name)) for name in ([service] if service else SERVICES) if daemons.log(name).exists()]
    if not files:
        raise Unavailable(f"cannot show logs: none in {settings.instance.run / 'log'}")
    command = ["tail", "-n", str(lines), *(["-F"] if follow else []), *files]
    sys.stdout.flush()
    return subprocess.run(command, check=False).returncode


def purge(settings: Settings, say: Say = print) -> int:
    """Kill containers and services, remove every trace of this installation."""
    for line in purging.purge(settings):
        say(line)
    return 0


def _explain(daemons: Daemons, service: str, reason: str) -> str:
    lines = daemons.last_lines(service)
    tail = "\n".join(f"    {line}" for line in lines) or "    (its log is empty)"
    return f"{service}: {reason}; the end of {daemons.log(service)}:\n{tail}"


def _containers(count: int) -> str:
    return "1 container keeps" if count == 1 else f"{count} containers keep"


def _uptime(pid: int) -> str:
    """How long a process has lived, from field 22 of its stat (clock ticks since boot)."""
    try:
        started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except FileNotFoundError:
        return "-"
    seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
    return str(timedelta(seconds=int(seconds)))


def _next_steps(settings: Settings) -> str:
    host = f"unix://{settings.instance.docker_socket}"
    return f"""
Bulkhead is up: {host}

    export DOCKER_HOST={host}
    docker run --rm hello-world
    docker run -it busybox

Registry: http://{settings.instance.registry}    Status: make status    Stop: make down (containers keep running)"""
