"""`bulkhead`, or `python -m bulkhead.ctl`: the operator's one command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bulkhead import __version__, settings
from bulkhead.ctl import commands, demo, failpoints, fsck
from bulkhead.ctl.doctor import doctor
from bulkhead.errors import BulkheadError
from bulkhead.model.instance import SERVICES
from bulkhead.settings import Settings

Verb = Callable[[Settings], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the process's exit status."""
    options = _parser().parse_args(argv)
    try:
        told = replace(settings.load(path=options.config), arguments=options)
        verb: Verb = options.verb
        return verb(told)
    except BulkheadError as error:
        print(f"bulkhead: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bulkhead", description="Start, stop, show and remove a container engine.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file (default /etc/bulkhead/config.toml)")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    for name, verb in _PLAIN.items():
        verbs.add_parser(name, help=_first_line(verb), description=_first_line(verb)).set_defaults(verb=verb)
    for name, one in {"restart": commands.restart, "kill": commands.kill}.items():
        command = verbs.add_parser(name, help=_first_line(one), description=_first_line(one))
        command.add_argument("service", choices=SERVICES)
        command.set_defaults(verb=_on_service(one))
    command = verbs.add_parser("fsck", help=_first_line(fsck.fsck), description=_first_line(fsck.fsck))
    command.add_argument("--repair", action="store_true", help="fetch or unpack again what is bad, drop what cannot be")
    command.set_defaults(verb=lambda told: fsck.fsck(told, told.arguments.repair))
    _add_doctor(verbs.add_parser("doctor", help=_first_line(doctor), description=_first_line(doctor)))
    _add_failpoints(
        verbs.add_parser("failpoints", help="List failpoints, or set them.", description=failpoints.__doc__)
    )
    _add_logs(verbs.add_parser("logs", help="Show the services' logs.", description="Show the services' logs."))
    return parser


def _add_doctor(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--repair", action="store_true", help="remove what no record owns, close what is open to others"
    )
    command.add_argument("--json", action="store_true", help="the report as one JSON object")
    command.set_defaults(verb=lambda told: doctor(told, repair=told.arguments.repair, as_json=told.arguments.json))


def _add_failpoints(command: argparse.ArgumentParser) -> None:
    command.add_argument("--set", metavar="SETTING", help="such as manager.start.plugged=1*kill; empty sets none")
    command.set_defaults(verb=_failpoints)


def _failpoints(told: Settings) -> int:
    text: str | None = told.arguments.set
    return failpoints.show(told) if text is None else failpoints.put(told, text)


def _add_logs(command: argparse.ArgumentParser) -> None:
    command.add_argument("service", choices=SERVICES, nargs="?")
    command.add_argument("-f", "--follow", action="store_true", help="go on as lines are written")
    command.add_argument("-n", "--lines", type=int, default=20, metavar="COUNT", help="of each service (default 20)")
    command.set_defaults(verb=_logs)


def _logs(told: Settings) -> int:
    return commands.logs(told, told.arguments.service, told.arguments.follow, told.arguments.lines)


def _on_service(one: Callable[[Settings, str], int]) -> Verb:
    return lambda told: one(told, told.arguments.service)


def _first_line(verb: Callable[..., int]) -> str:
    return (verb.__doc__ or "").splitlines()[0]


_PLAIN: dict[str, Verb] = {
    "up": commands.up,
    "down": commands.down,
    "status": commands.status,
    "seed": commands.seed,
    "demo": demo.demo,
    "purge": commands.purge,
}


if __name__ == "__main__":
    sys.exit(main())
