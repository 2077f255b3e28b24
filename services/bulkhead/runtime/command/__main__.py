"""Entry point: global options, then one verb, its errors in the log and in the exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from bulkhead.errors import BulkheadError, InvalidArgument
from bulkhead.runtime.command.arguments import Arguments
from bulkhead.runtime.command.context import NAME, Context, default_root
from bulkhead.runtime.command.logs import Log
from bulkhead.runtime.command.verbs import GLOBAL, VERBS, Verb

_Action = Callable[[Context, Arguments], int]
_ROOTLESS = {"true": True, "false": False}


def main(before_end: Callable[[], None] | None = None) -> None:
    """The command; its exit status is the verb's, or of a process that it waited for."""
    status = run(os.path.basename(sys.argv[0]), sys.argv[1:])  # noqa: PTH119
    sys.stdout.flush()
    if before_end is not None:
        before_end()
    # Nothing is left to be torn down: an interpreter that ends in good order takes milliseconds for it.
    os._exit(status)


def run(program: str, words: Sequence[str]) -> int:
    """One command line's exit status."""
    program = NAME if program in ("__main__.py", "-c") else program
    log = Log(path="", kind="text", debug=False)
    try:
        given = GLOBAL.parse(words, mixed=False)
    except InvalidArgument as error:
        return _misused(log, program, "", str(error))
    if given.switch("version"):
        return _print(_usage().version(program))
    if given.switch("help") or not given.positional or given.positional[0] in ("help", "h"):
        return _help(program, given)
    name = given.positional[0]
    if name not in VERBS:
        log.error(f"No help topic for '{name}'")
        return 3
    try:
        context = _context(program, given)
        arguments = VERBS[name].options.parse(given.positional[1:], mixed=VERBS[name].mixed)
    except InvalidArgument as error:
        return _misused(log, program, name, str(error))
    return _verb(context, name, arguments)


def _context(program: str, given: Arguments) -> Context:
    choice = given.text("rootless") or "auto"
    if choice not in (*_ROOTLESS, "auto"):
        raise InvalidArgument(f'invalid value "{choice}" for flag -rootless')
    return Context(
        program=program,
        root=os.path.abspath(given.text("root") or default_root()),  # noqa: PTH100
        log=Log(path=given.text("log"), kind=given.text("log-format") or "text", debug=given.switch("debug")),
        systemd=given.switch("systemd-cgroup"),
        rootless=_ROOTLESS.get(choice, os.geteuid() != 0),
    )


def _verb(context: Context, name: str, arguments: Arguments) -> int:
    verb = VERBS[name]
    if arguments.switch("help"):
        return _print(_usage().of_verb(context.program, name))
    if problem := _wrong_count(verb, len(arguments.positional)):
        return _misused(context.log, context.program, name, f'{context.program}: "{name}" requires {problem}')
    try:
        return _action(verb)(context, arguments)
    except BulkheadError as error:
        context.log.error(f"{verb.introduction}{_bare(str(error))}")
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        context.log.error(f"{verb.introduction}cannot {name}{where}: {(error.strerror or str(error)).lower()}")
    except Exception as error:  # a fault of ours: whoever called reads the log's last line all the same
        context.log.error(f"{verb.introduction}cannot {name}: {type(error).__name__}: {error}")
    return verb.failure


def _action(verb: Verb) -> _Action:
    module, _, function = verb.place.partition(".")
    action: _Action = getattr(_module(module), function)
    return action


def _module(name: str) -> Any:
    """One beside this, without importlib: that costs more than most of them."""
    full = f"bulkhead.runtime.command.{name}"
    __import__(full)
    return sys.modules[full]


# Docker's introductions of the runtime's errors: whoever calls this command puts its own there.
_INTRODUCTIONS = (
    "failed to create shim task: OCI runtime create failed: ",
    "runc create failed: ",
    "OCI runtime exec failed: ",
    "exec failed: ",
)


def _bare(text: str) -> str:
    for introduction in _INTRODUCTIONS:
        text = text.removeprefix(introduction)
    return text.removesuffix(": unknown")


def _wrong_count(verb: Verb, count: int) -> str:
    if count < verb.least:
        return f"{'exactly' if verb.most == verb.least else 'a minimum of'} {verb.least} argument(s)"
    if verb.most is not None and count > verb.most:
        return f"{'exactly' if verb.most == verb.least else 'a maximum of'} {verb.most} argument(s)"
    return ""


def _help(program: str, given: Arguments) -> int:
    topic = given.positional[1:2]
    if topic and topic[0] in VERBS:
        return _print(_usage().of_verb(program, topic[0]))
    return _print(_usage().general(program))


def _misused(log: Log, program: str, name: str, problem: str) -> int:
    text = _usage().of_verb(program, name) if name else _usage().general(program)
    _print(f"Incorrect Usage.\n\n{text}")
    log.error(problem)
    return 1


def _usage() -> Any:
    return _module("usage")


def _print(text: str) -> int:
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    main()
